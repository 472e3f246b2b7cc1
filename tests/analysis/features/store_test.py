"""Features on disk, read with NumPy alone."""

import json
import pathlib

import numpy as np
from absl.testing import absltest, parameterized

from alexnet.analysis.features import store

_NAMES = ['a/1.jpg', 'b/häßlich\n.jpg', 'c/3.jpg', 'c/4.jpg', 'e.jpg']


def write(path, dtype='float32', shape=(2, 3), count=5, **about):
  rng = np.random.default_rng(0)
  features = rng.standard_normal((count, *shape)).astype(np.float32)
  labels = np.arange(count) - 1
  names = [_NAMES[i % 5] for i in range(count)]
  writer = store.Writer(path, {'layer': 'fc7', **about}, dtype)
  for start in range(0, count, 2):
    part = slice(start, start + 2)
    indices = np.arange(count)[part] * 10
    writer.add(features[part], labels[part], indices, names[part])
  writer.close()
  return features, labels


class FeatureSetTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.product(
      name=('set', 'set.npz'),
      dtype=store.DTYPES,
      shape=((4,), (2, 3, 2)),
  )
  def test_comes_back(self, name, dtype, shape):
    features, labels = write(self.directory / name, dtype, shape)
    got = store.load(self.directory / name)
    np.testing.assert_array_equal(got.features, features.astype(dtype))
    self.assertEqual(got.features.dtype, dtype)
    self.assertEqual(got.vectors.shape, (5, np.prod(shape)))
    np.testing.assert_array_equal(got.labels, labels)
    self.assertEqual(got.indices.tolist(), [0, 10, 20, 30, 40])
    # A line break in a name is shown, and ends no line.
    self.assertEqual(
        list(got.names),
        ['a/1.jpg', 'b/häßlich\\n.jpg', 'c/3.jpg', 'c/4.jpg', 'e.jpg'],
    )
    self.assertEqual(got.about['layer'], 'fc7')
    self.assertLen(got, 5)

  def test_folder_is_plain_numpy_and_mapped(self):
    """The header is written twice, for any number of images."""
    features, labels = write(self.directory / 'set', count=1234)
    plain = np.load(self.directory / 'set' / 'features.npy', allow_pickle=False)
    np.testing.assert_array_equal(plain, features)
    np.testing.assert_array_equal(
        np.load(self.directory / 'set' / 'labels.npy'), labels
    )
    got = store.load(self.directory / 'set')
    self.assertIsInstance(got.features, np.memmap)
    self.assertEqual(got.names[-1], _NAMES[1233 % 5])
    self.assertEqual(got.names[2:4], ['c/3.jpg', 'c/4.jpg'])

  def test_what_is_not_closed_takes_nothing_away(self):
    for name in ('set', 'set.npz'):
      path = self.directory / name
      features, _ = write(path)
      with (
          self.assertRaises(KeyboardInterrupt),
          store.Writer(path, {}) as writer,
      ):
        writer.add(np.zeros((1, 2)), [0], [0], ['a'])
        raise KeyboardInterrupt
      np.testing.assert_array_equal(store.load(path).features, features)
      writer = store.Writer(path, {})
      with self.assertRaisesRegex(store.FeaturesError, 'no image'):
        writer.close()
      np.testing.assert_array_equal(store.load(path).features, features)
      # A killed process.
      store.Writer(path, {}).add(np.zeros((1, 2)), [0], [0], ['a'])
      np.testing.assert_array_equal(store.load(path).features, features)
      write(path, count=3)
      self.assertLen(store.load(path), 3)
    self.assertEqual(
        {path.name for path in (self.directory / 'set').iterdir()},
        {'features.npy', 'labels.npy', 'indices.npy', 'names.txt',
         'manifest.json'},
    )
    self.assertLen([*self.directory.iterdir()], 2)

  def test_codes_of_an_earlier_set_go(self):
    path = self.directory / 'set'
    write(path)
    (path / 'code-32.npz').write_text('')
    (path / 'notes.txt').write_text('of the user')
    write(path)
    self.assertFalse((path / 'code-32.npz').exists())
    self.assertTrue((path / 'notes.txt').exists())

  def test_damaged(self):
    path = self.directory / 'set'
    write(path)
    with open(path / 'names.txt', 'a') as f:
      f.write('one more\n')
    with self.assertRaisesRegex(store.FeaturesError, 'make them again'):
      store.load(path)
    (self.directory / 'bad.npz').write_bytes(b'PK')
    with self.assertRaisesRegex(store.FeaturesError, 'cannot read'):
      store.load(self.directory / 'bad.npz')

  def test_no_pickle(self):
    path = self.directory / 'set'
    write(path)
    np.save(path / 'labels.npy', np.array([{}] * 5, object))
    with self.assertRaisesRegex(store.FeaturesError, r"type '\|O'"):
      store.load(path)

  def test_leaves_other_folders_alone(self):
    (self.directory / 'photos').mkdir()
    (self.directory / 'photos' / 'a.jpg').write_text('')
    with self.assertRaisesRegex(store.FeaturesError, '--output'):
      store.Writer(self.directory / 'photos', {})

  def test_empty(self):
    writer = store.Writer(self.directory / 'set', {})
    with self.assertRaisesRegex(store.FeaturesError, 'no image'):
      writer.close()
    self.assertFalse((self.directory / 'set').exists())

  def test_manifest(self):
    write(self.directory / 'set', step=7)
    about = json.loads((self.directory / 'set' / 'manifest.json').read_text())
    self.assertEqual(
        about,
        {
            'format': 2, 'images': 5, 'layer': 'fc7', 'step': 7,
            'shape': [2, 3], 'dtype': 'float32',
        },
    )


if __name__ == '__main__':
  absltest.main()
