"""Reads the images of a batch, without TensorFlow."""

import functools
import math

import numpy as np

from input_pipeline import preprocessing
from input_pipeline.files import stalls
from input_pipeline.sources import Source

# Bytes; Eigen and XLA use aligned arrays without a copy.
_ALIGNMENT = 64


def read(
    index: np.ndarray,
    offset: np.ndarray | None = None,
    *,
    source: Source,
    watch: stalls.Watch,
    size: int,
    square: int,
    images: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Reads images and their labels.

  Args:
    index: [count] int64, indices of images in the source.
    offset: [count, 2] int32, (top, left) of each crop; None for no crops.
    source: source of the images.
    watch: watches for slow reads.
    size: side of the images, in pixels.
    square: side of the squares that crops are cut from, in pixels.
    images: array to fill and return; None allocates one.

  Returns:
    [count, size, size, 3] uint8 and [count] int32.

  Raises:
    DataError: an image cannot be read; the message names it.
  """
  if images is None:
    images = _aligned((len(index), size, size, 3))
  labels = np.empty(len(index), np.int32)
  for i, number in enumerate(index.tolist()):
    with watch.reading(functools.partial(source.describe, number)):
      if offset is None:
        images[i], labels[i] = source.resized(number, size)
      else:
        box = preprocessing.Box(*offset[i].tolist(), size, square)
        images[i], labels[i] = source.image(number, box)
  return images, labels


def _aligned(shape):
  """Allocates a uint8 array that TensorFlow and JAX need not copy."""
  size = math.prod(shape)
  buffer = np.empty(size + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  return buffer[start : start + size].reshape(shape)
