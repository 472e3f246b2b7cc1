"""Features of several layers beside those of one."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from alexnet.analysis.features import images, layer_features
from tests import testing, tiny_run


class LayersTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.network = tiny_run.write(
        directory / 'run', directory / 'gone', classes=3
    )
    cls.images = testing.write_images(directory / 'other', 2, 20)
    cls.sets = images.open_sets(str(cls.images), config=cls.network.config)

  def features(self, layers, largest, params=None):
    indices = np.array([3, 30, 17, 5, 8])
    reader = layer_features.Layers(self.network, layers, largest, batch_size=2)
    found, labels = reader.features(
        {'params': self.network.params if params is None else params},
        self.sets['train'],
        indices,
    )
    photos = sorted(self.images.rglob('*.jpg'))
    return found, labels, [photos[index] for index in indices]

  def test_features_of_several_layers(self):
    found, labels, photos = self.features(['pixels', 'pool5', 'fc6'], 10_000)
    self.assertEqual(labels.tolist(), [0, 1, 0, 0, 0])
    for layer in ('pool5', 'fc6'):
      wanted = self.network.features(photos, layer).reshape(5, -1)
      np.testing.assert_allclose(
          found[layer], wanted, rtol=1e-4, atol=1e-4
      )
    # 57 x 57 cells of 224 x 224 pixels; their mean is that of the crop.
    self.assertEqual(found['pixels'].shape, (5, 57 * 57 * 3))
    crops = self.network.squares(photos)[:, 16:-16, 16:-16] - 120.0
    np.testing.assert_allclose(
        found['pixels'].mean(axis=1), crops.mean(axis=(1, 2, 3)), atol=0.5
    )

  def test_random_weights_are_of_their_seed(self):
    first, again, other = (
        layer_features.initial(self.network, seed)['params']['conv1']['kernel']
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    self.assertGreater(np.abs(first - other).max(), 0)
    self.assertNotEqual(
        *(
            float(self.features(['fc7'], 10, params)[0]['fc7'].sum())
            for params in (
                None, layer_features.initial(self.network, 5)['params']
            )
        )
    )


class AverageCellsTest(parameterized.TestCase):

  @parameterized.parameters(
      (13, 13, 55, 5), (6, 6, 72, 6), (27, 27, 200, 10), (7, 9, 18, 3),
      (5, 5, 1, 1),
  )
  def test_is_the_mean_over_cells(self, height, width, largest, side):
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, height, width, 2)).astype(np.float32)
    got = np.asarray(layer_features.average_cells(maps, largest))
    self.assertEqual(got.shape, (3, side * side * 2))
    got = got.reshape(3, side, side, 2)
    for i in range(side):
      rows = slice(i * height // side, int(np.ceil((i + 1) * height / side)))
      for j in range(side):
        columns = slice(j * width // side, int(np.ceil((j + 1) * width / side)))
        np.testing.assert_allclose(
            got[:, i, j], maps[:, rows, columns].mean(axis=(1, 2)), atol=1e-5
        )

  def test_vectors_stay(self):
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(
        layer_features.average_cells(vectors, 1), vectors
    )


if __name__ == '__main__':
  absltest.main()
