"""Reads the pixels of drawn examples, with one call of Python per batch."""

import functools
from collections.abc import Callable

import numpy as np

from input_pipeline.batches import reading
from input_pipeline.batches.python_calls import Calls
from input_pipeline.files.tensorflow_cpu import tf


def pixels(
    drawn: dict[str, tf.Tensor],
    *,
    calls: Calls,
    read: Callable[..., tuple[np.ndarray, np.ndarray]],
    form: reading.Form,
) -> dict[str, tf.Tensor]:
  """Makes a batch with images and labels.

  Args:
    drawn: 'index' [count] int64, indices of images in the source; for crops
      also 'offset' [count, 2] int32, (top, left), and 'words' [count, n]
      uint32; other entries are passed on.
    calls: calls of the chain.
    read: reads images of the source, see `reading.read`.
    form: form of the images.

  Returns:
    The draws except 'index' and 'words', 'image' [count, size, size, channels]
    uint8 and 'label' [count] int32.
  """
  batch = dict(drawn)
  inputs = [batch.pop('index')]
  if 'offset' in batch:
    inputs += [batch['offset'], batch.pop('words')]
  (count,) = inputs[0].shape
  function = functools.partial(read, form=form)
  return batch | calls.call(function, inputs, {
      'image': tf.TensorSpec(form.shape(count), tf.uint8),
      'label': tf.TensorSpec([count], tf.int32),
  })
