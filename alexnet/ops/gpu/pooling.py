"""Max pooling whose gradient needs no scatter."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Largest number of positions in a window that int8 can index.
MOST_PLACES = 128


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """See `ops.pooling.max_pool`; windows have at most MOST_PLACES pixels.

  The gradient of reduce_window is a scatter by atomic additions, whose order
  varies. Here the forward pass stores the position of each maximum in its
  window as int8 (the first of equals, row by row); the gradient reads these
  positions instead of the maps.
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
    largest = lax.max(largest, part)  # Propagates NaN.
  return largest, winner


def _backward(window, stride, sides, winner, g):
  total = 0.0
  for place in range(window**2):
    part = jnp.where(winner == place, g, 0).astype(jnp.float32)
    # Pixels of one position are `stride` apart. A negative border removes the
    # pixels of windows beyond the edge of the image.
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
  """Yields an array of pooled size per position of a window, row by row."""
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
