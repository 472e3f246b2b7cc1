"""Statistics against NumPy's, and where they are kept."""

import io
import itertools
import os
import pathlib
import tempfile
import time
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from input_pipeline import sources, statistics, statistics_cache
from input_pipeline.errors import DataError


class FakeSource(sources.Source):
  """A name, a place and a fingerprint; there is nothing to read."""

  def __init__(self, directory=None, fingerprint='f00d', length=3):
    self.name = 'fake'
    self.class_names = ('a', 'b')
    self.directory = directory
    self._fingerprint = fingerprint
    self._length = length

  def __len__(self):
    return self._length

  def read(self, index):
    raise AssertionError('statistics are given the decoded images')

  def describe(self, index):
    return f'fake {index}'

  def fingerprint(self):
    return self._fingerprint


def images(count=3, seed=0):
  """Colourful noise whose channels depend on each other."""
  rng = np.random.default_rng(seed)
  mix = np.array([[0.9, 0.2, 0.0], [0.5, 0.6, 0.1], [0.4, 0.3, 0.5]])
  noise = rng.uniform(0, 230, (count, 256, 256, 3)) @ mix.T
  return np.clip(noise, 0, 255).astype(np.uint8)


def unread():
  """Images of a training set that must not be read."""
  raise AssertionError('read although there is a cache')
  yield


class ComputeTest(parameterized.TestCase):

  def test_equals_numpy(self):
    squares = images(5)
    result = statistics.compute(iter(squares), 5)
    wide = squares.astype(np.float64)
    self.assertEqual(result.mean_image.shape, (256, 256, 3))
    self.assertEqual(result.mean_image.dtype, np.float32)
    np.testing.assert_allclose(result.mean_image, wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(
        result.channel_means, wide.mean((0, 1, 2)), rtol=1e-7
    )
    covariance = np.cov(wide.reshape(-1, 3), rowvar=False, bias=True)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-9)
    self.assertGreater(np.abs(covariance).min(), 100)

  @parameterized.parameters(0, 100, 250)
  def test_faint_noise(self, level):
    """Small differences between large numbers, as in white photographs."""
    bits = np.random.default_rng(0).integers(0, 2, (4, 256, 256, 3))
    result = statistics.compute(iter((level + bits).astype(np.uint8)), 4)
    np.testing.assert_allclose(
        result.covariance,
        np.cov(bits.reshape(-1, 3), rowvar=False, bias=True),
        atol=1e-9,  # Of 0.25 on the diagonal.
    )

  @parameterized.parameters(257, 258, 259, 512)
  def test_large_images_are_summed_exactly(self, side):
    """White squares have the largest sums, whose last digits must count."""
    accumulator = statistics.Accumulator(side)
    square = np.full((side, side, 3), 255, np.uint8)
    square[:, -1, 0] = 254
    accumulator.add(square)
    columns = side - 1
    self.assertEqual(
        accumulator.products.tolist(),
        [
            [side * (columns * 255**2 + 254**2)]
            + [side * (columns * 255**2 + 254 * 255)] * 2,
            *[
                [side * (columns * 255**2 + 254 * 255)]
                + [side * side * 255**2] * 2
            ]
            * 2,
        ],
    )

  def test_one_colour_has_no_variance(self):
    white = np.full((1, 256, 256, 3), 255, np.uint8)
    deviations, vectors = statistics.compute(white, 1).principal_components()
    # The root of a float64's last digit.
    np.testing.assert_allclose(deviations, 0, atol=1e-4)
    self.assertTrue(np.isfinite(vectors).all())

  def test_principal_components(self):
    result = statistics.compute(images(), 3)
    deviations, vectors = result.principal_components()
    np.testing.assert_array_equal(deviations, np.sort(deviations))
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    for deviation, vector in zip(deviations, vectors.T):
      np.testing.assert_allclose(
          result.covariance @ vector, deviation**2 * vector, atol=1e-8
      )
    self.assertGreater(deviations[0], 1)

  def test_grey_images_have_one_component(self):
    grey = images()[..., :1].repeat(3, axis=-1)
    deviations, vectors = statistics.compute(grey, 3).principal_components()
    expected = np.sqrt(3) * grey.astype(float).std()
    np.testing.assert_allclose(deviations[:2], 0, atol=1e-4)
    np.testing.assert_allclose(deviations[2], expected, rtol=1e-5)
    np.testing.assert_allclose(np.abs(vectors[:, 2]), 3**-0.5, rtol=1e-6)

  def test_no_image(self):
    with self.assertRaisesRegex(DataError, 'no image'):
      statistics.compute(iter(()), 0)


def accumulated(squares):
  accumulator = statistics.Accumulator()
  for one in squares:
    accumulator.add(one)
  return accumulator


def written(accumulator):
  """The bytes of a file of its statistics."""
  buffer = io.BytesIO()
  statistics.write(accumulator.statistics(), buffer)
  return buffer.getvalue()


class AccumulatorTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('colours', lambda: images(7)),
      # The largest sums that there are.
      ('white', lambda: np.full((3, 256, 256, 3), 255, np.uint8)),
      ('odd', lambda: np.full((3, 256, 256, 3), (255, 253, 1), np.uint8)),
      ('black', lambda: np.zeros((2, 256, 256, 3), np.uint8)),
      ('one', lambda: images(1)),
  )
  def test_sums_are_exact(self, make):
    squares = make()
    accumulator = accumulated(squares)
    wide = squares.astype(np.int64)
    self.assertEqual(accumulator.count, len(squares))
    self.assertEqual(accumulator.pixel_sum.dtype, np.uint64)
    self.assertEqual(accumulator.products.dtype, np.uint64)
    np.testing.assert_array_equal(accumulator.pixel_sum, wide.sum(0))
    flat = wide.reshape(-1, 3)
    np.testing.assert_array_equal(accumulator.products, flat.T @ flat)

  def test_statistics_of_the_sums(self):
    squares = images(7)
    result = accumulated(squares).statistics()
    wide = squares.astype(np.float64)
    # Rounded once, from the exact mean.
    np.testing.assert_array_equal(
        result.mean_image, wide.mean(0).astype(np.float32)
    )
    np.testing.assert_allclose(
        result.covariance,
        np.cov(wide.reshape(-1, 3), rowvar=False, bias=True),
        rtol=1e-10,
    )

  def test_as_many_images_as_imagenet(self):
    """Sums of 1.28 million white images, by doubling, and one black one."""
    accumulator = accumulated(np.full((1, 256, 256, 3), 255, np.uint8))
    doublings = 20
    for _ in range(doublings):
      half = accumulated([])
      half.merge(accumulator)
      accumulator.merge(half)
    accumulator.add(np.zeros((256, 256, 3), np.uint8))
    white = 2**doublings
    self.assertEqual(accumulator.count, white + 1)
    # Whole numbers of Python's.
    self.assertEqual(int(accumulator.products[0, 2]), white * 256**2 * 255**2)
    self.assertEqual(int(accumulator.pixel_sum[5, 7, 1]), white * 255)
    share = white / (white + 1)
    np.testing.assert_allclose(
        accumulator.statistics().covariance,
        np.full((3, 3), 255**2 * share * (1 - share)),
        atol=1e-6,  # Of 0.06, a difference of numbers near 65,025.
    )

  def test_any_order_gives_the_same_bytes(self):
    squares = images(6)
    expected = written(accumulated(squares))
    parts = [squares[:1], squares[1:4], squares[4:]]
    for order in itertools.permutations(range(3)):
      merged = statistics.Accumulator()
      for i in order:
        merged.merge(accumulated(parts[i][::-1]))
      self.assertEqual(written(merged), expected)
    self.assertNotEqual(written(accumulated(squares[:5])), expected)

  def test_the_same_bytes_tomorrow(self):
    accumulator = accumulated(images(1))
    today = written(accumulator)
    with mock.patch.object(time, 'time', return_value=time.time() + 86400):
      self.assertEqual(written(accumulator), today)

  def test_what_is_merged_stays_as_it_is(self):
    one, other = accumulated(images(2)), accumulated(images(1, seed=1))
    before = written(other)
    one.merge(other)
    one.add(images(1)[0])
    self.assertEqual(written(other), before)

  def test_write_and_load(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'statistics.npz'
    path.write_bytes(written(accumulated(images(2))))
    result = statistics.load(path)
    wide = images(2).astype(np.float64)
    np.testing.assert_allclose(result.mean_image, wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(
        result.covariance,
        np.cov(wide.reshape(-1, 3), rowvar=False, bias=True),
        rtol=1e-10,
    )

  def test_nothing_added(self):
    with self.assertRaisesRegex(DataError, 'no image'):
      accumulated([]).statistics()


class ImageNetTest(absltest.TestCase):

  def test_numbers_of_the_release(self):
    np.testing.assert_array_equal(
        statistics.IMAGENET_DEVIATIONS, [19.7208, 37.0939, 121.7801]
    )
    np.testing.assert_array_equal(
        statistics.IMAGENET_CHANNEL_MEANS, [127.30, 119.72, 104.91]
    )
    # As eigenvalues of pixels in 0..1.
    np.testing.assert_allclose(
        statistics.IMAGENET_DEVIATIONS**2 / 255**2,
        [0.0060, 0.0212, 0.2281],
        atol=5e-5,
    )

  def test_eigenvectors(self):
    vectors = statistics.IMAGENET_EIGENVECTORS
    # Four digits each.
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=3e-4)
    # Brightness, then blue against red, then purple against green.
    np.testing.assert_array_equal(vectors[:, 2], [-0.5635, -0.5762, -0.5920])
    np.testing.assert_array_equal(vectors[:, 1], [-0.7126, -0.0235, 0.7012])
    np.testing.assert_array_equal(vectors[:, 0], [0.4180, -0.8170, 0.3973])


class CacheTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)
    self.data = self.root / 'data'
    self.data.mkdir()
    self.user_cache = self.root / 'cache'
    self.enterContext(
        mock.patch.dict(os.environ, XDG_CACHE_HOME=str(self.user_cache))
    )
    # Nothing can be made below a file, not even by root.
    (self.root / 'file').write_bytes(b'')
    self.unwritable = self.root / 'file' / 'data'

  def files(self):
    """All files below the root but the one that is in the way."""
    return {
        str(path.relative_to(self.root))
        for path in self.root.rglob('*')
        if path.is_file()
    } - {'file'}

  def load(self, source, squares=None, directory=None):
    squares = images() if squares is None else squares
    return statistics_cache.load_or_compute(source, iter(squares), directory)

  def assert_cached_in(self, path, source, directory=None):
    """A first call writes one file and a second one reads no image."""
    first = self.load(source, directory=directory)
    self.assertEqual(
        self.files(), {f'{path}/alexnet_statistics_{source.fingerprint()}.npz'}
    )
    again = self.load(source, unread(), directory)
    np.testing.assert_array_equal(first.mean_image, again.mean_image)
    np.testing.assert_array_equal(first.covariance, again.covariance)
    self.assertEqual(first.mean_image.dtype, again.mean_image.dtype)
    np.testing.assert_allclose(first.mean_image, images().mean(0), rtol=1e-6)

  def test_beside_the_data(self):
    self.assert_cached_in('data', FakeSource(self.data))

  def test_given_directory(self):
    directory = str(self.root / 'made' / 'for' / 'this')
    self.assert_cached_in('made/for/this', FakeSource(self.data), directory)

  def test_given_directory_of_a_source_without_one(self):
    directory = str(self.root / 'given')
    self.assert_cached_in('given', FakeSource(None), directory)

  def test_given_directory_in_the_home(self):
    with mock.patch.dict(os.environ, HOME=str(self.root)):
      self.assert_cached_in('mine', FakeSource(self.data), '~/mine')

  def test_data_that_cannot_be_written(self):
    self.assert_cached_in('cache/alexnet', FakeSource(self.unwritable))

  def test_no_user_cache_set(self):
    with mock.patch.dict(os.environ, HOME=str(self.root)):
      del os.environ['XDG_CACHE_HOME']
      self.assert_cached_in('.cache/alexnet', FakeSource(self.unwritable))

  def test_nowhere_to_write(self):
    os.environ['XDG_CACHE_HOME'] = str(self.unwritable)
    result = self.load(FakeSource(self.unwritable))
    np.testing.assert_allclose(result.mean_image, images().mean(0), rtol=1e-6)
    self.assertEmpty(self.files())

  def test_source_without_a_directory(self):
    self.load(FakeSource(None))
    self.assertEmpty(self.files())

  def test_other_data(self):
    self.load(FakeSource(self.data, 'f00d'))
    other = self.load(FakeSource(self.data, 'beef'), images(seed=1))
    np.testing.assert_allclose(
        other.mean_image, images(seed=1).mean(0), rtol=1e-6
    )
    self.assertLen(self.files(), 2)

  def test_damaged(self):
    source = FakeSource(self.data)
    self.load(source)
    path = self.root / self.files().pop()
    whole = path.read_bytes()
    for damaged in (b'', b'no archive', whole[: len(whole) // 2]):
      path.write_bytes(damaged)
      with self.assertRaisesRegex(DataError, f'{path}.*remove the file'):
        self.load(source, unread())

  def test_bad_image_leaves_nothing(self):
    def squares():
      yield images()[0]
      raise DataError('cannot decode x.jpg')

    with self.assertRaisesRegex(DataError, 'x.jpg'):
      self.load(FakeSource(self.data), squares())
    self.assertEmpty(self.files())

  def test_full_disk_leaves_nothing(self):
    def savez(file, **_):
      file.write(b'half')
      raise OSError(28, 'No space left on device')

    with mock.patch.object(np, 'savez', savez):
      result = self.load(FakeSource(self.data))
    np.testing.assert_allclose(result.mean_image, images().mean(0), rtol=1e-6)
    self.assertEmpty(self.files())


if __name__ == '__main__':
  absltest.main()
