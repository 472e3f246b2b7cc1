"""Max pooling whose gradient needs no scatter."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Places of a window that int8 can number.
MOST_PLACES = 128


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """As of `ops.pooling.max_pool`, of windows of at most MOST_PLACES pixels.

  The gradient of reduce_window is a scatter by atomic additions, in an order
  that is another one each time. Here the forward pass notes in int8 which
  place of its window each maximum has, the first one of equals, row by row; the
  gradient reads that instead of the maps.
  """
  return _max_pool(x, window, stride, x.shape[1:3])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, stride, sides):
  return _forward(x, window, stride, sides)[0]


def _forward(x, window, stride, sides):
  largest, *parts = _places(x, window, stride, sides)
  winner = jnp.zeros(largest.shape, jnp.int8)
  for place, part in enumerate(parts, 1):
    winner = jnp.where(part > largest, jnp.int8(place), winner)
    largest = lax.max(largest, part)  # Also of what is not a number.
  return largest, winner


def _backward(window, stride, sides, winner, g):
  total = 0.0
  for place in range(window**2):
    part = jnp.where(winner == place, g, 0).astype(jnp.float32)
    # Between two pixels of a place lie those of others. An end below zero cuts
    # off what hung over the edge.
    borders = [
        (first, side - first - (count - 1) * stride - 1, stride - 1)
        for first, side, count in zip(
            divmod(place, window), sides, g.shape[1:3]
        )
    ]
    zero = jnp.zeros((), jnp.float32)
    total += lax.pad(part, zero, [(0, 0, 0), *borders, (0, 0, 0)])
  return (total.astype(g.dtype),)


_max_pool.defvjp(_forward, _backward)


def _places(x, window, stride, sides):
  """What each place of a window sees, row by row: arrays of pooled size."""
  counts = [max(0, -(-(side - window) // stride)) + 1 for side in sides]
  borders = [
      (0, max(0, (count - 1) * stride + window - side), 0)
      for count, side in zip(counts, sides)
  ]
  lowest = jnp.asarray(-jnp.inf, x.dtype)
  x = lax.pad(x, lowest, [(0, 0, 0), *borders, (0, 0, 0)])
  ends = [(count - 1) * stride + 1 for count in counts]
  for row in range(window):
    for column in range(window):
      yield lax.slice(
          x,
          (0, row, column, 0),
          (len(x), row + ends[0], column + ends[1], x.shape[3]),
          (1, stride, stride, 1),
      )
