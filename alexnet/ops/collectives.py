"""Communication between the devices of a mesh: gathers, sums and means."""

import collections

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops.reductions import sum_of_squares


def with_equal_varying_axes(*arrays):
  """Marks all arrays as varying over the union of their varying mesh axes.

  Inside `jax.shard_map` a custom_vjp's gradient may not vary over more axes
  than its operand. The transpose of this cast sums the gradient over the
  additional axes.
  """
  varying = [varying_axes(jax.typeof(array)) for array in arrays]
  union = frozenset().union(*varying)
  return tuple(
      lax.pcast(array, tuple(sorted(union - axes)), to='varying')
      if union - axes
      else array
      for array, axes in zip(arrays, varying)
  )


def varying_axes(aval: jax.core.ShapedArray) -> frozenset[str]:
  """Returns the mesh axes over which a value varies, given its `jax.typeof`."""
  # JAX renames this attribute between the supported releases.
  if hasattr(aval, 'vma'):
    return aval.vma
  return aval.manual_axis_type.varying


def mean(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Computes the mean over the devices along mesh axes, in `jax.shard_map`.

  Unlike `lax.pmean`, it accepts axes that x does not vary over, such as the
  towers for a layer that has no weights before it.

  Args:
    x: the value on this device.
    axes: mesh axes; x may vary over some, all or none of them.
  """
  varying = varying_axes(jax.typeof(x))
  axes = tuple(axis for axis in axes if axis in varying)
  return lax.pmean(x, axes) if axes else x


def gather_features(x: jax.Array, tower_axis: str) -> jax.Array:
  """Gathers all towers: [..., features] to [..., features * towers].

  XLA stores the gathered axis first, so gathering along the last axis would
  transpose input and output. A new first axis, joined afterwards, avoids this.
  """
  towers = lax.all_gather(x, tower_axis)
  return jnp.concatenate(list(towers), axis=-1)


def devices_of(features: int, tower_axis: str | None) -> int:
  """Returns how many devices share a layer; 1 if they cannot divide it.

  A head with an odd number of classes is not divided: every device computes all
  of it.
  """
  n = lax.axis_size(tower_axis) if tower_axis else 1
  return n if features % n == 0 else 1


def input_and_groups(
    x: jax.Array, *, reads: str, towers: int, devices: int,
    tower_axis: str | None,
) -> tuple[jax.Array, int]:
  """Returns the input of this device's outputs, and its number of groups.

  Args:
    x: [..., channels], this device's share of the channels.
    reads: 'image', 'own' or 'both'; see models/layers.py.
    towers: number of towers of the network.
    devices: number of devices that share the layer.
    tower_axis: mesh axis the towers are split over, if any.
  """
  if reads == 'own':
    return x, towers // devices
  if reads == 'both' and tower_axis:
    x = gather_features(x, tower_axis)
  return x, 1


def global_norm(gradients):
  """Computes the L2 norm of gradients that are split over all devices."""
  # Gradients that the mesh does not divide are replicated: not summed over it.
  parts = collections.defaultdict(float)
  for leaf in jax.tree.leaves(gradients):
    part = sum_of_squares(leaf)
    parts[varying_axes(jax.typeof(part))] += part
  # Sorted, since the order of a set differs between processes and would make
  # their programs differ.
  return jnp.sqrt(
      sum(lax.psum(part, tuple(sorted(axes))) for axes, part in parts.items())
  )
