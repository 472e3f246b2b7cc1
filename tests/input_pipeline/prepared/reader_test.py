"""Prepared data as a source: images, batches, configs, what is refused."""

import io
import itertools
import json
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from configs import alexnet, alexnet_2012
from input_pipeline import datasets
from input_pipeline.errors import DataError
from input_pipeline.pipeline import Pipeline
from input_pipeline.prepared import reader
from input_pipeline.preprocessing import Box
from tests import preparing


class PreparedTest(preparing.PreparingTest):
  """15 + 3 images of three classes, in shards of 4."""

  def setUp(self):
    super().setUp()
    self.photos = preparing.write_photos(self.root / 'in', 6)

  def prepare_photos(self, *flags, out=None):
    self.prepare(self.photos, *flags, out=out, shard=4)


class SourceTest(PreparedTest):

  @parameterized.product(
      storage=('raw', 'jpeg'), set_name=('train', 'evaluation')
  )
  def test_is_what_the_directory_holds(self, storage, set_name):
    """In the order of the files, and in any other."""
    self.prepare_photos(f'--storage={storage}')
    sets = reader.open_prepared(self.out)
    source = sets[set_name == 'evaluation']
    stored = preparing.load(self.out, set_name)
    self.assertLen(source, 15 if set_name == 'train' else 3)
    self.assertEqual(tuple(source.class_names), ('ant', 'newt', 'yak'))
    self.assertEqual(source.directory, self.out)
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    for index in [*range(len(source)), *order]:
      encoded, label = source.read(index)
      item = stored.items[index]
      if storage == 'raw':
        expected = item
        self.assertEqual(Image.open(io.BytesIO(encoded)).format, 'PNG')
      else:
        expected = np.asarray(Image.open(io.BytesIO(item)))
        self.assertTrue(encoded == item)
      np.testing.assert_array_equal(
          np.asarray(Image.open(io.BytesIO(encoded))), expected
      )
      whole, same_label = source.image(index)
      part, _ = source.image(index, Box(3, 32, 224))
      np.testing.assert_array_equal(whole, expected)
      np.testing.assert_array_equal(part, expected[3:227, 32:256])
      self.assertEqual(label, stored.labels[index])
      self.assertEqual(same_label, label)
      self.assertEqual(source.describe(index), stored.names[index])

  def test_statistics(self):
    self.prepare_photos()
    train, _ = reader.open_prepared(self.out)
    with np.load(self.out / 'statistics.npz') as arrays:
      found = train.statistics()
      np.testing.assert_array_equal(found.mean_image, arrays['mean_image'])
      np.testing.assert_array_equal(found.covariance, arrays['covariance'])

  def test_identity(self):
    """That of a copy elsewhere, and of no other images or settings."""
    self.prepare_photos()
    shutil.copytree(self.out, self.root / 'copy')
    self.prepare_photos('--quality=94', out=self.root / 'other')
    self.prepare_photos('--seed=1', out=self.root / 'seed')
    train, evaluation = reader.open_prepared(self.out)
    copy, _ = reader.open_prepared(self.root / 'copy')
    self.assertEqual(copy.identity(), train.identity())
    others = [
        reader.open_prepared(self.root / name)[0].identity()
        for name in ('other', 'seed')
    ]
    everything = {train.identity(), evaluation.identity(), *others}
    self.assertLen(everything, 4)


class BatchesTest(PreparedTest):

  @parameterized.parameters(alexnet, alexnet_2012)
  def test_the_batches_of_the_folder(self, recipe):
    """From pixels, with the same seed: images, crops, colours, means."""
    self.prepare_photos('--storage=raw', '--seed=3', '--eval_fraction=0.3')
    pipelines = []
    for name in ('folder', 'prepared'):
      config = recipe.get_config(name)
      config.seed = 3
      config.batch_size = 8
      config.dataset.eval_fraction = 0.3
      config.dataset.train_dir = str(self.photos)
      config.dataset.dir = str(self.out)
      config.dataset.statistics_dir = str(self.root / 'statistics')
      pipelines.append(
          Pipeline(config, *datasets.create_sources(config.dataset, 3))
      )
    folder, fast = pipelines
    self.assertIsInstance(fast.train, reader.Prepared)
    np.testing.assert_array_equal(fast.mean_image, folder.mean_image)
    for one, other in zip(
        itertools.islice(folder.training_batches(1), 5),
        fast.training_batches(1),
    ):
      self.assert_equal_batches(one, other)
    ones, others = (list(p.evaluation_batches(4)) for p in pipelines)
    self.assertLen(others, 2)
    for one, other in zip(ones, others):
      self.assert_equal_batches(one, other)

  def assert_equal_batches(self, one, other):
    self.assertEqual(one.keys(), other.keys())
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], name)

  def test_no_image_is_read_for_statistics(self):
    self.prepare_photos()
    config = alexnet.get_config('prepared')
    sets = reader.open_prepared(self.out)
    with (
        mock.patch.object(reader.Prepared, 'image', side_effect=TypeError),
        mock.patch.object(reader.Prepared, 'read', side_effect=TypeError),
    ):
      pipeline = Pipeline(config, *sets)
    with np.load(self.out / 'statistics.npz') as arrays:
      np.testing.assert_array_equal(pipeline.mean_image, arrays['mean_image'])


class ConfigTest(PreparedTest):

  def create(self, name, directory):
    config = alexnet.get_config(name).dataset
    config.dir = directory and str(directory)
    return datasets.create_sources(config, 0)

  def test_prepared(self):
    self.prepare_photos()
    train, evaluation = self.create('prepared', self.out)
    self.assertEqual((len(train), len(evaluation)), (15, 3))

  @parameterized.parameters('.', 'prepared/imagenet2012')
  def test_in_place_of_tensorflow_datasets(self, place):
    self.prepare_photos(out=self.root / 'data' / place)
    train, evaluation = self.create('imagenet2012', self.root / 'data')
    self.assertEqual(train.directory, self.root / 'data' / place)
    self.assertEqual((len(train), len(evaluation)), (15, 3))

  def test_other_splits_than_it_has(self):
    self.prepare_photos()
    config = alexnet.get_config('imagenet2012').dataset
    config.dir, config.train_split = str(self.out), 'train[:10%]'
    with self.assertRaisesRegex(DataError, r"train_split is 'train\[:10%\]'"):
      datasets.create_sources(config, 0)

  def test_prepared_under_the_name_of_another_dataset(self):
    self.prepare_photos(out=self.root / 'data/prepared/imagenette')
    with self.assertRaisesRegex(DataError, 'img_train.tar'):
      self.create('imagenet2012', self.root / 'data')

  def test_not_finished_is_not_used(self):
    self.prepare_photos('--part=0/1', out=self.root / 'prepared/imagenet2012')
    with self.assertRaisesRegex(DataError, 'img_train.tar'):
      self.create('imagenet2012', self.root)

  def test_no_directory(self):
    with self.assertRaisesRegex(DataError, 'set --config.dataset.dir'):
      self.create('prepared', None)

  def test_no_evaluation_set(self):
    self.prepare_photos('--eval_fraction=0')
    train, evaluation = reader.open_prepared(self.out)
    self.assertLen(train, 18)
    self.assertIsNone(evaluation)
    with self.assertRaisesRegex(
        DataError, f'{self.out} has no evaluation set.*--eval_source'
    ):
      self.create('prepared', self.out)


class RefusedTest(PreparedTest):
  """Copies of data that is prepared once, each damaged in another way."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.whole = pathlib.Path(folder)

  def setUp(self):
    super().setUp()
    self.raw, self.jpeg = self.out, self.root / 'jpeg'
    for storage in 'raw', 'jpeg':
      whole = self.whole / storage
      if not whole.exists():
        self.prepare_photos(f'--storage={storage}', out=whole)
      shutil.copytree(whole, getattr(self, storage))

  def assert_not_opened(self, message, directory=None):
    with self.assertRaisesRegex(DataError, message):
      reader.open_prepared(directory or self.out)

  def test_no_manifest(self):
    self.assert_not_opened(
        f'{self.photos} has no manifest.json.*python -m input_pipeline.prepare',
        self.photos,
    )
    self.assert_not_opened('has no manifest.json', self.root / 'nowhere')

  @parameterized.parameters(
      'not json', '[1]', '{}', '\xff', '{"format": 2}', '{"format": "1"}'
  )
  def test_foreign_manifest(self, text):
    path = self.out / 'manifest.json'
    path.write_text(text, 'latin-1')
    self.assert_not_opened(f'{path}.*prepare again')

  def test_later_format(self):
    path = self.out / 'manifest.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'format': 2}))
    self.assert_not_opened(f'{path} is not of format 1')

  @parameterized.product(
      storage=('raw', 'jpeg'),
      name=('train-00002-of-00004.npy', 'evaluation-00000-of-00001.npy'),
      change=(-1, 1),
  )
  def test_size_of_a_shard(self, storage, name, change):
    directory = getattr(self, storage)
    path = directory / name
    size = path.stat().st_size
    with open(path, 'r+b') as f:
      f.truncate(size + change)
    self.assert_not_opened(
        f'{path} has {size + change:,} bytes, expected {size:,}: copy',
        directory,
    )

  def test_missing_shard(self):
    path = self.out / 'train-00003-of-00004.npy'
    path.unlink()
    self.assert_not_opened(f'cannot read {path} .*No such file.*: copy')

  @parameterized.parameters('missing', 'garbage', 'other')
  def test_labels(self, what):
    path = self.out / 'train.npz'
    path.unlink()
    if what == 'garbage':
      path.write_bytes(b'garbage')
    elif what == 'other':
      np.savez(path, something=1)
    self.assert_not_opened(f'cannot read {path} .*: copy the directory again')

  def test_foreign_shard_of_the_same_size(self):
    path = self.out / 'train-00001-of-00004.npy'
    path.write_bytes(bytes(path.stat().st_size))
    train, _ = reader.open_prepared(self.out)
    train.image(3)
    with self.assertRaisesRegex(DataError, f'cannot read {path}.*: copy'):
      train.image(4)

  @parameterized.parameters('missing', 'garbage')
  def test_statistics(self, what):
    path = self.out / 'statistics.npz'
    path.unlink()
    if what == 'garbage':
      path.write_bytes(b'garbage')
    train, _ = reader.open_prepared(self.out)
    with self.assertRaises(DataError) as caught:
      train.statistics()
    message = str(caught.exception)
    self.assertIn(f'cannot read {path}', message)
    # They cannot be computed again from the images that were there.
    self.assertNotIn('computed again', message)
    self.assertIn('copy the directory again', message)

  def test_names(self):
    (self.out / 'train.txt').unlink()
    train, _ = reader.open_prepared(self.out)
    train.image(0)
    with self.assertRaisesRegex(DataError, 'cannot read .*train.txt'):
      train.describe(0)

  def test_damaged_jpeg(self):
    """A message that names the image, also when a run meets it."""
    stored = preparing.load(self.jpeg)
    path = self.jpeg / 'train-00000-of-00004.npy'
    data = path.read_bytes()
    place = data.index(stored.items[2])
    self.assertNotEqual(place, -1)
    end = place + len(stored.items[2])
    path.write_bytes(data[:place] + bytes(end - place) + data[end:])
    train, evaluation = reader.open_prepared(self.jpeg)
    for index in (1, 3):
      train.image(index)
    message = f'{stored.names[2]} of {self.jpeg} .train. is damaged'
    with self.assertRaisesRegex(DataError, message):
      train.image(2)
    config = alexnet.get_config('prepared')
    config.batch_size = 15
    pipeline = Pipeline(config, train, evaluation)
    with self.assertRaisesRegex(DataError, message):
      next(pipeline.training_batches(0))

  def test_jpeg_that_ends_early(self):
    """The second half is lost; a decoder could guess it."""
    stored = preparing.load(self.jpeg)
    path = self.jpeg / 'train-00000-of-00004.npy'
    data = path.read_bytes()
    end = data.index(stored.items[2]) + len(stored.items[2])
    half = len(stored.items[2]) // 2
    path.write_bytes(data[: end - half] + bytes(half) + data[end:])
    train, _ = reader.open_prepared(self.jpeg)
    with self.assertRaisesRegex(DataError, 'is damaged'):
      train.image(2)


class PathTest(PreparedTest):

  def test_home(self):
    home = self.root / 'home'
    self.prepare_photos(out=home / 'data')
    config = alexnet.get_config('prepared').dataset
    config.dir = '~/data'
    with mock.patch.dict('os.environ', HOME=str(home)):
      train, _ = datasets.create_sources(config, 0)
    self.assertEqual(pathlib.Path(train.directory), home / 'data')


if __name__ == '__main__':
  absltest.main()
