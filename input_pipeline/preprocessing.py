"""Resizes and crops images.

All functions are stateless, and use NumPy and Pillow. Pixels stay 8-bit
integers; means and colour shifts are applied on the device
(`alexnet/inference/views.py`).
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from input_pipeline.images import decoding
from input_pipeline.images.crops import Region

# The paper's sizes (§2, §4.1), in pixels; the defaults of a config.
SQUARE = 256
CROP = 224
# Pillow widens this filter when it shrinks an image, which avoids aliasing.
FILTER = Image.Resampling.BICUBIC
ASPECTS = ('keep', 'warp')
# Longest ratio of the sides of stored rectangles; the ends of longer images are
# cut off, which bounds the memory for one.
LONGEST = 4


@dataclasses.dataclass(frozen=True)
class Box:
  """A square region within an image's square.

  Attributes:
    top, left: its position, in pixels.
    size: its side, in pixels.
    square: side of the whole square, in pixels.
  """

  top: int = 0
  left: int = 0
  size: int = SQUARE
  square: int = SQUARE


WHOLE = Box()


def whole(square: int) -> Box:
  """Returns the box of a whole square with this side."""
  return Box(size=square, square=square)


def cut(square: np.ndarray, box: Box) -> np.ndarray:
  """Cuts a box of [box.square, box.square, channels], without a copy."""
  return square[
      box.top : box.top + box.size, box.left : box.left + box.size
  ]


def framed(
    pixels: np.ndarray, border: int = 0, channels: int = 3
) -> np.ndarray:
  """Adds a black border, and makes images grey that a network reads so.

  Args:
    pixels: [height, width, 3] uint8.
    border: number of black pixels to add on each side.
    channels: 3, or 1 for grey: ITU-R 601's luma, as Pillow's mode 'L', which
      leaves grey images as they are.

  Returns:
    [height + 2 border, width + 2 border, channels] uint8.
  """
  if channels == 1:
    pixels = np.asarray(Image.fromarray(pixels).convert('L'))[..., None]
  if border:
    height, width, _ = pixels.shape
    size = height + 2 * border, width + 2 * border, channels
    # In a third of np.pad's time, which is most of that for small images.
    around = np.zeros(size, np.uint8)
    around[border : border + height, border : border + width] = pixels
    return around
  return pixels


def to_square(
    encoded: bytes,
    name: str,
    *,
    aspect: str = 'keep',
    box: Box = WHOLE,
    background: decoding.Background = decoding.WHITE,
) -> np.ndarray:
  """Decodes, resizes the shorter side, and crops the centre square (§2).

  Args:
    encoded: an image file.
    name: name of the file, for the error.
    aspect: 'keep', or 'warp' to squeeze the whole image into the square.
    box: region of the square to compute; 256 x 256 pixels in the paper.
    background: colour behind transparent pixels, see `decoding.decode`.

  Returns:
    [box.size, box.size, 3] uint8: the same pixels as those of the whole square,
    in less time.

  Raises:
    ImageError: the image cannot be decoded.
  """
  image = decoding.decode(encoded, name, background)
  return resized(image, aspect=aspect, box=box)


def resized(
    image: Image.Image, *, aspect: str = 'keep', box: Box = WHOLE
) -> np.ndarray:
  """Resizes a decoded, 8-bit RGB image as `to_square` does."""
  # Cutting before resizing gives the same square, and bounds the memory for
  # images of extreme shapes.
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
  """Resizes nearly all of an image and keeps its proportions.

  Args:
    image: an 8-bit RGB image.
    shorter: shorter side of the result, in pixels.
    step: the longer side is `shorter` plus a multiple of this; the excess is
      cut off, equally at both ends.
    longest: largest ratio of the longer side to the shorter; the ends of longer
      images are cut off too.

  Returns:
    [height, width, 3] uint8.
  """
  side = min(image.size)
  whole = [pixels * shorter // side for pixels in image.size]
  most = int(longest * shorter)
  size = [shorter + (min(w, most) - shorter) // step * step for w in whole]
  # Multiplied first, so that rounding cannot make the box exceed the image.
  width, height = (pixels * side / shorter for pixels in size)
  left, top = (image.width - width) / 2, (image.height - height) / 2
  return np.asarray(_resize(image, left, top, width, height, tuple(size)))


def resized_region(
    image: Image.Image, region: Region, size: int
) -> np.ndarray:
  """Resizes a region of an 8-bit RGB image to [size, size, 3] uint8."""
  top, left, height, width = region
  return np.asarray(_resize(image, left, top, width, height, (size, size)))


def _resize(image, left, top, width, height, size):
  """Resizes a part of an image to size = (width, height) pixels.

  Resizes one axis after the other. Pillow rounds between the axes and chooses
  their order itself, so that a part could differ from the whole.
  """
  # Rows to read: two more, of the larger pixels, on each side.
  columns, lines = size
  margin = 2 * max(1, height / lines)
  first = max(0, math.floor(top - margin))
  last = min(image.height, math.ceil(top + height + margin))
  # Leaving rows out costs a vertical pass over the others, of five taps each.
  if (image.height - (last - first)) * 4 * height / lines < 5 * (last - first):
    first, last = 0, image.height
  # Pillow's boxes are float32, which is exact for sides of this size.
  rows = image.resize(
      (columns, last - first), FILTER, box=(left, first, left + width, last)
  )
  top -= first
  return rows.resize(size, FILTER, box=(0, top, columns, top + height))
