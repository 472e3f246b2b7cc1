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

# Pixels of a batch of maps below which the work around a product takes as long
# as it. Measured with conv3 to conv5 (169 pixels each), 1 and 4 images.
FEW = 1024


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_eigen(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: tuple[Padding, Padding],
) -> jax.Array:
  """Convolution whose result and gradients are computed by Eigen.

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
  of_x, of_kernel = [], []  # Padding.
  for size, taps, out, (before, _) in zip(
      x.shape[1:3], kernel.shape[:2], g.shape[1:3], padding
  ):
    reach = (out - 1) * stride + taps - size - before
    of_x.append((taps - 1 - before, taps - 1 - reach))
    of_kernel.append((before, reach))
  mirrored = stored(kernel[::-1, ::-1].swapaxes(2, 3))
  x_gradient = _eigen(g, mirrored, of_x, lhs_dilation=[stride] * 2)
  # The batch is what is summed over, and channels are the batch.
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
  """Convolution, rounded to bfloat16 once; sums are float32.

  Args:
    x: [batch, height, width, channels] bfloat16.
    kernel: [size, size, channels, features] bfloat16, or float32, which is
      rounded first; its gradient then is not.
    stride: in pixels, both ways.
    padding: rows and columns of zeros (before, after), both ways.

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
  """Rewrites a convolution as one without stride, of stride x stride blocks.

  conv1's 11 x 11 pixels of 3 channels become 3 x 3 blocks of 48.

  Args:
    x: [batch, height, width, channels] bfloat16 or float32.
    kernel: [size, size, channels, features].
    stride: in pixels, both ways.
    padding: rows and columns of zeros (before, after), both ways.

  Returns:
    float32 images and a kernel whose convolution, without stride and padding,
    gives the same result.
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
  # Rows are flattened, so that a block's numbers are copied at once: 0.6 of the
  # time. In bfloat16 this would take six times as long as in float32.
  batch, height, width, channels = x.shape
  x = _widened(x.reshape(batch, height, width * channels))
  columns = tuple(channels * n for n in columns)
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns))
  x = x.reshape(batch, whole[0], whole[1], channels)
  return _into_blocks(x, 1, stride), _into_blocks(kernel, 0, stride)


def _widened(rows):
  """Returns rows as float32; bfloat16 rows are rounded first."""
  if rows.dtype == jnp.bfloat16:
    # In short runs; otherwise XLA rounds one by one, in nine times the time.
    run = math.gcd(rows.shape[-1], 96)
    rows = stored(rows.reshape(*rows.shape[:-1], -1, run)).reshape(rows.shape)
  return rows.astype(jnp.float32)


def _into_blocks(array, axis, stride):
  """Blocks of stride x stride pixels become pixels of more channels.

  Args:
    array: [..., rows, columns, channels, ...].
    axis: of the rows.
    stride: divides rows and columns.
  """
  before, after = array.shape[:axis], array.shape[axis + 3 :]
  rows, columns, channels = array.shape[axis : axis + 3]
  shape = (rows // stride, stride, columns // stride, stride * channels)
  blocks = array.reshape(*before, *shape, *after).swapaxes(axis + 1, axis + 2)
  return stored(blocks).reshape(
      *before, rows // stride, columns // stride, stride**2 * channels, *after
  )


def _pad(x, rows, columns=(0, 0)):
  """Rows and columns of zeros (before, after); negative numbers cut off."""
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
    # All pixels that the kernel reads, next to each other (im2col): what is
    # small is written fast, and one product takes 0.75 of the time of three.
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
  # Next to each pixel its neighbours that a row of the kernel reads; then a
  # product for each row of the kernel, and their sum, each moved by its row.
  # All of im2col would be `size` times as much to write.
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
  # As the forward pass, of transposed images: all that lies in a row of the
  # kernel at once, and the gradient moved by each row.
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
