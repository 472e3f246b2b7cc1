"""How XLA is told to store arrays on CPUs.

It computes slices and element-wise operations anew for each reader unless they
are stored.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

Padding = tuple[int, int]


def stored(x: jax.Array) -> jax.Array:
  """The same, but as an array of its own, row-major.

  An optimization_barrier would say so too, but is dropped on a CPU before
  operations are fused.
  """
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def pad_axis(
    x: jax.Array, axis: int, before: int, after: int, value: float = 0.0
) -> jax.Array:
  """With more elements of a value before and after those along an axis."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (before, after, 0)
  return lax.pad(x, jnp.asarray(value, x.dtype), config)
