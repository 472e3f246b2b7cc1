"""Calls of Python in a chain of tf.data: their errors, and the chain's end.

TensorFlow makes a text of an exception, which it also logs at length. Here a
failure goes through the chain as a number, in its turn among the batches, and
who reads them gets the exception itself.

When an iterator is deleted TensorFlow waits for calls under way, and these wait
for Python's lock, which nobody gets once Python is ending: 7 of 8 processes
stayed for ever. So a chain that is closed begins no new calls, the last ones
are awaited, and what is open in the end is closed before Python stops threads.
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

# For a stage: AutoGraph would read source files again while a run goes on.
as_it_is = tf.autograph.experimental.do_not_convert


class Calls:
  """The calls of one chain."""

  def __init__(self):
    """Of a chain that is open."""
    self._open = True
    self._numbers = itertools.count(1)
    self._failures: dict[int, Exception] = {}
    # TensorFlow keeps what it calls until the process ends.
    self._functions: list[Callable[..., Sequence[np.ndarray]]] = []

  def while_open(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A dataset that ends when the chain is closed."""
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
    """Calls a function of arrays, in a stage of the chain.

    Args:
      function: from an array for each input to one for each output.
      inputs: its arguments.
      outputs: what it returns, by name.

    Returns:
      The outputs, and what `batches` wants to know.
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
    """What comes out of the chain; whose end closes it.

    Raises:
      Exception: that of a call, when its batch is due.
      DataError: TensorFlow has failed.
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
    # One whose thread waits for data cannot be closed, nor waited for.
    with contextlib.suppress(ValueError):
      stream.close()


def _drain(iterator):
  while True:
    try:
      next(iterator)
    except StopIteration:
      return
    except tf.errors.OpError:
      pass  # One of the last calls has failed, which nobody asks for any more.
