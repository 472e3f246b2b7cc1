"""Reads the pixels of drawn examples, with one call of Python per batch."""

import functools
from collections.abc import Callable

import numpy as np

from input_pipeline.batches.python_calls import Calls
from input_pipeline.files.tensorflow_cpu import tf


def pixels(
    drawn: dict[str, tf.Tensor],
    *,
    calls: Calls,
    read: Callable[..., tuple[np.ndarray, np.ndarray]],
    size: int,
    square: int,
) -> dict[str, tf.Tensor]:
  """Makes a batch with images and labels.

  Args:
    drawn: 'index' [count] int64, indices of images in the source; for crops
      also 'offset' [count, 2] int32, (top, left); other entries are passed on.
    calls: calls of the chain.
    read: reads images of the source, see `reading.read`.
    size: side of the images, in pixels.
    square: side of the squares that crops are cut from, in pixels.

  Returns:
    The draws except 'index', 'image' [count, size, size, 3] uint8 and 'label'
    [count] int32.
  """
  batch = dict(drawn)
  inputs = [batch.pop('index')]
  inputs += [batch['offset']] if 'offset' in batch else []
  (count,) = inputs[0].shape
  function = functools.partial(read, size=size, square=square)
  return batch | calls.call(function, inputs, {
      'image': tf.TensorSpec([count, size, size, 3], tf.uint8),
      'label': tf.TensorSpec([count], tf.int32),
  })
