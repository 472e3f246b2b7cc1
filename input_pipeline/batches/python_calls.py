"""Calls Python functions in a chain of tf.data.

TensorFlow turns exceptions into text, which it also logs at length. Here a
failure passes through the chain as a number, in order with the batches, and the
reader of the batches gets the original exception.

When an iterator is deleted, TensorFlow waits for its running calls. These wait
for Python's lock, which no thread gets while Python exits, so the process would
hang. Therefore a closed chain starts no new calls and awaits the last ones, and
open chains are closed before Python stops its threads.
"""

import atexit
import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.files.tensorflow_cpu import tf

_FAILURE = 'failure'

# AutoGraph would read source files again during a run.
as_it_is = tf.autograph.experimental.do_not_convert


class Calls:
  """The calls of one chain."""

  def __init__(self):
    """Creates an open chain."""
    self._open = True
    self._numbers = itertools.count(1)
    self._failures: dict[int, Exception] = {}
    # TensorFlow keeps the functions it calls until the process ends.
    self._functions: list[Callable[..., Sequence[np.ndarray]]] = []

  def while_open(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Ends a dataset when the chain is closed."""
    is_open = lambda *_: tf.ensure_shape(
        tf.numpy_function(lambda: self._open, [], tf.bool), ()
    )
    return dataset.take_while(as_it_is(is_open))

  def call(
      self,
      function: Callable[..., Sequence[np.ndarray]],
      inputs: Sequence[tf.Tensor],
      outputs: dict[str, tf.TensorSpec],
  ) -> dict[str, tf.Tensor]:
    """Calls a function of arrays as a stage of the chain.

    Args:
      function: function from an array per input to an array per output.
      inputs: its arguments.
      outputs: specs of its outputs, by name.

    Returns:
      The outputs, and entries for `batches`.
    """
    specs = {**outputs, _FAILURE: tf.TensorSpec([], tf.int64)}
    place = len(self._functions)
    self._functions.append(function)

    def guarded(*arrays):
      try:
        return *self._functions[place](*arrays), 0
      except Exception as error:
        number = next(self._numbers)
        self._failures[number] = error
      blank = [
          np.empty([n or 0 for n in spec.shape], spec.dtype.as_numpy_dtype)
          for spec in outputs.values()
      ]
      return *blank, number

    types = [spec.dtype for spec in specs.values()]
    values = tf.numpy_function(guarded, inputs, types, stateful=False)
    return {
        name: tf.ensure_shape(value, spec.shape)
        for (name, spec), value in zip(specs.items(), values)
    }

  def batches(
      self, dataset: tf.data.Dataset
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields the chain's batches, and closes it at the end.

    Raises:
      Exception: the exception of a call, when its batch is due.
      DataError: TensorFlow failed.
    """
    stream = self._batches(dataset)
    _streams.add(stream)
    return stream

  def _batches(self, dataset):
    iterator = dataset.as_numpy_iterator()
    try:
      for batch in iterator:
        if number := int(batch.pop(_FAILURE)):
          raise self._failures.pop(number)
        yield batch
    except tf.errors.OpError as error:
      raise DataError(f'the input pipeline failed: {error}') from error
    finally:
      self._open = False
      _drain(iterator)
      self._functions.clear()


_streams = weakref.WeakSet()


@atexit.register
def _close_streams():
  for stream in list(_streams):
    # A generator whose thread waits for data cannot be closed.
    with contextlib.suppress(ValueError):
      stream.close()


def _drain(iterator):
  while True:
    try:
      next(iterator)
    except StopIteration:
      return
    except tf.errors.OpError:
      pass  # The error of a batch that is no longer needed.
