"""Operations in the forms that XLA's CPU backend is fast in.

The plain forms are in layers.py, which decides where which of them runs, and
each form here is tested against the plain one. They share three ways of XLA on
CPUs: it computes slices and element-wise operations anew for each reader unless
they are stored; its scatters and sums of columns are slow; and bfloat16 is fast
in matrix products only.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

Padding = tuple[int, int]

# Pixels of a batch of maps, below which a product takes no longer than all that
# is around it. Measured with conv3 to conv5, 169 each, of 1 and 4 images.
FEW = 1024


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


# --- Sums --------------------------------------------------------------------


def window_sum(
    x: jax.Array,
    window: tuple[int, ...],
    padding: tuple[Padding, ...],
    groups: int = 1,
) -> jax.Array:
  """The sum over a window around each element.

  As slices of a padded copy, axis by axis: 0.8 of the time of reduce_window,
  which neither what comes before nor what comes after is fused with.

  Args:
    x: an array.
    window: size along each axis.
    padding: zeros (before, after) along each axis; x's shape stays.
    groups: equal runs of the last axis that no window crosses.
  """
  if window[-1] > 1:
    x = _sum_of_channels(x, window[-1], padding[-1], groups)
  for axis in reversed(range(x.ndim - 1)):
    if window[axis] > 1:
      padded = stored(pad_axis(x, axis, *padding[axis]))
      x = sum(
          lax.slice_in_dim(padded, i, i + x.shape[axis], 1, axis)
          for i in range(window[axis])
      )
  return x


def _sum_of_channels(x, window, padding, groups):
  # As one long row, moved by some elements, of which each pixel leaves out
  # those that are not its own: in an array with an axis for groups, or zeros
  # between pixels, XLA finds no run of numbers to load at once.
  channels = x.shape[-1]
  pixels = -(-max(padding) // channels)
  row = pad_axis(x.reshape(-1, channels), 0, pixels, pixels)
  row = stored(row).reshape(-1)
  channel = np.arange(channels)
  group = channel // (channels // groups)
  total = 0.0
  for offset in range(-padding[0], window - padding[0]):
    start = pixels * channels + offset
    moved = lax.slice_in_dim(row, start, start + x.size).reshape(x.shape)
    other = channel + offset
    mine = (other >= 0) & (other < channels)
    mine &= other // (channels // groups) == group
    total += moved if mine.all() else jnp.where(mine, moved, 0.0)
  return total


def sum_of_rows(rows: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """The sum over the first axis: [rows, features] to [features] of a dtype.

  XLA sums columns at a tenth of the speed of memory. So parts are added first,
  at that speed, and what is left is summed as a product.
  """
  parts = jnp.split(rows, math.gcd(len(rows), 32))
  rows = stored(sum(part.astype(jnp.float32) for part in parts))
  return (jnp.ones(len(rows)) @ rows).astype(dtype)


def sum_of_squares(x: jax.Array) -> jax.Array:
  """The sum over all elements, [], of an array of any shape.

  Parts are added first: XLA would store all squares (fc6: 151 MB), to sum them
  as a tree. A quarter of the time.
  """
  rows = x.reshape(-1, x.shape[-1])
  parts = math.gcd(len(rows), 16)
  return jnp.sum(
      stored(sum(map(jnp.square, jnp.split(rows, parts))))
  )


# --- Pooling -----------------------------------------------------------------


def max_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
  """As of `layers.max_pool`: rows first, then columns.

  Half the time of the square window. Slices would be faster still, but XLA
  would compute them anew, from the layer before, for each of those who read the
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


def max_pool_gradient(
    x: jax.Array, g: jax.Array, *, window: int, stride: int
) -> jax.Array:
  """The gradient of `max_pool` at x, for the gradient g of its result.

  Element-wise, where that of reduce_window is a scatter that runs on one core.
  The first of equal pixels takes all: the first column, and in it the first
  row.
  """
  wide = x.astype(_wide(x.dtype))
  if x.dtype == jnp.bfloat16:
    g = stored(g)  # Or each reader rounds it: nearly twice the time.
  slices = _slices(wide, 1, window, stride)
  rows = stored(functools.reduce(jnp.maximum, slices))
  g = stored(_gradient_along(2, rows, g.astype(wide.dtype), window, stride))
  return _gradient_along(1, wide, g, window, stride).astype(x.dtype)


def _wide(dtype):
  # Element by element bfloat16 is emulated: five times float32's time.
  return jnp.float32 if dtype == jnp.bfloat16 else dtype


def _overhang(size, window, stride):
  windows = max(0, -(-(size - window) // stride)) + 1
  return max(0, (windows - 1) * stride + window - size)


def _slices(x, axis, window, stride):
  """What each of the window's places sees: `window` arrays of pooled size."""
  overhang = _overhang(x.shape[axis], window, stride)
  x = pad_axis(x, axis, 0, overhang, -jnp.inf)
  end = x.shape[axis] - window + 1
  return [
      lax.slice_in_dim(x, i, i + end, stride, axis) for i in range(window)
  ]


def _gradient_along(axis, x, g, window, stride):
  slices = _slices(x, axis, window, stride)
  largest = functools.reduce(jnp.maximum, slices)
  parts, taken = [], False
  for part in slices:
    first = (part == largest) & ~taken
    taken |= first
    parts.append(jnp.where(first, g, jnp.zeros((), g.dtype)))
  # Pixels whose numbers have the same rest by the stride are next to each
  # other in `parts`; those of all rests are then put between each other.
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


# --- Products of matrices ----------------------------------------------------
#
# XLA's are slow where the second operand is transposed: fc6's gradient of its
# input takes seven times as long in float32. Those in bfloat16 are at three to
# four times the speed of float32's if both operands are row-major arrays of
# their own and the result is float32.


def matrix_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """The product of [rows, inputs] and [inputs, features] in float32."""
  # Stored, because XLA fails where it would like the result transposed.
  return stored(jnp.matmul(a, b, preferred_element_type=jnp.float32))


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The product x @ kernel, rounded to x's dtype once; sums are float32.

  Args:
    x: [rows, inputs] bfloat16 or float32.
    kernel: [inputs, features] of x's dtype, or float32, which is rounded first;
      its gradient then is not.

  Returns:
    [rows, features] of x's dtype.
  """
  rows = len(x)
  if rows == 1 and x.dtype == jnp.bfloat16:
    # Of a vector XLA would convert the kernel to float32, and store that.
    x = pad_axis(x, 0, 0, 1)
  y = matrix_product(x, stored(kernel.astype(x.dtype)))
  return y[:rows].astype(x.dtype)


def _product_forward(x, kernel):
  return product(x, kernel), (x, kernel)


def _product_backward(saved, g):
  x, kernel = saved
  # Rather than to transpose the kernel, the largest of the three.
  gradient = matrix_product(stored(kernel.astype(g.dtype)), stored(g.T)).T
  of_kernel = matrix_product(stored(x.T), g)
  return gradient.astype(g.dtype), of_kernel.astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def product_to_predict(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`product`, where nobody asks for gradients.

  In bfloat16 that of the transposed arrays: YNNPACK brings the second of two
  into an order of its own, each time, which for the kernel takes as long as to
  multiply 32 rows. So the kernel should be the transpose of an array that is
  there, see rounded.py.
  """
  if x.dtype != jnp.bfloat16:
    return product(x, kernel)
  rows = len(x)
  kernel = stored(kernel.astype(x.dtype).T)
  if rows == 1:
    return _vector_product(kernel, x[0]).astype(x.dtype)[None]
  # Fewer than 16 take longer than 16.
  x = pad_axis(x, 0, 0, -rows % 16)
  return matrix_product(kernel, stored(x.T))[:, :rows].astype(x.dtype).T


def _vector_product(kernel, x):
  # Parts of each row are multiplied and added element by element: a fifteenth
  # of the time of XLA's, see `product`.
  size = len(x)
  parts = max(n for n in range(1, 17) if size % n == 0)
  kernel = kernel.reshape(-1, parts, size // parts)
  total = 0.0
  for i, part in enumerate(x.reshape(parts, -1)):
    # Converted after they are taken apart: before, XLA would store that too.
    total += kernel[:, i].astype(jnp.float32) * part.astype(jnp.float32)
  return stored(total) @ jnp.ones(size // parts)


# --- Convolutions in float32 -------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def direct_convolution(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: tuple[Padding, Padding],
) -> jax.Array:
  """Convolution by Eigen, which XLA leaves them to, and so are its gradients.

  Only those whose axes are in one order. XLA brings the gradients' into it, but
  not in a loop: a step of 128 images in four parts took 16.0 s, and takes 1.3.

  Args:
    x: [batch, height, width, channels] float32.
    kernel: [rows, columns, channels, features] float32.
    stride: in pixels, both ways.
    padding: zeros (before, after), of rows and of columns.

  Returns:
    [batch, out_height, out_width, features] float32.
  """
  return _eigen_convolution(x, kernel, padding, window_strides=[stride] * 2)


def _eigen_convolution(x, kernel, padding, **arguments):
  return lax.conv_general_dilated(
      x,
      kernel,
      padding=padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      **{'window_strides': (1, 1), **arguments},
  )


def _direct_forward(x, kernel, stride, padding):
  return direct_convolution(x, kernel, stride, padding), (x, kernel)


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
  x_gradient = _eigen_convolution(g, mirrored, of_x, lhs_dilation=[stride] * 2)
  # The batch is what is summed over, and channels are the batch.
  kernel_gradient = _eigen_convolution(
      stored(x.transpose(3, 1, 2, 0)),
      stored(g.transpose(1, 2, 0, 3)),
      of_kernel,
      rhs_dilation=[stride] * 2,
  )
  return stored(x_gradient), stored(kernel_gradient.transpose(1, 2, 0, 3))


direct_convolution.defvjp(_direct_forward, _direct_backward)


# --- Convolutions in bfloat16 ------------------------------------------------
#
# XLA computes them in float32, at its speed; so they are products here.


def convolution(
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
  """The same convolution without stride, of blocks of stride x stride pixels.

  conv1's 11 x 11 pixels of 3 channels are 3 x 3 blocks of 48.

  Args:
    x: [batch, height, width, channels] bfloat16 or float32.
    kernel: [size, size, channels, features].
    stride: in pixels, both ways.
    padding: rows and columns of zeros (before, after), both ways.

  Returns:
    Images, float32, and a kernel whose convolution, without stride and padding,
    is it.
  """
  size = kernel.shape[0]
  in_blocks = -(-size // stride)
  grow = [(0, in_blocks * stride - size)] * 2
  kernel = jnp.pad(kernel, (*grow, (0, 0), (0, 0)))
  # What of the image no kernel reaches is cut off.
  out = [(s + sum(padding) - size) // stride + 1 for s in x.shape[1:3]]
  whole = [(n - 1 + in_blocks) * stride for n in out]
  rows, columns = (
      (padding[0], n - s - padding[0], 0) for n, s in zip(whole, x.shape[1:3])
  )
  # A row of pixels is one of numbers, of which those of a block are moved at
  # once: 0.6 of the time. bfloat16's would take six times float32's.
  batch, height, width, channels = x.shape
  x = _widened(x.reshape(batch, height, width * channels))
  columns = tuple(channels * n for n in columns)
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns))
  x = x.reshape(batch, whole[0], whole[1], channels)
  return _into_blocks(x, 1, stride), _into_blocks(kernel, 0, stride)


def _widened(rows):
  """Rows of numbers, rounded before if they are bfloat16, in float32."""
  if rows.dtype == jnp.bfloat16:
    # In short runs, or XLA rounds one by one: a ninth of the time.
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
  """Next to each pixel of a row, those right of it.

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
  """`neighbours` of what has been transposed: [channels, pixels] to the same.

  Args:
    x: [channels, batch * rows * columns].
    columns: of the image.
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
