"""The stage that reads, by itself and in a dataset."""

import functools

import numpy as np
from absl.testing import absltest

from input_pipeline import sources
from input_pipeline.batches import pixels, reading
from input_pipeline.batches.python_calls import Calls
from input_pipeline.errors import DataError
from input_pipeline.files import stalls
from input_pipeline.files.tensorflow_cpu import tf

SQUARES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


class Squares(sources.Source):
  """Labels are ten times the index; the last image is missing."""

  name, class_names, size = 'squares', (), 8

  def __len__(self):
    return len(SQUARES) + 1

  def read(self, index):
    if index == len(SQUARES):
      raise DataError('no image 5')
    return sources.encode_png(SQUARES[index]), 10 * index

  def describe(self, index):
    return f'image {index}'

  def fingerprint(self):
    return ''


class PixelsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.options = dict(source=Squares(), watch=stalls.Watch(None, print))

  def test_crops(self):
    images, labels = reading.read(
        np.array([4, 0, 4]), np.array([[0, 3], [2, 1], [3, 3]]),
        form=reading.Form(5, 8), **self.options,
    )
    np.testing.assert_array_equal(labels, [40, 0, 40])
    np.testing.assert_array_equal(images, [
        SQUARES[4, :5, 3:], SQUARES[0, 2:7, 1:6], SQUARES[4, 3:, 3:]
    ])
    # What JAX and TensorFlow take without a copy.
    self.assertEqual(images.ctypes.data % 64, 0)

  def test_squares(self):
    images, labels = reading.read(
        np.array([1, 3]), form=reading.Form(8, 8), **self.options
    )
    np.testing.assert_array_equal(labels, [10, 30])
    np.testing.assert_array_equal(images, SQUARES[[1, 3]])

  def test_another_size(self):
    images, _ = reading.read(
        np.array([2]), form=reading.Form(4, 8), **self.options
    )
    np.testing.assert_array_equal(images[0], Squares().resized(2, 4)[0])

  def test_the_watch_knows_what_is_read(self):
    watched = []

    class Watch(stalls.Watch):

      def begin(self, reading):
        watched.append(reading.name())

    reading.read(
        np.array([4, 1]), form=reading.Form(8, 8), source=Squares(),
        watch=Watch(None, print),
    )
    self.assertEqual(watched, ['image 4', 'image 1'])

  def stage(self, index, offset):
    """Batches of two images, and what else is drawn."""
    calls = Calls()
    drawn = tf.data.Dataset.from_tensor_slices({
        'index': np.array(index), 'offset': np.array(offset, np.int32),
        'flip': np.zeros((len(index), 2), bool),
        'words': np.zeros((len(index), 2, 0), np.uint32),
    })
    read = functools.partial(reading.read, **self.options)
    return calls.batches(drawn.map(lambda drawn: pixels.pixels(
        drawn, calls=calls, read=read, form=reading.Form(5, 8)
    )))

  def test_in_a_dataset(self):
    index = [[4, 0], [1, 2]]
    offset = [[[0, 0], [1, 2]], [[3, 0], [2, 2]]]
    for batch, indices, boxes in zip(self.stage(index, offset), index, offset):
      self.assertEqual(batch.keys(), {'image', 'label', 'offset', 'flip'})
      np.testing.assert_array_equal(batch['offset'], boxes)
      np.testing.assert_array_equal(batch['label'], 10 * np.array(indices))
      self.assertEqual(batch['label'].dtype, np.int32)
      np.testing.assert_array_equal(batch['image'], [
          SQUARES[i, top : top + 5, left : left + 5]
          for i, (top, left) in zip(indices, boxes)
      ])

  def test_an_image_that_cannot_be_read(self):
    batches = self.stage([[4, 0], [1, 5]], np.zeros((2, 2, 2)))
    next(batches)
    with self.assertRaisesRegex(DataError, '^no image 5$'):
      next(batches)


if __name__ == '__main__':
  absltest.main()
