"""Prepared data that keeps the shape of images, against Pillow."""

import io
import itertools
import json

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from configs import alexnet
from input_pipeline import datasets, preprocessing
from input_pipeline.errors import DataError
from input_pipeline.images import crops
from input_pipeline.pipeline import Pipeline
from input_pipeline.prepared import reader
from tests import preparing

_SIZES = ((90, 60), (60, 90), (64, 64), (250, 50), (72, 48))
_SHORTER = 48


class RectanglesTest(preparing.PreparingTest):

  def setUp(self):
    super().setUp()
    self.photos = self.root / 'in'
    for label, name in enumerate(('ant', 'newt')):
      for index, size in enumerate(_SIZES):
        path = self.photos / name / f'{index}.jpg'
        preparing.write_picture(path, 10 * label + index, *size)

  def prepare_rectangles(self, *flags):
    self.prepare(
        self.photos, '--keep_aspect', f'--size={_SHORTER}',
        '--eval_fraction=0.2', *flags, shard=4,
    )
    return reader.open_prepared(self.out)

  def config(self, **fields):
    config = alexnet.get_config('prepared')
    config.batch_size = 4
    config.dataset.dir = str(self.out)
    config.dataset.size, config.augmentation.crop_size = 40, 32
    config.augmentation.crop_offsets = 9
    config.update_from_flattened_dict(
        {name.replace('__', '.'): value for name, value in fields.items()}
    )
    return config

  def pipeline(self, **fields):
    config = self.config(**fields)
    return Pipeline(config, *datasets.create_sources(config.dataset, 0))

  def expected(self, name):
    """Shorter side to 48 by Pillow; ends beyond 4 times that cut off."""
    with Image.open(self.photos / name) as image:
      width, height = image.size
      factor = _SHORTER / min(width, height)
      whole = preparing.resize(
          image, round(width * factor), round(height * factor)
      )
    left = max(0, (whole.shape[1] - 4 * _SHORTER) // 2)
    return whole[:, left : left + 4 * _SHORTER]

  @parameterized.parameters('raw', 'jpeg')
  def test_images(self, storage):
    for source in self.prepare_rectangles(f'--storage={storage}'):
      self.assertEqual((source.size, source.shorter), (None, _SHORTER))
      self.assertEqual(source.aspect, 'keep')
      shapes = set()
      for index in range(len(source)):
        picture, label = source.picture(index)
        name = source.describe(index)
        self.assertEqual(name.startswith('newt'), bool(label))
        wanted = self.expected(name)
        shapes.add(wanted.shape[:2])
        pixels = np.asarray(picture).astype(int)
        self.assertEqual(pixels.shape, wanted.shape)
        if storage == 'raw':
          self.assertLessEqual(np.abs(pixels - wanted).max(), 2)
        else:  # Noise is the worst of images for JPEG.
          self.assertLess(np.abs(pixels - wanted).mean(), 20)
        encoded, _ = source.read(index)
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(encoded))), np.asarray(picture)
        )
        square, _ = source.resized(index, 40)
        np.testing.assert_array_equal(
            square, preprocessing.resized(picture, box=preprocessing.whole(40))
        )
    self.assertEqual(reader.verify(self.out), 10)

  def test_two_preparations_are_equal(self):
    self.prepare_rectangles()
    again = self.root / 'again'
    for part in ('--part=1/2', '--part=0/2', '--merge'):
      self.prepare(
          self.photos, '--keep_aspect', f'--size={_SHORTER}',
          '--eval_fraction=0.2', part, shard=4, out=again,
      )
    self.assert_same_bytes(again, self.out)

  def test_statistics_are_of_the_centre_squares(self):
    train, _ = self.prepare_rectangles('--storage=raw')
    squares = []
    for index in range(len(train)):
      pixels = np.asarray(train.picture(index)[0], np.float64)
      top, left = ((side - _SHORTER) // 2 for side in pixels.shape[:2])
      squares.append(pixels[top : top + _SHORTER, left : left + _SHORTER])
    mean = np.mean(squares, 0)
    stored = train.statistics()
    np.testing.assert_allclose(stored.mean_image, mean, rtol=1e-6)
    np.testing.assert_allclose(
        stored.covariance,
        np.cov(np.reshape(squares, (-1, 3)), rowvar=False, bias=True),
        rtol=1e-9,
    )
    # The run's mean image is that of the squares that it evaluates.
    pipeline = self.pipeline()
    self.assertEqual(pipeline.mean_image.shape, (40, 40, 3))
    smaller = [train.resized(i, 40)[0] for i in range(len(train))]
    np.testing.assert_allclose(
        pipeline.mean_image, np.mean(smaller, 0), atol=2.5
    )
    np.testing.assert_allclose(
        pipeline.mean_image.mean(), mean.mean(), atol=0.3
    )

  @parameterized.parameters('scale', 'area')
  def test_crops(self, kind):
    train, _ = self.prepare_rectangles('--storage=raw')
    pipeline = self.pipeline(
        augmentation__crop=kind, augmentation__mean_crop='centre',
        augmentation__scale=(36, 48), dataset__processes=1,
    )
    batches = [*itertools.islice(pipeline.training_batches(0), 3)]
    plan = pipeline.plan(0, 12)
    images = np.concatenate([batch['image'] for batch in batches])
    labels = np.concatenate([batch['label'] for batch in batches])
    region_of = crops.of_config(self.config(
        augmentation__crop=kind, augmentation__scale=(36, 48)
    ).augmentation)
    for pixels, label, index, words in zip(
        images, labels, plan.index.tolist(), plan.words.tolist()
    ):
      picture, expected = train.picture(index)
      self.assertEqual(label, expected)
      top, left, height, width = region_of(words, *picture.size)
      region = picture.resize(
          (32, 32), Image.Resampling.BICUBIC,
          box=(left, top, left + width, top + height),
      )
      difference = np.abs(pixels - np.asarray(region, int))
      self.assertLessEqual(difference.max(), 3)

  def test_offsets_and_evaluation_as_of_files(self):
    """As if the rectangles were a folder of images."""
    train, evaluation = self.prepare_rectangles('--storage=raw')
    pipeline = self.pipeline(dataset__mean='channels')
    batch = next(pipeline.training_batches(0))
    for pixels, index, (top, left) in zip(
        batch['image'], pipeline.plan(0, 4).index.tolist(), batch['offset']
    ):
      square, _ = train.resized(index, 40)
      # A part alone rounds otherwise, as of any image.
      expected = square[top : top + 32, left : left + 32]
      self.assertLessEqual(np.abs(pixels - expected.astype(int)).max(), 1)
    for size in (None, 36, 60):  # The larger for dense views.
      batch = next(pipeline.evaluation_batches(2, size))
      expected = [evaluation.resized(i, size or 40)[0] for i in range(2)]
      np.testing.assert_array_equal(batch['image'], expected)

  def test_too_small(self):
    self.prepare_rectangles()
    with self.assertRaisesRegex(
        DataError, r'\(36, 60\), but .*out \(train\) has images of 48 pixels'
        '.*--keep_aspect --size=60'
    ):
      self.pipeline(
          augmentation__crop='scale', augmentation__mean_crop='centre',
          augmentation__scale=(36, 60),
      )
    with self.assertRaisesRegex(DataError, 'have 48 pixels: prepare with'):
      self.pipeline(dataset__size=50)

  def test_both_aspects(self):
    self.assert_refused(
        '--keep_aspect keeps .* leave one out', f'--source={self.photos}',
        '--keep_aspect', '--aspect=warp',
    )

  def test_another_form_of_the_same_folder(self):
    self.prepare_rectangles()
    self.assert_refused(
        'settings.aspect was rectangle, is keep', f'--source={self.photos}',
        f'--size={_SHORTER}', '--eval_fraction=0.2',
    )

  @parameterized.product(
      storage=('raw', 'jpeg'),
      change=('smaller', 'longer', 'negative', 'missing', 'text', 'fewer'),
  )
  def test_foreign_shapes(self, storage, change):
    self.prepare_rectangles(f'--storage={storage}')
    path = self.out / 'train.npz'
    with np.load(path) as stored:
      arrays = dict(stored)
    shapes = arrays['shapes']
    if change == 'missing':
      del arrays['shapes']
    elif change == 'text':
      arrays['shapes'] = shapes.astype(str)
    elif change == 'fewer':
      arrays['shapes'] = shapes[1:]
    else:
      shapes[2] = dict(
          smaller=(40, 72), longer=(48, 193), negative=(-48, 48)
      )[change]
    np.savez(path, **arrays)
    with self.assertRaisesRegex(DataError, r'train\.npz .*prepare again'):
      reader.open_prepared(self.out)

  @parameterized.parameters('raw', 'jpeg')
  def test_shapes_of_other_images(self, storage):
    self.prepare_rectangles(f'--storage={storage}')
    path = self.out / 'train.npz'
    with np.load(path) as stored:
      arrays = dict(stored)
    turned = np.flatnonzero(arrays['shapes'][:, 0] != arrays['shapes'][:, 1])
    arrays['shapes'][turned] += 1
    arrays['shapes'][turned] = np.clip(arrays['shapes'][turned], 0, 190)
    arrays['shapes'][arrays['shapes'] == 49] = 48
    np.savez(path, **arrays)
    with self.assertRaisesRegex(DataError, 'prepare again'):
      reader.open_prepared(self.out)[0].picture(int(turned[0]))

  def test_manifest_of_no_known_form(self):
    self.prepare_rectangles()
    path = self.out / 'manifest.json'
    manifest = json.loads(path.read_text())
    manifest['settings']['aspect'] = 'circle'
    path.write_text(json.dumps(manifest))
    with self.assertRaisesRegex(DataError, 'aspect is not known'):
      reader.open_prepared(self.out)


if __name__ == '__main__':
  absltest.main()
