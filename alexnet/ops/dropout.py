"""Dropout of the same units on every mesh."""

import jax
import jax.numpy as jnp
from jax import lax


def dropout(
    x: jax.Array,
    *,
    rate: float,
    kind: str,
    keys: jax.Array | None,
    tower_axis: str | None = None,
) -> jax.Array:
  """Dropout with one random key per example.

  The mask is drawn for the width of both towers and each device takes its own
  part, so the mask is the same on every mesh.

  Args:
    x: [batch, ..., features], this device's share of the features.
    rate: probability of dropping a unit.
    kind: 'paper' multiplies by 1 - rate in testing (paper §4.2); 'inverted'
      divides by 1 - rate in training instead.
    keys: [batch] random keys in training, None in testing.
    tower_axis: the mesh axis the features are split over, if any.

  Returns:
    An array of x's shape and dtype.
  """
  keep = 1.0 - rate
  if rate == 0:
    return x
  if keys is None:
    return x * jnp.asarray(keep, x.dtype) if kind == 'paper' else x
  features = x.shape[-1]
  width = features * (lax.axis_size(tower_axis) if tower_axis else 1)
  shape = (*x.shape[1:-1], width)
  mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, shape))(keys)
  if tower_axis:
    start = lax.axis_index(tower_axis) * features
    mask = lax.dynamic_slice_in_dim(mask, start, features, axis=-1)
  kept = x if kind == 'paper' else x / jnp.asarray(keep, x.dtype)
  return jnp.where(mask, kept, jnp.zeros((), x.dtype))
