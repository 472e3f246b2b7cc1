"""Storage of arrays on CPUs, and their split into groups of channels.

XLA recomputes slices and element-wise operations for each consumer unless they
are stored.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

Padding = tuple[int, int]


def stored(x: jax.Array) -> jax.Array:
  """Returns x, stored as a separate row-major array.

  An optimization_barrier does not suffice: on CPUs, XLA removes it before it
  fuses operations.
  """
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@jax.custom_vjp
def gradient_stored(x: jax.Array) -> jax.Array:
  """Returns x; its gradient is `stored`."""
  return x


gradient_stored.defvjp(lambda x: (x, None), lambda _, g: (stored(g),))


def in_groups(
    function: Callable[..., jax.Array], groups: int
) -> Callable[..., jax.Array]:
  """Applies a function of arrays to each group of their last axes."""
  if groups == 1:
    return function

  def apply(*arrays):
    parts = zip(*(jnp.split(array, groups, axis=-1) for array in arrays))
    return jnp.concatenate([function(*part) for part in parts], axis=-1)

  return apply


def pad_axis(
    x: jax.Array, axis: int, before: int, after: int, value: float = 0.0
) -> jax.Array:
  """Pads an axis with elements of a value, before and after."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (before, after, 0)
  return lax.pad(x, jnp.asarray(value, x.dtype), config)
