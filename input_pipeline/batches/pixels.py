"""From what is drawn to pixels: a batch is read by one call of Python."""

import functools
import math

import numpy as np

from input_pipeline import preprocessing
from input_pipeline.batches.python_calls import Calls
from input_pipeline.files import stalls
from input_pipeline.files.tensorflow_cpu import tf
from input_pipeline.sources import Source

# Bytes; what Eigen and XLA want of an array that they take as it is.
_ALIGNMENT = 64


def pixels(
    drawn: dict[str, tf.Tensor],
    *,
    calls: Calls,
    source: Source,
    watch: stalls.Watch,
    size: int,
    square: int,
) -> dict[str, tf.Tensor]:
  """A batch with its images and labels.

  Args:
    drawn: 'index' [count] int64, which images of the source; where these are
      crops 'offset' [count, 2] int32, (top, left); and what else it has.
    calls: of the chain.
    source: of the images.
    watch: told of each that is read.
    size: side of the images, in pixels.
    square: side of the squares that crops are cut from, in pixels.

  Returns:
    What is drawn but 'index', 'image' [count, size, size, 3] uint8 and 'label'
    [count] int32.
  """
  batch = dict(drawn)
  inputs = [batch.pop('index')]
  inputs += [batch['offset']] if 'offset' in batch else []
  (count,) = inputs[0].shape
  function = functools.partial(
      read, source=source, watch=watch, size=size, square=square
  )
  return batch | calls.call(function, inputs, {
      'image': tf.TensorSpec([count, size, size, 3], tf.uint8),
      'label': tf.TensorSpec([count], tf.int32),
  })


def read(
    index: np.ndarray,
    offset: np.ndarray | None = None,
    *,
    source: Source,
    watch: stalls.Watch,
    size: int,
    square: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Reads images and labels, as `pixels`, in NumPy.

  Raises:
    DataError: an image cannot be read; names it.
  """
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
  """An uninitialized uint8 array that TensorFlow and JAX need not copy."""
  size = math.prod(shape)
  buffer = np.empty(size + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  return buffer[start : start + size].reshape(shape)
