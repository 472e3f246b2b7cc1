"""Blocks are all rows, samples some of them."""

import numpy as np
from absl.testing import absltest

from alexnet.analysis.features import blocks


class BlocksTest(absltest.TestCase):

  def test_blocks_are_all_rows(self):
    vectors = np.arange(60, dtype=np.float16).reshape(20, 3)
    got = [*blocks.each(vectors)]
    self.assertEqual([start for start, _ in got], [0])
    self.assertEqual(got[0][1].dtype, np.float32)
    # 64 MiB of float32.
    self.assertEqual(blocks.rows_of(4096), 4096)

  def test_sample(self):
    vectors = np.arange(1000, dtype=np.float16)[:, None].repeat(2, axis=1)
    np.testing.assert_array_equal(blocks.sample(vectors, 1000), vectors)
    some = blocks.sample(vectors, 100)
    self.assertEqual(some.shape, (100, 2))
    self.assertEqual(len({*some[:, 0].tolist()}), 100)
    self.assertTrue((np.diff(some[:, 0]) > 0).all())
    self.assertBetween(some.mean(), 400, 600)


if __name__ == '__main__':
  absltest.main()
