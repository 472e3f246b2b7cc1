"""Max and average pooling with overlapping windows (ceil mode)."""

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops import forms
from alexnet.ops.cpu import pooling as cpu_pooling
from alexnet.ops.gpu import pooling as gpu_pooling


def pooled_size(size: int, window: int, stride: int) -> int:
  """Returns the number of windows along an axis; the last may overhang."""
  return max(0, -(-(size - window) // stride)) + 1


def max_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
  """Maximum over window x window pixels, every `stride` pixels (paper §3.4).

  The number of windows is rounded up (run #147): the last one may extend over
  the edge and then covers fewer pixels.

  Args:
    x: [batch, height, width, channels].
    window: side of the windows in pixels (z in the paper).
    stride: distance between windows in pixels (s in the paper), <= window.

  Returns:
    [batch, pooled height, pooled width, channels], see `pooled_size`.

  Raises:
    ValueError: stride < 1, or stride > window, which would skip pixels.
  """
  if not 1 <= stride <= window:
    raise ValueError(
        f'max_pool got {window=}, {stride=}: expected 1 <= stride <= window'
    )

  def plain(x):
    return _reduced(x, -jnp.inf, lax.max, window, stride)

  def cpu(x):
    return cpu_pooling.max_pool(x, window, stride)

  def gpu(x):
    return gpu_pooling.max_pool(x, window, stride)

  fits = window**2 <= gpu_pooling.MOST_PLACES
  return forms.chosen(x, plain=plain, cpu=cpu, gpu=gpu if fits else None)


def average_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
  """Mean over window x window pixels, every `stride` pixels.

  A window that extends over the edge averages the pixels inside the image, as
  in cuda-convnet. For arguments and result see `max_pool`.
  """
  sums = _reduced(x, 0.0, lax.add, window, stride)
  ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
  return sums / _reduced(ones, 0.0, lax.add, window, stride)


def _reduced(x, initial, operation, window, stride):
  """Reduces each window by `operation`; the last ones may overhang."""
  overhang = [
      (0, max(0, (pooled_size(s, window, stride) - 1) * stride + window - s))
      for s in x.shape[1:3]
  ]
  return lax.reduce_window(
      x,
      initial,
      operation,
      (1, window, window, 1),
      (1, stride, stride, 1),
      [(0, 0), *overhang, (0, 0)],
  )
