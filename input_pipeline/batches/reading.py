"""Reads the images of a batch, without TensorFlow."""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from input_pipeline import preprocessing
from input_pipeline.files import stalls
from input_pipeline.images.crops import Region
from input_pipeline.sources import Source

# Bytes; Eigen and XLA use aligned arrays without a copy.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Form:
  """The form of a batch's images.

  Attributes:
    size: side of the images, in pixels.
    square: side of the squares that crops at offsets are cut from, in pixels.
    channels: 3 for RGB, or 1 for grey.
    border: black pixels on each side of a square, part of its size.
    pad: black pixels around a square from which a crop is cut.
    region: function from random words and an image's (width, height) to the
      region that a crop shows; None for crops at offsets.
  """

  size: int
  square: int
  channels: int = 3
  border: int = 0
  pad: int = 0
  region: Callable[..., Region] | None = None

  def shape(self, count: int) -> tuple[int, int, int, int]:
    """Returns the shape of a batch of this many images."""
    return count, self.size, self.size, self.channels


def read(
    index: np.ndarray,
    offset: np.ndarray | None = None,
    words: np.ndarray | None = None,
    *,
    source: Source,
    watch: stalls.Watch,
    form: Form,
    images: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Reads images and their labels.

  Args:
    index: [count] int64, indices of images in the source.
    offset: [count, 2] int32, (top, left) of each crop; None for no crops.
    words: [count, n] uint32, random words of each crop's region.
    source: source of the images.
    watch: watches for slow reads.
    form: form of the images.
    images: array to fill and return; None allocates one.

  Returns:
    [count, size, size, channels] uint8 and [count] int32.

  Raises:
    DataError: an image cannot be read; the message names it.
  """
  if images is None:
    images = _aligned(form.shape(len(index)))
  labels = np.empty(len(index), np.int32)
  for i, number in enumerate(index.tolist()):
    with watch.reading(functools.partial(source.describe, number)):
      if offset is None:
        square, labels[i] = source.resized(number, form.size - 2 * form.border)
        images[i] = preprocessing.framed(square, form.border, form.channels)
      elif form.region:
        picture, labels[i] = source.picture(number)
        region = form.region(words[i].tolist(), *picture.size)
        pixels = preprocessing.resized_region(picture, region, form.size)
        images[i] = preprocessing.framed(pixels, channels=form.channels)
      else:
        images[i], labels[i] = _crop(source, number, *offset[i].tolist(), form)
  return images, labels


def _crop(source, number, top, left, form):
  """Cuts a crop from a square with its border and padding."""
  margin = form.border + form.pad
  if not margin:  # Only the crop is computed.
    box = preprocessing.Box(top, left, form.size, form.square)
    pixels, label = source.image(number, box)
    return preprocessing.framed(pixels, channels=form.channels), label
  square, label = source.resized(number, form.square - 2 * form.border)
  square = preprocessing.framed(square, margin, form.channels)
  box = preprocessing.Box(top, left, form.size, form.square + 2 * form.pad)
  return preprocessing.cut(square, box), label


def _aligned(shape):
  """Allocates a uint8 array that TensorFlow and JAX need not copy."""
  size = math.prod(shape)
  buffer = np.empty(size + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  return buffer[start : start + size].reshape(shape)
