"""Searches in blocks beside all distances at once."""

from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from alexnet.analysis.features import blocks, nearest


def brute_force_hamming(index, queries, count):
  """From the definition: unpacked bits, stable order."""
  bits = lambda codes: np.unpackbits(codes, axis=1).astype(np.int32)
  differ = (bits(index)[None] != bits(queries)[:, None]).sum(axis=2)
  rows = np.argsort(differ, axis=1, kind='stable')[:, :count]
  return np.take_along_axis(differ, rows, axis=1), rows


class HammingTest(parameterized.TestCase):

  @parameterized.product(
      bits=(16, 32, 48, 64, 128, 256), block=(7, 64, 10_000)
  )
  def test_is_brute_force(self, bits, block):
    rng = np.random.default_rng(bits)
    # Few different codes, so that many are equally near.
    some = rng.integers(0, 256, (40, bits // 8), np.uint8)
    index = some[rng.integers(0, 40, 500)]
    queries = np.concatenate([some[:3], ~some[:2]])
    with mock.patch.object(nearest, '_CODES', block):
      distances, rows = nearest.Hamming(index).search(queries, 25)
    wanted_distances, wanted_rows = brute_force_hamming(index, queries, 25)
    np.testing.assert_array_equal(distances, wanted_distances)
    np.testing.assert_array_equal(rows, wanted_rows)

  def test_by_hand(self):
    bits = np.array([[0] * 16, [1] * 16, [1, 0] * 8, [1] + [0] * 15], bool)
    codes = nearest.pack(bits)
    self.assertEqual(codes.tolist(), [[0, 0], [255, 255], [170, 170], [128, 0]])
    distances, rows = nearest.Hamming(codes).search(codes[:1], 4)
    self.assertEqual(rows.tolist(), [[0, 3, 2, 1]])
    self.assertEqual(distances.tolist(), [[0, 1, 8, 16]])

  def test_all_bits(self):
    codes = np.zeros((2, 8), np.uint8)
    codes[1] = 255
    distances, _ = nearest.Hamming(codes).search(codes[:1], 2)
    self.assertEqual(distances.tolist(), [[0, 64]])


class EuclideanTest(parameterized.TestCase):

  @parameterized.product(
      rows=(3, 50, 1000), dtype=('float32', 'float16'), kept=(True, False)
  )
  def test_is_brute_force(self, rows, dtype, kept):
    rng = np.random.default_rng(0)
    index = rng.standard_normal((200, 12)).astype(dtype)
    queries = rng.standard_normal((9, 12)).astype(np.float32)
    self.enter_context(mock.patch.object(blocks, '_BYTES', rows * 12 * 4))
    self.enter_context(
        mock.patch.object(nearest, '_CONVERTED_BYTES', 2**30 * kept)
    )
    search = nearest.Euclidean(index)
    self.assertEqual(
        search._parts is not None, kept or dtype == 'float32'
    )
    search.search(queries[:1], 3)  # An earlier search leaves nothing behind.
    distances, found = search.search(queries, 10)
    wide = index.astype(np.float64)
    wanted = np.sqrt(((queries[:, None] - wide[None]) ** 2).sum(axis=2))
    order = np.argsort(wanted, axis=1)[:, :10]
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(
        distances, np.take_along_axis(wanted, order, axis=1), rtol=1e-4
    )

  def test_nearest_to_itself(self):
    index = np.eye(5, dtype=np.float32)
    distances, rows = nearest.Euclidean(index).search(index, 2)
    self.assertEqual(rows[:, 0].tolist(), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(distances[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(distances[:, 1], np.sqrt(2), rtol=1e-6)


class PrecisionTest(absltest.TestCase):

  def test_by_hand(self):
    labels = np.array([0, 0, 1, 1])
    found = np.array([[0, 1], [0, 2], [2, 3]])
    self.assertEqual(nearest.precision(found, labels, np.array([0, 0, 1])), 5/6)


if __name__ == '__main__':
  absltest.main()
