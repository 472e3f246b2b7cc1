"""Direct convolutions that are fast in XLA's CPU backend.

In float32, Eigen computes them. XLA would compute bfloat16 convolutions in
float32, so they are matrix products here. winograd.py has convolutions with
fewer multiplications.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops.cpu.layout import Padding, stored
from alexnet.ops.cpu.matmul import matrix_product

# Pixels (batch * height * width) below which a product's overhead takes as long
# as the product; measured with 1 and 4 images of conv3 to conv5 (169 pixels).
FEW = 1024


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_eigen(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: tuple[Padding, Padding],
) -> jax.Array:
  """Computes a convolution by Eigen, which also computes its gradients.

  XLA uses Eigen only for the standard order of axes. It transposes gradients to
  that order, but not inside a loop, so they are transposed here: a step of 128
  images in four parts takes 1.3 s instead of 16.0.

  Args:
    x: [batch, height, width, channels] float32.
    kernel: [rows, columns, channels, features] float32.
    stride: stride in pixels, along both axes.
    padding: zeros (before, after) of rows and of columns.

  Returns:
    [batch, out_height, out_width, features] float32.
  """
  return _eigen(x, kernel, padding, window_strides=[stride] * 2)


def _eigen(x, kernel, padding, **arguments):
  return lax.conv_general_dilated(
      x,
      kernel,
      padding=padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      **{'window_strides': (1, 1), **arguments},
  )


def _direct_forward(x, kernel, stride, padding):
  return by_eigen(x, kernel, stride, padding), (x, kernel)


def _direct_backward(stride, padding, saved, g):
  x, kernel = saved
  of_x, of_kernel = [], []  # Paddings for the two gradients.
  for size, taps, out, (before, _) in zip(
      x.shape[1:3], kernel.shape[:2], g.shape[1:3], padding
  ):
    reach = (out - 1) * stride + taps - size - before
    of_x.append((taps - 1 - before, taps - 1 - reach))
    of_kernel.append((before, reach))
  mirrored = stored(kernel[::-1, ::-1].swapaxes(2, 3))
  x_gradient = _eigen(g, mirrored, of_x, lhs_dilation=[stride] * 2)
  # The gradient sums over images, so batch and channels change places.
  kernel_gradient = _eigen(
      stored(x.transpose(3, 1, 2, 0)),
      stored(g.transpose(1, 2, 0, 3)),
      of_kernel,
      rhs_dilation=[stride] * 2,
  )
  return stored(x_gradient), stored(kernel_gradient.transpose(1, 2, 0, 3))


by_eigen.defvjp(_direct_forward, _direct_backward)


def by_products(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding
) -> jax.Array:
  """Computes a convolution by matrix products; rounds float32 sums once.

  Args:
    x: [batch, height, width, channels] bfloat16.
    kernel: [size, size, channels, features] bfloat16 or float32. A float32
      kernel is rounded first; its gradient is not rounded.
    stride: stride in pixels, along both axes.
    padding: zeros (before, after), along both axes.

  Returns:
    [batch, out_height, out_width, features] bfloat16.
  """
  if stride > 1:
    dtype = x.dtype
    x, kernel = blocks(x, kernel, stride, padding)
    x, padding = x.astype(dtype), (0, 0)
  return _convolution(x, kernel, padding)


def blocks(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
  """Rewrites a convolution as one of stride 1 over stride x stride blocks.

  conv1's kernel of 11 x 11 pixels with 3 channels becomes one of 3 x 3 blocks
  with 48 channels.

  Args:
    x: [batch, height, width, channels] bfloat16 or float32.
    kernel: [size, size, channels, features].
    stride: stride in pixels, along both axes.
    padding: zeros (before, after), along both axes.

  Returns:
    float32 images, and a kernel of the given dtype, whose convolution with
    stride 1 and no padding gives the same result.
  """
  size = kernel.shape[0]
  in_blocks = -(-size // stride)
  grow = [(0, in_blocks * stride - size)] * 2
  kernel = jnp.pad(kernel, (*grow, (0, 0), (0, 0)))
  # Pixels that no kernel reaches are cut off.
  out = [(s + sum(padding) - size) // stride + 1 for s in x.shape[1:3]]
  whole = [(n - 1 + in_blocks) * stride for n in out]
  rows, columns = (
      (padding[0], n - s - padding[0], 0) for n, s in zip(whole, x.shape[1:3])
  )
  # With flattened rows, each row of a block is copied in one run, in 0.6 of the
  # time. Images are float32, because bfloat16 would take six times as long.
  batch, height, width, channels = x.shape
  x = _widened(x.reshape(batch, height, width * channels))
  columns = tuple(channels * n for n in columns)
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns))
  x = x.reshape(batch, whole[0], whole[1], channels)
  return _into_blocks(x, 1, stride), _into_blocks(kernel, 0, stride)


def _widened(rows):
  """Returns rows as float32; bfloat16 rows are rounded first."""
  if rows.dtype == jnp.bfloat16:
    # XLA rounds short runs together, but longer rows number by number, which
    # takes nine times as long.
    run = math.gcd(rows.shape[-1], 96)
    rows = stored(rows.reshape(*rows.shape[:-1], -1, run)).reshape(rows.shape)
  return rows.astype(jnp.float32)


def _into_blocks(array, axis, stride):
  """Turns blocks of stride x stride pixels into pixels with more channels.

  Args:
    array: [..., rows, columns, channels, ...].
    axis: index of the axis of rows.
    stride: side of a block; divides rows and columns.

  Returns:
    [..., rows / stride, columns / stride, stride ** 2 * channels, ...].
  """
  before, after = array.shape[:axis], array.shape[axis + 3 :]
  rows, columns, channels = array.shape[axis : axis + 3]
  shape = (rows // stride, stride, columns // stride, stride * channels)
  blocks = array.reshape(*before, *shape, *after).swapaxes(axis + 1, axis + 2)
  return stored(blocks).reshape(
      *before, rows // stride, columns // stride, stride**2 * channels, *after
  )


def _pad(x, rows, columns=(0, 0)):
  """Pads with zeros (before, after); negative numbers remove pixels."""
  config = [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]
  return lax.pad(x, jnp.zeros((), x.dtype), config)


def neighbours(x: jax.Array, size: int) -> jax.Array:
  """Concatenates each pixel with the pixels to its right, in the same row.

  Args:
    x: [batch, rows, columns, channels].
    size: number of pixels.

  Returns:
    [batch, rows, columns - size + 1, size * channels].
  """
  columns = x.shape[2] - size + 1
  parts = [x[:, :, i : i + columns] for i in range(size)]
  return stored(jnp.concatenate(parts, axis=-1))


def neighbours_transposed(x: jax.Array, columns: int, size: int) -> jax.Array:
  """Computes `neighbours` of transposed images, [channels, pixels].

  Args:
    x: [channels, batch * rows * columns].
    columns: number of columns of an image.
    size: number of pixels.
  """
  x = x.reshape(len(x), -1, columns)
  columns -= size - 1
  parts = [x[..., i : i + columns] for i in range(size)]
  return stored(jnp.concatenate(parts, axis=0)).reshape(size * len(x), -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x, kernel, padding):
  size, features = kernel.shape[0], kernel.shape[-1]
  few = math.prod(x.shape[:3]) < FEW
  x = stored(_pad(x, padding, padding))
  height, width = (s - size + 1 for s in x.shape[1:3])
  kernel = stored(kernel.astype(x.dtype))
  if few:
    # A whole im2col: small arrays are written fast, and one product takes 0.75
    # of the time of three.
    whole = [
        x[:, i : i + height, j : j + width]
        for i in range(size)
        for j in range(size)
    ]
    whole = stored(jnp.concatenate(whole, axis=-1))
    y = matrix_product(
        whole.reshape(-1, whole.shape[-1]), kernel.reshape(-1, features)
    )
    return y.reshape(*whole.shape[:3], features).astype(x.dtype)
  # im2col along columns only, then the sum of a product for each row of the
  # kernel, moved by that row. A whole im2col would be `size` times as large.
  columns = neighbours(x, size)
  rows = columns.reshape(-1, columns.shape[-1])
  y = 0.0
  for i in range(size):
    of_row = matrix_product(rows, kernel[i].reshape(-1, features))
    y += of_row.reshape(*columns.shape[:3], features)[:, i : i + height]
  return y.astype(x.dtype)


def _convolution_forward(x, kernel, padding):
  return _convolution(x, kernel, padding), (x, kernel)


def _convolution_backward(padding, saved, g):
  x, kernel = saved
  size = kernel.shape[0]
  mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
  border = tuple(size - 1 - p for p in padding)
  return (
      _convolution(g, mirrored, border),
      _kernel_gradient(x, g, size, padding).astype(kernel.dtype),
  )


def _kernel_gradient(x, g, size, padding):
  # As in the forward pass, but with transposed images: a product for each row
  # of the kernel, with the gradient moved by that row.
  features = g.shape[-1]
  x = stored(_pad(x, padding, padding))
  channels = x.shape[-1]
  transposed = stored(x.reshape(-1, channels).T)
  columns = neighbours_transposed(transposed, x.shape[2], size)
  rows = [
      matrix_product(
          columns, stored(_pad(g, (i, size - 1 - i))).reshape(-1, features)
      )
      for i in range(size)
  ]
  return jnp.stack(rows).reshape(size, size, channels, features)


_convolution.defvjp(_convolution_forward, _convolution_backward)
