"""Resizes and crops images.

Everything here is NumPy and Pillow, stateless, and a function of its arguments
alone. Pixels stay 8-bit integers; means and colour shifts meet them on the
device (`alexnet/inference/views.py`).
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from input_pipeline.images import decoding

# The paper's sizes (§2, §4.1), in pixels; what a config has if not said
# otherwise.
SQUARE = 256
CROP = 224
# Up to this one a row's sums of products are exact in float32, see statistics.
LARGEST_SQUARE = 258
# Pillow widens this filter when it shrinks an image, so nothing aliases.
FILTER = Image.Resampling.BICUBIC
ASPECTS = ('keep', 'warp')


@dataclasses.dataclass(frozen=True)
class Box:
  """A square part of an image's square.

  Attributes:
    top, left: its place, in pixels.
    size: its side, in pixels.
    square: side of the whole square, in pixels.
  """

  top: int = 0
  left: int = 0
  size: int = SQUARE
  square: int = SQUARE


WHOLE = Box()


def whole(square: int) -> Box:
  """All of a square of this side."""
  return Box(size=square, square=square)


def cut(square: np.ndarray, box: Box) -> np.ndarray:
  """A box of [box.square, box.square, 3] pixels, without a copy."""
  return square[
      box.top : box.top + box.size, box.left : box.left + box.size
  ]


def to_square(
    encoded: bytes,
    name: str,
    *,
    aspect: str = 'keep',
    box: Box = WHOLE,
    background: decoding.Background = decoding.WHITE,
) -> np.ndarray:
  """Decodes, resizes the shorter side, cuts the centre square (§2).

  Args:
    encoded: an image file.
    name: of the file, for the error.
    aspect: 'keep', or 'warp' to squeeze the whole image into the square.
    box: part of the square to compute; 256 x 256 pixels in the paper.
    background: of transparent pixels, see `decoding.decode`.

  Returns:
    [box.size, box.size, 3] uint8: the same pixels as of the whole square, in
    less time.

  Raises:
    ImageError: the image cannot be decoded.
  """
  image = decoding.decode(encoded, name, background)
  return resized(image, aspect=aspect, box=box)


def resized(
    image: Image.Image, *, aspect: str = 'keep', box: Box = WHOLE
) -> np.ndarray:
  """What `to_square` makes of an image that is decoded, 8-bit RGB."""
  # Cutting before resizing is the same square, and an image of extreme shape
  # cannot grow without bound.
  width, height = image.size
  if aspect == 'keep':
    width = height = min(image.size)
  left, top = (image.width - width) / 2, (image.height - height) / 2
  square = _resize(
      image,
      left + width * box.left / box.square,
      top + height * box.top / box.square,
      width * box.size / box.square,
      height * box.size / box.square,
      (box.size, box.size),
  )
  return np.asarray(square)


def resized_whole(
    image: Image.Image, shorter: int, *, step: int, longest: float
) -> np.ndarray:
  """Resizes nearly all of an image, and its proportions stay.

  Args:
    image: 8-bit RGB.
    shorter: its shorter side, in pixels.
    step: its longer side is `shorter` and a multiple of this; what is too much
      is cut off, equally at both ends.
    longest: how many times as long as wide the result may be; the ends of a
      longer image are cut off likewise.

  Returns:
    [height, width, 3] uint8.
  """
  side = min(image.size)
  whole = [pixels * shorter // side for pixels in image.size]
  most = int(longest * shorter)
  size = [shorter + (min(w, most) - shorter) // step * step for w in whole]
  # Multiplied first: a box may not be larger than its image by a rounding.
  width, height = (pixels * side / shorter for pixels in size)
  left, top = (image.width - width) / 2, (image.height - height) / 2
  return np.asarray(_resize(image, left, top, width, height, tuple(size)))


def _resize(image, left, top, width, height, size):
  """Resizes a part of an image to size = (width, height) pixels.

  One axis after the other: Pillow rounds between them and has its own rule for
  which is first, by which a part would not have the pixels of the whole.
  """
  # The rows that are read: two more, of the larger pixels, on each side.
  columns, lines = size
  margin = 2 * max(1, height / lines)
  first = max(0, math.floor(top - margin))
  last = min(image.height, math.ceil(top + height + margin))
  # Leaving rows out takes a pass over the others, five pixels each.
  if (image.height - (last - first)) * 4 * height / lines < 5 * (last - first):
    first, last = 0, image.height
  # Pillow takes float32: sides of 8 bits more than an image's are exact.
  rows = image.resize(
      (columns, last - first), FILTER, box=(left, first, left + width, last)
  )
  top -= first
  return rows.resize(size, FILTER, box=(0, top, columns, top + height))
