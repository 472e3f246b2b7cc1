"""Max pooling that is fast in XLA's CPU backend."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops.cpu.layout import pad_axis, stored


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
  """See `ops.pooling.max_pool`; pools along the height, then along the width.

  This takes half the time of a square window. Slices would be faster still, but
  XLA would compute them, and the layer before, again for each consumer of the
  result: 0.4 s of a step of 128 images for conv2's kernel gradient.
  """
  pooled = x.astype(_wide(x.dtype))
  for axis in (1, 2):
    sizes, strides, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
    sizes[axis], strides[axis] = window, stride
    padding[axis] = (0, _overhang(x.shape[axis], window, stride))
    pooled = lax.reduce_window(
        pooled, -jnp.inf, lax.max, sizes, strides, padding
    )
  return pooled.astype(x.dtype)


def _max_pool_forward(x, window, stride):
  return max_pool(x, window, stride), x


def _max_pool_backward(window, stride, x, g):
  # Element-wise, because the gradient of reduce_window is a scatter, which runs
  # on one core. Of equal pixels, the one in the first column, and there in the
  # first row, gets the whole gradient.
  wide = x.astype(_wide(x.dtype))
  if x.dtype == jnp.bfloat16:
    g = stored(g)  # Otherwise each consumer rounds it, in twice the time.
  slices = _slices(wide, 1, window, stride)
  rows = stored(functools.reduce(jnp.maximum, slices))
  g = stored(_gradient_along(2, rows, g.astype(wide.dtype), window, stride))
  return (_gradient_along(1, wide, g, window, stride).astype(x.dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _wide(dtype):
  # Element-wise bfloat16 is emulated, in five times the time of float32.
  return jnp.float32 if dtype == jnp.bfloat16 else dtype


def _overhang(size, window, stride):
  windows = max(0, -(-(size - window) // stride)) + 1
  return max(0, (windows - 1) * stride + window - size)


def _slices(x, axis, window, stride):
  """Returns an array of pooled size for each position in the window."""
  overhang = _overhang(x.shape[axis], window, stride)
  x = pad_axis(x, axis, 0, overhang, -jnp.inf)
  end = x.shape[axis] - window + 1
  return [
      lax.slice_in_dim(x, i, i + end, stride, axis) for i in range(window)
  ]


def _gradient_along(axis, x, g, window, stride):
  """Returns the gradient of x from that of its maxima along an axis, g."""
  slices = _slices(x, axis, window, stride)
  largest = functools.reduce(jnp.maximum, slices)
  parts, taken = [], False
  for part in slices:
    first = (part == largest) & ~taken
    taken |= first
    parts.append(jnp.where(first, g, jnp.zeros((), g.dtype)))
  # Pixels whose indices have the same remainder by the stride are adjacent in
  # `parts`; those of all remainders are then interleaved.
  size, pooled = x.shape[axis], g.shape[axis]
  length = pooled + (window - 1) // stride
  rests = [
      sum(
          pad_axis(parts[i], axis, i // stride, length - pooled - i // stride)
          for i in range(rest, window, stride)
      )
      for rest in range(stride)
  ]
  shape = (*x.shape[:axis], length * stride, *x.shape[axis + 1 :])
  pixels = jnp.stack(rests, axis + 1).reshape(shape)
  return lax.slice_in_dim(pixels, 0, size, 1, axis)
