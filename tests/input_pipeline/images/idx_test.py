"""IDX files that the test writes byte by byte, and what is refused."""

import gzip
import io
import os
import pathlib
import struct
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from configs import alexnet
from input_pipeline import datasets
from input_pipeline.errors import DataError
from input_pipeline.images import idx
from input_pipeline.prepared import origins

_NAMES = (
    'train-images-idx3-ubyte', 'train-labels-idx1-ubyte',
    't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte',
)


def encode(array, kind=8):
  """By the format's description (yann.lecun.com/exdb/mnist)."""
  head = bytes([0, 0, kind, array.ndim])
  return head + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes()


class IDXTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)
    rng = np.random.default_rng(0)
    self.arrays = {
        _NAMES[0]: rng.integers(0, 256, (12, 28, 20)).astype(np.uint8),
        _NAMES[1]: (np.arange(12) % 3).astype(np.uint8),
        _NAMES[2]: rng.integers(0, 256, (5, 28, 20)).astype(np.uint8),
        _NAMES[3]: np.array([2, 0, 1, 1, 0], np.uint8),
    }

  def write(self, suffix='', names=_NAMES):
    for name in names:
      data = encode(self.arrays[name])
      if suffix == '.gz':
        data = gzip.compress(data)
      (self.root / f'{name}{suffix}').write_bytes(data)

  def create(self, name='idx', **fields):
    config = alexnet.get_config(name).dataset
    config.dir = str(self.root)
    config.update(fields)
    return datasets.create_sources(config, 0)

  @parameterized.parameters('', '.gz')
  def test_sets(self, suffix):
    self.write(suffix)
    for source, images, labels in zip(
        self.create(), (_NAMES[0], _NAMES[2]), (_NAMES[1], _NAMES[3])
    ):
      self.assertLen(source, len(self.arrays[labels]))
      self.assertEqual(source.class_names, ('0', '1', '2'))
      for index, (image, label) in enumerate(
          zip(self.arrays[images], self.arrays[labels])
      ):
        encoded, got = source.read(index)
        self.assertEqual(got, label)
        np.testing.assert_array_equal(Image.open(io.BytesIO(encoded)), image)
        picture, got = source.picture(index)
        self.assertEqual((picture.mode, got), ('RGB', label))
        for channel in picture.split():
          np.testing.assert_array_equal(channel, image)

  def test_other_name_of_the_files(self):
    self.write()
    for name in _NAMES:
      path = self.root / name
      path.rename(self.root / name.replace('-idx', '.idx'))
    self.assertLen(self.create()[1], 5)

  def test_identity(self):
    self.write()
    train, evaluation = self.create()
    self.assertNotEqual(train.fingerprint(), evaluation.fingerprint())
    self.assertEqual(train.fingerprint(), self.create()[0].fingerprint())
    self.arrays[_NAMES[1]][3] = 1
    self.write()
    self.assertNotEqual(train.fingerprint(), self.create()[0].fingerprint())

  def test_names(self):
    """MNIST's by number; Fashion-MNIST's as its authors call them."""
    self.write()
    self.assertEqual(self.create('mnist')[0].class_names, ('0', '1', '2'))
    names = self.create('fashion_mnist')[0].class_names
    self.assertLen(names, 10)
    self.assertEqual((names[0], names[9]), ('T-shirt/top', 'Ankle boot'))

  def test_debians_place(self):
    self.write('.gz')
    config = alexnet.get_config('fashion_mnist').dataset
    with mock.patch.object(datasets, '_FASHION_MNIST', self.root):
      train, evaluation = datasets.create_sources(config, 0)
    self.assertEqual((len(train), len(evaluation)), (12, 5))

  def test_to_prepare(self):
    self.write('.gz')
    train, evaluation = origins.open_origin(str(self.root), scratch=self.root)
    self.assertEqual((len(train), len(evaluation)), (12, 5))
    with self.assertRaisesRegex(DataError, 'leave --eval_source'):
      origins.open_origin(
          str(self.root), scratch=self.root, eval_source='elsewhere'
      )

  def test_fixed_sets(self):
    self.write()
    self.assertLen(self.create(eval_split='test')[1], 5)
    with self.assertRaisesRegex(DataError, r"train_split is 'train\[:5\]'"):
      self.create(train_split='train[:5]')

  def test_no_folder(self):
    config = alexnet.get_config('idx').dataset
    with self.assertRaisesRegex(DataError, "'idx', but no folder .*set.dir"):
      datasets.create_sources(config, 0)

  @parameterized.parameters(*range(4))
  def test_missing_file(self, number):
    self.write(names=[n for n in _NAMES if n != _NAMES[number]])
    with self.assertRaisesRegex(DataError, f'has no {_NAMES[number]}, nor'):
      self.create()

  @parameterized.parameters('', '.gz')
  def test_refused(self, suffix):
    self.write()
    good = encode(self.arrays[_NAMES[0]])
    huge = struct.pack('>3I', 2**32 - 1, 2**32 - 1, 2**32 - 1)
    for data, message in (
        (b'', 'begins with nothing'),
        (b'\0', 'begins with 00, expected two zero bytes'),
        (b'\x89PNG' + good, 'begins with 89504e47'),
        (encode(self.arrays[_NAMES[0]], 9), 'type 9 in 3 dim.*8 .bytes. in 3'),
        (encode(self.arrays[_NAMES[1]]), 'type 8 in 1 dimension'),
        (good[:11], 'ends in its header'),
        (good[:4] + huge, r'4294967295 x 4294967295 x .* expected at most'),
        (good[:-1], '12 x 28 x 20 bytes, 6,719 follow'),
        (good[:16], '12 x 28 x 20 bytes, 0 follow'),
        (good + b'\0', 'bytes, more follow'),
        (encode(np.zeros((0, 28, 28), np.uint8)), 'has 0 images and'),
        (encode(np.zeros((11, 28, 28), np.uint8)), 'has 11 images and .*12 la'),
        (encode(np.zeros((12, 7, 28), np.uint8)), 'has 28 x 7 pixels, expec'),
        (encode(np.zeros((12, 0, 28), np.uint8)), 'has 28 x 0 pixels, expec'),
    ):
      (self.root / _NAMES[0]).unlink(missing_ok=True)
      path = self.root / f'{_NAMES[0]}{suffix}'
      path.write_bytes(gzip.compress(data) if suffix else data)
      with self.assertRaisesRegex(DataError, message) as caught:
        self.create()
      self.assertIn(_NAMES[0], str(caught.exception))
      self.assertNotIn('\n', str(caught.exception))

  def test_damaged_gzip(self):
    self.write('.gz')
    path = self.root / f'{_NAMES[0]}.gz'
    good = path.read_bytes()
    for bad in (good[:-9], good[:100], good[:50] + b'\0\xff' + good[52:]):
      path.write_bytes(bad)
      with self.assertRaisesRegex(DataError, f'cannot read .*{_NAMES[0]}'):
        self.create()

  def test_compressed_too_well(self):
    """A small file that says, and has, far more than it may."""
    self.write()
    (self.root / _NAMES[0]).unlink()
    data = encode(np.zeros((2**11, 32, 32), np.uint8))
    path = self.root / f'{_NAMES[0]}.gz'
    path.write_bytes(gzip.compress(data))
    with (
        mock.patch.object(idx, '_SMALLEST_LIMIT', 2**20),
        self.assertRaisesRegex(DataError, '2048 x 32 x 32 bytes, expected at'),
    ):
      self.create()

  def test_labels_that_are_no_classes(self):
    self.arrays[_NAMES[3]][2] = 7
    self.write()
    with self.assertRaisesRegex(DataError, 'label 7, .* 3 classes of its tra'):
      self.create()
    self.arrays[_NAMES[1]][0] = 10
    self.write()
    with self.assertRaisesRegex(DataError, 'label 10, .* of Fashion-MNIST'):
      self.create('fashion_mnist')

  def test_a_pipe_is_not_waited_for(self):
    self.write()
    (self.root / _NAMES[0]).unlink()
    os.mkfifo(self.root / _NAMES[0])
    with self.assertRaisesRegex(DataError, f'has no {_NAMES[0]}'):
      self.create()


if __name__ == '__main__':
  absltest.main()
