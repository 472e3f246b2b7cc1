"""What crosses the devices of a mesh: gathered features, sums and means."""

import collections

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops.reductions import sum_of_squares


def with_equal_varying_axes(*arrays):
  """Marks all arrays as varying over every mesh axis that one varies over.

  Inside `jax.shard_map` the rules of a custom_vjp see operands as they are;
  a gradient that varies over more axes than its operand is a type error. The
  cast's own transpose is the sum over those axes that the operand needs.
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
  """The mesh axes over which a value differs, of `jax.typeof` of it."""
  # jax renames this attribute between the releases that we support.
  if hasattr(aval, 'vma'):
    return aval.vma
  return aval.manual_axis_type.varying


def mean(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """The mean over the devices along mesh axes, inside `jax.shard_map`.

  What does not vary over an axis is its own mean over it: a layer that no
  weights come before, such as a thinned copy of the images, is the same on both
  towers. `lax.pmean` refuses such an axis.

  Args:
    x: this device's.
    axes: of the mesh; x may vary over some, all or none of them.
  """
  varying = varying_axes(jax.typeof(x))
  axes = tuple(axis for axis in axes if axis in varying)
  return lax.pmean(x, axes) if axes else x


def gather_features(x: jax.Array, tower_axis: str) -> jax.Array:
  """The features of all towers: [..., features] to [..., features * towers].

  Gathered along a new first axis and then joined: XLA stores what it gathers
  with the gathered axis first, so gathering along the last one would transpose
  the input and the output.
  """
  towers = lax.all_gather(x, tower_axis)
  return jnp.concatenate(list(towers), axis=-1)


def devices_of(features: int, tower_axis: str | None) -> int:
  """Devices that share a layer; 1 if they cannot divide its features.

  The latter happens to a head whose class count is odd: every device then
  computes all of it.
  """
  n = lax.axis_size(tower_axis) if tower_axis else 1
  return n if features % n == 0 else 1


def input_and_groups(
    x: jax.Array, *, reads: str, towers: int, devices: int,
    tower_axis: str | None,
) -> tuple[jax.Array, int]:
  """The input that this device's outputs read, and in how many groups.

  Args:
    x: [..., channels], this device's share of them.
    reads: see models/layers.py.
    towers: of the network.
    devices: that share the layer.
    tower_axis: mesh axis the towers are split over, if any.
  """
  if reads == 'own':
    return x, towers // devices
  if reads == 'both' and tower_axis:
    x = gather_features(x, tower_axis)
  return x, 1


def global_norm(gradients):
  """The root of the sum of squares, of the parts on all devices."""
  # What the mesh does not divide is on each device.
  parts = collections.defaultdict(float)
  for leaf in jax.tree.leaves(gradients):
    part = sum_of_squares(leaf)
    parts[varying_axes(jax.typeof(part))] += part
  # In one order: that of a set is another one in each process, and so would be
  # the program.
  return jnp.sqrt(
      sum(lax.psum(part, tuple(sorted(axes))) for axes, part in parts.items())
  )
