"""Chains that call Python: errors in their turn, and ends."""

import gc
import itertools
import threading
import time
import weakref

import numpy as np
from absl.testing import absltest, parameterized

from benchmarks import ends
from input_pipeline.batches import python_calls
from input_pipeline.errors import DataError
from input_pipeline.files.tensorflow_cpu import tf

OUTPUTS = {
    'number': tf.TensorSpec([], tf.int64),
    'row': tf.TensorSpec([2], tf.float32),
}


def chain(function, count=6, stage=lambda x: x, parallel=2):
  """Batches of what a function makes of numbers: (number, row)."""
  calls = python_calls.Calls()
  numbers = calls.while_open(tf.data.Dataset.range(count)).map(stage)
  called = numbers.map(
      lambda number: calls.call(function, [number], OUTPUTS),
      num_parallel_calls=parallel,
      deterministic=True,
  )
  return calls.batches(called.prefetch(2))


def row(number):
  return number, np.full(2, number, np.float32)


class CallsTest(parameterized.TestCase):

  def test_values(self):
    batches = list(chain(row))
    self.assertEqual([batch['number'] for batch in batches], list(range(6)))
    for number, batch in enumerate(batches):
      self.assertEqual(batch.keys(), {'number', 'row'})
      np.testing.assert_array_equal(batch['row'], np.float32([number] * 2))

  def test_shapes_are_known(self):
    calls = python_calls.Calls()
    dataset = tf.data.Dataset.range(3).map(
        lambda number: calls.call(row, [number], OUTPUTS)
    )
    self.assertEqual(dataset.element_spec['row'], OUTPUTS['row'])
    self.assertEqual(dataset.element_spec['number'], OUTPUTS['number'])

  def test_an_error_comes_in_its_turn(self):
    """As it is, the first of two, though the other is there earlier."""
    errors = {2: ValueError('two'), 3: ValueError('three')}
    three = threading.Event()

    def fail(number):
      if number == 3:
        three.set()
      if number == 2:
        three.wait(60)
      if number in errors:
        raise errors[int(number)]
      return row(number)

    batches = chain(fail)
    self.assertEqual([next(batches)['number'] for _ in range(2)], [0, 1])
    with self.assertRaises(ValueError) as caught:
      next(batches)
    self.assertIs(caught.exception, errors[2])

  def test_an_error_of_tensorflow(self):
    two = tf.constant(2, tf.int64)

    def stage(number):
      with tf.control_dependencies([tf.debugging.assert_less(number, two)]):
        return tf.identity(number)

    with self.assertRaisesRegex(DataError, 'the input pipeline failed: .*'):
      list(chain(row, stage=stage))

  def test_nothing_is_called_once_it_is_closed(self):
    called = []

    def note(number):
      called.append(int(number))
      time.sleep(0.01)
      return row(number)

    batches = chain(note, count=10**6)
    self.assertEqual(
        [b['number'] for b in itertools.islice(batches, 3)], [0, 1, 2]
    )
    batches.close()
    count = len(called)
    self.assertLess(count, 30)
    time.sleep(0.1)
    self.assertLen(called, count)

  def test_what_is_called_is_not_kept(self):
    """Neither the function nor what it has, such as a whole pipeline."""

    class Owner:

      def row(self, number):
        return row(number)

    owner = Owner()
    known = weakref.ref(owner)
    batches = chain(owner.row)
    next(batches)
    del owner
    self.assertIsNotNone(known())
    batches.close()
    gc.collect()
    self.assertIsNone(known())

  @parameterized.parameters('close', 'error')
  def test_the_end_awaits_calls_under_way(self, end):
    begun, ended = threading.Event(), threading.Event()

    def late(number):
      if number == 1:
        begun.wait(60)
        raise DataError('one')
      if number == 2:
        begun.set()
        time.sleep(0.5)
        ended.set()
      return row(number)

    batches = chain(late, parallel=3)
    next(batches)
    if end == 'close':
      self.assertTrue(begun.wait(60))
      batches.close()
      self.assertTrue(ended.is_set())
    else:
      try:
        next(batches)
      except DataError:  # Whose traceback has the iterator still.
        self.assertTrue(ended.is_set())
      else:
        self.fail('no error')


class EndsTest(parameterized.TestCase):
  """`benchmarks.ends` has more stages, and any number of starts."""

  def test_a_process_ends(self):
    """While a thread waits for a batch; for `reading` see pipeline_test."""
    self.assertIsNotNone(ends.seconds_to_end('thread'))


if __name__ == '__main__':
  absltest.main()
