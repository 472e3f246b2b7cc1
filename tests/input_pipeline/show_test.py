"""Pictures of the augmentation beside what a run's network really reads."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.inference import views
from input_pipeline import datasets, show
from input_pipeline.pipeline import Pipeline
from tests import commands, testing


class ShowTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)
    testing.write_images(self.root / 'photos', 3, 4)

  def config(self, recipe):
    config = testing.RECIPES[recipe].get_config('folder')
    config.dataset.train_dir = str(self.root / 'photos')
    config.dataset.eval_fraction = 0.25
    config.batch_size = 9  # An epoch.
    config.augmentation.images_per_crop = 2
    return config

  @parameterized.parameters('paper', '2012')
  def test_training(self, recipe):
    config = self.config(recipe)
    rows = show.training_rows(config, 3, 2)
    pipeline = Pipeline(config, *datasets.create_sources(config.dataset, 0))
    inputs = views.Views(
        pipeline.mean_image,
        config.augmentation.mean_crop,
        mirror=True,
        crop=224,
    )
    batches = pipeline.training_batches(0)
    for epoch in range(2):
      batch = next(batches)
      network_reads = np.asarray(inputs.training(batch))
      order = pipeline.plan(9 * epoch, 9).index.tolist()
      for row, index in zip(rows, pipeline.plan(0, 3).index):
        place = order.index(index)
        picture, caption = row[2 + epoch]
        # The mean is what is left of the picture.
        left = np.asarray(picture, np.float32) - network_reads[place]
        mean = pipeline.mean_image
        top, first = batch['offset'][place]
        if config.augmentation.mean_crop == 'centre':
          mean = mean[16:240, 16:240]
        else:
          mean = mean[top : top + 224, first : first + 224]
          mean = mean[:, ::-1] if batch['flip'][place] else mean
        seen = network_reads[place] + mean
        shown = (seen > 0) & (seen < 255)
        self.assertGreater(shown.mean(), 0.5)
        self.assertLessEqual(np.abs(left - mean)[shown].max(), 0.5001)
        self.assertIn(f'epoch {epoch + 1}: ({top}, {first})', caption)
        self.assertEqual('mirrored' in caption, bool(batch['flip'][place]))

  @parameterized.parameters('scale', 'area', 'pad')
  def test_other_crops(self, kind):
    """What is shown is what the network reads, and the mean."""
    config = self.config('paper')
    config.augmentation.lighting = 'none'
    if kind == 'pad':
      config.dataset.size = config.augmentation.crop_size = 32
      config.augmentation.pad, config.augmentation.crop_offsets = 4, 9
      config.dataset.channels = 1
    else:
      config.augmentation.crop = kind
      config.augmentation.mean_crop = 'centre'
    rows = show.training_rows(config, 4, 1)
    pipeline = Pipeline(config, *datasets.create_sources(config.dataset, 0))
    batch = next(pipeline.training_batches(0))
    for row, pixels, flip in zip(rows, batch['image'], batch['flip']):
      (_, _), (image, _), (picture, caption) = row
      pixels = pixels[:, ::-1] if flip else pixels
      times = picture.width // len(pixels)
      np.testing.assert_array_equal(
          np.asarray(picture)[::times, ::times] - pixels.astype(int), 0
      )
      self.assertRegex(caption, r'epoch 1: \(\d+, \d+\)')
      red = (np.asarray(image) == (0xD6, 0x27, 0x28)).all(axis=-1)
      self.assertGreater(red.sum(), 20)
    self.assertIn(
        {'scale': '256 to 480', 'area': '8% to 100%', 'pad': '9 x 9'}[kind],
        show.describe(config),
    )

  def test_crops_are_drawn_where_they_are(self):
    config = self.config('paper')
    (_, (with_crops, _), (_, caption)), = show.training_rows(config, 1, 1)
    top, left = (int(n) for n in caption[10:].split(')')[0].split(', '))
    pixels = np.asarray(with_crops)
    red = (pixels == (0xD6, 0x27, 0x28)).all(axis=-1)
    rows, columns = np.nonzero(red)
    self.assertEqual((rows.min(), columns.min()), (top, left))
    self.assertEqual((rows.max(), columns.max()), (top + 223, left + 223))

  @parameterized.parameters(1, 2)
  def test_pages(self, count):
    first, *others = [Image.new('RGB', (300, 300), 'red')] * count
    for path in (self.root / 'photos').rglob('*.jpg'):
      first.save(path, 'TIFF', save_all=True, append_images=others)
    (_, caption), *_ = show.training_rows(self.config('paper'), 1, 1)[0]
    self.assertEqual(caption.startswith('first page, '), count > 1)

  @parameterized.parameters((True, 10), (False, 5))
  def test_evaluation(self, flip, count):
    config = self.config('paper')
    config.augmentation.flip = flip
    rows = show.evaluation_rows(config, 2)
    pipeline = Pipeline(config, *datasets.create_sources(config.dataset, 0))
    mean = np.zeros((256, 256, 3), np.float32)
    inputs = views.Views(mean, 'centre', flip, crop=224)
    ten = np.asarray(inputs.ten(next(pipeline.evaluation_batches(3))))
    for row, expected in zip(rows, (ten[0], ten[2])):
      self.assertLen(row, 1 + count)
      for (picture, _), view in zip(row[1:], expected):
        np.testing.assert_array_equal(np.asarray(picture), view)

  def command(self, *flags):
    return commands.run(
        '-m', 'input_pipeline.show', '--config=configs/alexnet.py:folder',
        f'--config.dataset.train_dir={self.root / "photos"}', *flags,
    )

  def test_command(self):
    output = self.root / 'pictures' / 'seen.png'
    result = self.command(f'--output={output}', '--images=2', '--epochs=3')
    self.assertEqual(result.returncode, 0, result.stderr)
    with Image.open(output) as picture:
      self.assertGreater(picture.width, 5 * 256)
      self.assertBetween(picture.height, 2 * 256, 3 * 256)
      tile = np.asarray(picture.convert('RGB'))[40:200, 2 * 264 + 20 :][:, :150]
    self.assertGreater(tile.std(), 1)

  @parameterized.parameters(
      ('--output=seen.gif', r'seen\.gif: expected a \.png'),
      ('--images=0', '--images is 0'),
  )
  def test_messages(self, flag, message):
    result = self.command(f'--output={self.root / "seen.png"}', flag)
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, message)
    self.assertNotIn('Traceback', result.stderr)


if __name__ == '__main__':
  absltest.main()
