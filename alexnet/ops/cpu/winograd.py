"""Winograd convolutions, which need fewer multiplications, for CPUs.

On CPUs, XLA's float32 convolutions already run at the speed of its matrix
products, so only fewer multiplications make them faster. In bfloat16, plain
convolutions are matrix products too, see direct.py.

Winograd's F(m, r) computes m results of a kernel of r pixels, along an axis,
with m + r - 1 multiplications instead of m * r (Lavin and Gray, 2015). It is
the transpose of multiplying two polynomials by their values at m + r - 1
points. The last point is infinity, where the value of a polynomial is its
leading coefficient.

The image is cut into tiles of m + r - 1 pixels, which overlap by r - 1. Three
matrices follow from the points: the first transforms the tiles and the second
the kernel; these are multiplied at each position in a tile, and the third
matrix transforms the products into m results. The products are matrix products
if both axes are transformed, and convolutions along the other axis if one is.

In float32, errors are about 1e-6 of a result, at most five times those of the
plain form (tested). In bfloat16, the transforms are computed in float32 and
rounded once, before they are multiplied, whereas the plain form rounds only the
kernel. So tiles are smaller there, and errors at most three times those of the
plain form, which are about 0.2 % of a result. Errors of the kernel's gradient
are about 0.5 %; in the plain form, only those of its sums (all tested).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet.ops.cpu import direct, layout, matmul
from alexnet.ops.cpu.layout import Padding

_Matrix = Sequence[Sequence[Fraction]]


@dataclasses.dataclass(frozen=True)
class _Method:
  """Settings of a Winograd convolution.

  Attributes:
    pixels: m, the number of a tile's results along each transformed axis.
    taps: r, the size of the kernel along each axis.
    points: the m + r - 2 finite points.
    axes: number of image axes that are transformed: 1 (height) or 2.
    dtype: dtype of the transformed tiles and kernels that are multiplied,
      float32 or bfloat16.
  """

  pixels: int
  taps: int
  points: tuple[Fraction | int, ...]
  axes: int
  dtype: Any = jnp.float32

  @property
  def rounds(self) -> bool:
    """True if the float32 transforms are rounded before they are multiplied."""
    return self.dtype != jnp.float32

  @property
  def convolves(self) -> bool:
    """True if products are convolutions, which are fast in float32 only."""
    return self.axes == 1 and not self.rounds

  @functools.cached_property
  def outputs(self) -> _Matrix:
    """A^T, [m, m + r - 1], which transforms products into results."""
    return [
        [*(Fraction(p) ** i for p in self.points), i == self.pixels - 1]
        for i in range(self.pixels)
    ]

  @functools.cached_property
  def kernels(self) -> _Matrix:
    """G, [m + r - 1, r], which transforms the kernel."""
    rows = []
    for p in self.points:
      norm = math.prod(p - other for other in self.points if other != p)
      rows.append([Fraction(p) ** i / norm for i in range(self.taps)])
    return [*rows, [i == self.taps - 1 for i in range(self.taps)]]

  @functools.cached_property
  def inputs(self) -> _Matrix:
    """B^T, [m + r - 1, m + r - 1], which transforms a tile's pixels."""
    rows = [
        [*_polynomial([other for other in self.points if other != p]), 0]
        for p in self.points
    ]
    return [*rows, _polynomial(self.points)]


def _polynomial(roots):
  """Returns the coefficients of the product of (x - root), constant first."""
  coefficients = [Fraction(1)]
  for root in roots:
    moved = [0, *coefficients]
    scaled = [*(-root * c for c in coefficients), 0]
    coefficients = [one + other for one, other in zip(moved, scaled)]
  return coefficients


# Small points keep errors small. Kernels of 3 x 3 are transformed along both
# axes: a map of conv3 to conv5 takes 625 multiplications instead of 1,521, in
# bfloat16 784. With few channels, transforms cost more than products, so only
# the height is transformed: conv2's 27 rows are nine tiles of three (63
# multiplications instead of 135), in bfloat16 14 tiles of two (84); conv1's 55
# rows, with a kernel of three blocks, are eleven tiles of five (77 instead of
# 165). conv1 has so few channels that its products are no faster in bfloat16,
# so it uses float32.
_HALF = Fraction(1, 2)
_ROWS_3 = _Method(5, 3, (0, 1, -1, 2, -2, _HALF), axes=1)
_ROWS_5 = _Method(3, 5, (0, 1, -1, 2, -2, _HALF), axes=1)
_SQUARE_3 = _Method(3, 3, (0, 1, -1, -2), axes=2)
_ROUNDED_ROWS_5 = _Method(2, 5, (0, 1, -1, 2, -_HALF), 1, jnp.bfloat16)
_ROUNDED_SQUARE_3 = _Method(2, 3, (0, 1, -1), 2, jnp.bfloat16)


def method(x: jax.Array, kernel: jax.Array, stride: int) -> _Method | None:
  """Returns the method that is faster than the plain convolution, if any.

  Transforms pay off where products are large; None means that they do not.

  Args:
    x: [batch, height, width, channels] float32 or bfloat16.
    kernel: [size, size, channels, features].
    stride: stride in pixels, along both axes.
  """
  size, _, channels, features = kernel.shape
  # direct.blocks pads the kernel to whole blocks, which costs multiplications.
  blocks = -(-size // stride)
  smallest = min(channels * stride**2, features)
  if size < 0.9 * blocks * stride or smallest < 32:
    return None
  rounded = x.dtype == jnp.bfloat16
  if blocks == 5:
    return _ROUNDED_ROWS_5 if rounded else _ROWS_5
  if blocks == 3 and stride > 1:
    return _ROWS_3
  many = math.prod(x.shape[:3]) >= direct.FEW
  if blocks == 3 and smallest >= 128 and many:
    return _ROUNDED_SQUARE_3 if rounded else _SQUARE_3
  return None


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: Padding,
    method: _Method,
) -> jax.Array:
  """Computes a convolution by a Winograd method.

  Args:
    x: [batch, height, width, channels] float32 or bfloat16.
    kernel: [size, size, channels, features], of float32 or x's dtype, which is
      also the dtype of its gradient.
    stride: stride in pixels, along both axes.
    padding: zeros (before, after), along both axes.
    method: result of the function `method`.

  Returns:
    [batch, out_height, out_width, features] of x's dtype.
  """
  dtype = x.dtype
  if stride > 1:
    x, kernel = direct.blocks(x, kernel, stride, padding)
    padding = (0, 0)
  x = x.astype(method.dtype)
  return _convolution(x, kernel, padding, method).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x, kernel, padding, method):
  return _forward(x, kernel, padding, method)[0]


def _forward(x, kernel, padding, method):
  sizes = [s + sum(padding) - method.taps + 1 for s in x.shape[1:3]]
  products = [
      _product(tile, one, padding, method)
      for tile, one in zip(
          _tiles(x, padding, method), _kernels(kernel, method)
      )
  ]
  y = products
  for axis in reversed(range(1, method.axes + 1)):
    size = len(method.inputs)
    y = [
        _pixels(method.outputs, y[i : i + size], axis)
        for i in range(0, len(y), size)
    ]
  y = y[0][:, : sizes[0], : sizes[1]]
  return y.astype(x.dtype), (x, kernel)


def _backward(padding, method, saved, g):
  x, kernel = saved
  for axis in range(1, method.axes + 1):
    rest = -g.shape[axis] % method.pixels
    g = layout.pad_axis(g, axis, 0, rest)
  # Gradients of the results of each tile, then of its products.
  parts = [layout.stored(g)]
  for axis in range(1, method.axes + 1):
    parts = [one for part in parts for one in _split(part, axis, method.pixels)]
  parts = [part.astype(jnp.float32) for part in parts]
  parts = [
      layout.stored(part.astype(method.dtype))
      for part in _transform([*zip(*method.outputs)], parts, method.axes)
  ]
  of_tiles, of_kernels = zip(
      *(
          _product_gradients(*arrays, padding, method)
          for arrays in zip(
              _tiles(x, padding, method),
              _kernels(kernel, method),
              parts,
          )
      )
  )
  of_kernel = _transform([*zip(*method.kernels)], of_kernels, method.axes)
  of_x = list(of_tiles)
  for axis in reversed(range(1, method.axes + 1)):
    size = len(method.inputs)
    of_x = [
        layout.stored(
            _of_pixels(of_x[i : i + size], axis, padding, x.shape[axis], method)
        )
        for i in range(0, len(of_x), size)
    ]
  of_kernel = jnp.stack(of_kernel).reshape(kernel.shape)
  of_x = of_x[0]
  if method.axes == 1 and method.rounds:
    of_x = lax.slice_in_dim(of_x, padding[0], padding[0] + x.shape[2], 1, 2)
  return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_convolution.defvjp(_forward, _backward)


# --- Transforms --------------------------------------------------------------


def _combination(factors, arrays):
  terms = [
      (factor, array) for factor, array in zip(factors, arrays) if factor
  ]
  # A positive term comes first, so that it need not be negated.
  terms.sort(key=lambda term: term[0] < 0)
  (first, array), *others = terms
  total = array if first == 1 else float(first) * array
  for factor, array in others:
    term = array if abs(factor) == 1 else float(abs(factor)) * array
    total = total + term if factor > 0 else total - term
  return total


def _transform(matrix, arrays, axes):
  """Multiplies a matrix with a grid of arrays, along each axis of the grid.

  Args:
    matrix: [results, columns].
    arrays: columns ** axes arrays, in row-major order of the grid.
    axes: number of axes of the grid.

  Returns:
    results ** axes arrays, in row-major order.
  """
  if not axes:
    return arrays
  size = len(arrays) // len(matrix[0])
  inner = [
      _transform(matrix, arrays[i : i + size], axes - 1)
      for i in range(0, len(arrays), size)
  ]
  return [
      _combination(row, along) for row in matrix for along in zip(*inner)
  ]


def _kernels(kernel, method):
  """Transforms a kernel to an array for each position in a tile.

  Returns:
    Arrays [size, channels, features] for one transformed axis, and
    [channels, features] for two.
  """
  parts = [kernel.astype(jnp.float32)]
  for _ in range(method.axes):
    parts = [one for part in parts for one in part]
  return [
      layout.stored(one.astype(method.dtype))
      for one in _transform(method.kernels, parts, method.axes)
  ]


def _tiles(x, padding, method):
  """Transforms images to an array for each position in a tile.

  Returns:
    Arrays [batch, tiles, width, channels] for one transformed axis, whose width
    is padded in bfloat16 only; [batch, tiles, tiles, channels] for two.
  """
  # Pads to whole tiles, and by what the last tile reads after its own pixels.
  low, high = padding
  behind = -(-(method.taps - 1) // method.pixels) * method.pixels
  for axis in range(1, method.axes + 1):
    size = x.shape[axis] + low + high - method.taps + 1
    size += -size % method.pixels + behind
    x = layout.pad_axis(x, axis, low, size - x.shape[axis] - low)
  if method.axes == 1 and method.rounds:
    x = layout.pad_axis(x, 2, low, high)
  parts = [layout.stored(x).astype(jnp.float32)]
  for axis in range(1, method.axes + 1):
    parts = [one for part in parts for one in _tile(part, axis, method)]
    # In bfloat16, sums along the first of two axes are not stored: they have
    # few terms, and must stay float32, which is more to write.
    if axis == method.axes or not method.rounds:
      parts = [layout.stored(part.astype(method.dtype)) for part in parts]
  return parts


def _split(x, axis, pixels):
  """Splits an axis: array i has the elements i, i + pixels, and so on."""
  before, after = x.shape[:axis], x.shape[axis + 1 :]
  runs = x.reshape(*before, x.shape[axis] // pixels, pixels, *after)
  return [
      lax.index_in_dim(runs, i, axis + 1, keepdims=False)
      for i in range(pixels)
  ]


def _tile(x, axis, method):
  """Transforms x along an axis to an array for each position in a tile."""
  first = _split(x, axis, method.pixels)
  count = first[0].shape[axis] - -(-(method.taps - 1) // method.pixels)
  pixels = [
      lax.slice_in_dim(
          first[i % method.pixels],
          i // method.pixels,
          i // method.pixels + count,
          1,
          axis,
      )
      for i in range(method.pixels + method.taps - 1)
  ]
  return [_combination(row, pixels) for row in method.inputs]


def _of_pixels(of_places, axis, padding, size, method):
  """Returns the gradient of `size` pixels from those of `_tile`'s results."""
  of_tiles = _transform([*zip(*method.inputs)], of_places, 1)
  behind = (len(of_tiles) - 1) // method.pixels
  runs = [
      sum(
          layout.pad_axis(of_tiles[i], axis, i // method.pixels,
                       behind - i // method.pixels)
          for i in range(first, len(of_tiles), method.pixels)
      )
      for first in range(method.pixels)
  ]
  pixels = _alternating(runs, axis)
  return lax.slice_in_dim(pixels, padding[0], padding[0] + size, 1, axis)


def _pixels(matrix, products, axis):
  """Multiplies a matrix with arrays and interleaves the results along an axis.

  Adds each array times a column of the matrix, which XLA vectorizes. If it
  interleaved finished results, it would select the source of each number, which
  takes 1.6 times as long for conv1.
  """
  shape = list(products[0].shape)
  shape[axis] *= len(matrix)
  total = 0.0
  for array, *column in zip(products, *matrix):
    array = jnp.expand_dims(array, axis + 1)
    column = np.array(column, array.dtype)
    total += array * column.reshape(-1, *[1] * (array.ndim - axis - 2))
  return total.reshape(shape)


def _alternating(parts, axis):
  """Interleaves arrays along an axis: the first of each, the second, ..."""
  shape = list(parts[0].shape)
  shape[axis] *= len(parts)
  return jnp.stack(parts, axis + 1).reshape(shape)


# --- Products ----------------------------------------------------------------


def _product(tile, kernel, padding, method):
  """Computes the product at one position of the tiles.

  Args:
    tile: [batch, rows, columns, channels], see `_tiles`.
    kernel: [channels, features], or [size, channels, features] for a
      convolution along columns, of tile's dtype.
    padding: zeros (before, after) of the columns; used if `method.convolves`.
    method: method that made the tiles.

  Returns:
    [batch, rows, columns, features] float32.
  """
  if method.convolves:
    return layout.stored(_convolution_of_columns(tile, kernel, padding))
  if kernel.ndim == 3:
    tile = direct.neighbours(tile, len(kernel))
  y = matmul.matrix_product(
      tile.reshape(-1, tile.shape[-1]), kernel.reshape(-1, kernel.shape[-1])
  )
  return y.reshape(*tile.shape[:-1], -1)


def _convolution_of_columns(tile, kernel, padding):
  return direct.by_eigen(
      tile, kernel[None], 1, ((0, 0), padding)
  )


def _product_gradients(tile, kernel, g, padding, method):
  """Returns the gradients of the tile and of the kernel, both float32."""
  if method.convolves:
    product = functools.partial(_convolution_of_columns, padding=padding)
    return jax.vjp(product, tile, kernel)[1](g)
  g_rows = g.reshape(-1, g.shape[-1])
  columns = tile.reshape(-1, tile.shape[-1]).T
  if method.rounds:
    columns = layout.stored(columns)
  if kernel.ndim == 3:
    columns = direct.neighbours_transposed(
        columns, tile.shape[2], len(kernel)
    )
  of_kernel = matmul.matrix_product(columns, g_rows).reshape(kernel.shape)
  transposed = layout.stored(kernel.reshape(-1, kernel.shape[-1]).T)
  of_tile = matmul.matrix_product(g_rows, transposed)
  of_tile = of_tile.reshape(*g.shape[:-1], -1)
  if kernel.ndim == 3:
    parts = jnp.split(of_tile, len(kernel), axis=-1)
    of_tile = layout.stored(
        sum(
            layout.pad_axis(part, 2, i, len(kernel) - 1 - i)
            for i, part in enumerate(parts)
        )
    )
  return of_tile, of_kernel
