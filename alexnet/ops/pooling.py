"""Max and average pooling with overlapping windows, counted by ceiling."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops.cpu import pooling as cpu_pooling


def pooled_size(size: int, window: int, stride: int) -> int:
  """Number of windows along an axis: by ceiling, so the last may overhang."""
  return max(0, -(-(size - window) // stride)) + 1


def _overhang(x, window, stride):
  """Padding behind x's pixels that makes the last windows whole."""
  rows = [
      (0, max(0, (pooled_size(s, window, stride) - 1) * stride + window - s))
      for s in x.shape[1:3]
  ]
  return [(0, 0), *rows, (0, 0)]


def max_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
  """Maximum over window x window pixels, every `stride` pixels (paper §3.4).

  Windows are counted by ceiling (run #147): the last one may hang over the
  edge and then covers fewer pixels.

  Args:
    x: [batch, height, width, channels].
    window: side of a window in pixels (z in the paper).
    stride: distance of two windows in pixels (s in the paper), <= window.

  Returns:
    [batch, pooled height, pooled width, channels], see `pooled_size`.

  Raises:
    ValueError: stride < 1 or larger than the window, which would skip pixels.
  """
  if not 1 <= stride <= window:
    raise ValueError(
        f'max_pool got {window=}, {stride=}: wanted 1 <= stride <= window'
    )
  return _max_pool(x, window, stride)


def _max_pool_plain(x, window, stride):
  sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
  padding = _overhang(x, window, stride)
  return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, window, stride):
  return lax.platform_dependent(
      x,
      cpu=lambda x: cpu_pooling.max_pool(x, window=window, stride=stride),
      default=lambda x: _max_pool_plain(x, window, stride),
  )


def _max_pool_forward(x, window, stride):
  return _max_pool(x, window, stride), x


def _max_pool_backward(window, stride, x, g):
  def plain(x, g):
    pool = lambda x: _max_pool_plain(x, window, stride)
    return jax.vjp(pool, x)[1](g)[0]

  gradient = lax.platform_dependent(
      x,
      g,
      cpu=lambda x, g: cpu_pooling.max_pool_gradient(
          x, g, window=window, stride=stride
      ),
      default=plain,
  )
  return (gradient,)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
  """Mean over window x window pixels, every `stride` pixels.

  A window that hangs over the edge is the mean of the pixels that exist, as in
  cuda-convnet. Arguments and result as for `max_pool`.
  """
  padding = _overhang(x, window, stride)

  def window_sum(x):
    return lax.reduce_window(
        x, 0.0, lax.add, (1, window, window, 1), (1, stride, stride, 1), padding
    )

  return window_sum(x) / window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
