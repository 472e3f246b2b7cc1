"""From what is drawn to pixels: a batch is read by one call of Python."""

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
  """A batch with its images and labels.

  Args:
    drawn: 'index' [count] int64, which images of the source; where these are
      crops 'offset' [count, 2] int32, (top, left); and what else it has.
    calls: of the chain.
    read: as `reading.read`, of the source.
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
  function = functools.partial(read, size=size, square=square)
  return batch | calls.call(function, inputs, {
      'image': tf.TensorSpec([count, size, size, 3], tf.uint8),
      'label': tf.TensorSpec([count], tf.int32),
  })
