"""A run on grey images with a border, by every tool that shows or uses it."""

import io
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.analysis.features import images as images_lib
from alexnet.analysis.report import build, run_history
from alexnet.checkpointing import workdir
from alexnet.config.errors import CheckpointError
from alexnet.evaluation import session
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.training import trainer
from tests import testing, tiny

_BORDER = 3


def silent():
  return Console(io.StringIO())


class GreyTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    images = testing.write_images(cls.directory / 'images', 3, 5)
    config = tiny.get_small_config()
    config.dataset.train_dir = str(images)
    config.dataset.eval_fraction = 0.34
    config.dataset.channels, config.dataset.border = 1, _BORDER
    config.duration = '2 steps'
    config.log_images = True
    config.layer_statistics_images = 4
    cls.folder = cls.directory / 'run'
    cls.run_of_it = trainer.create(config, cls.folder, silent())
    cls.results = cls.run_of_it.train()
    cls.network = loading.load(cls.folder)
    source = cls.run_of_it.task.evaluation
    cls.paths = [source.describe(i) for i in range(len(source))]

  def by_pillow(self, path):
    """70 pixels of luma, and three black ones on each side."""
    image = Image.open(path).convert('RGB')
    box = 5, 0, 45, 40
    square = image.resize((70, 70), Image.Resampling.BICUBIC, box=box)
    return np.pad(np.asarray(square.convert('L')), _BORDER)[..., None]

  def test_squares(self):
    squares = self.network.squares(self.paths)
    self.assertEqual(squares.shape, (len(self.paths), 76, 76, 1))
    for square, path in zip(squares, self.paths):
      difference = square.astype(int) - self.by_pillow(path)
      self.assertLessEqual(np.abs(difference).max(), 1)
    pipeline = self.run_of_it.task.pipeline
    np.testing.assert_array_equal(
        squares, pipeline.evaluation_squares(range(len(self.paths)))
    )
    reader = images_lib.open_images(
        'evaluation', config=self.network.config, inputs=self.network.inputs
    )
    np.testing.assert_array_equal(
        squares, [reader.square(i) for i in range(len(self.paths))]
    )

  @parameterized.parameters('centre', 'ten')
  def test_the_file_its_pixels_and_the_evaluation(self, views):
    files = self.network.predict(self.paths, views=views)
    squares = self.network.squares(self.paths)
    np.testing.assert_array_equal(
        self.network.predict(squares, views=views), files
    )
    said = session.open_run(self.folder, silent()).predict(views)
    np.testing.assert_allclose(
        np.exp(said.log_probabilities), files, rtol=1e-4
    )
    self.assertGreater(files.std(axis=0).max(), 1e-6)

  def test_dense(self):
    dense = self.network.predict(self.paths, views='dense', scales=[76, 108])
    np.testing.assert_allclose(dense.sum(1), 1, rtol=1e-5)

  def test_pictures(self):
    for path in (self.folder / 'images').iterdir():
      self.assertGreater(np.asarray(Image.open(path)).std(), 1)
    self.assertLen([*(self.folder / 'images').iterdir()], 2)
    report = build.of_one(run_history.read(self.folder))
    report.write(self.folder, 'run', '')
    text = (self.folder / 'report.html').read_text()
    self.assertNotIn('cannot be shown', text)
    self.assertIn('direction (grey)', text)
    self.assertIn('kernels of 11 x 11 pixels', text)
    for name in ('filters', 'predictions', 'neighbours', 'colours'):
      picture = Image.open(self.folder / 'report' / f'{name}.png')
      self.assertGreater(np.asarray(picture.convert('L')).std(), 1)

  def test_features(self):
    features = self.network.features(self.paths, 'pool1')
    self.assertLen(features, len(self.paths))

  def test_an_array_of_colours(self):
    grey = np.random.default_rng(0).integers(0, 256, (90, 99)).astype(np.uint8)
    colours = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(
        self.network.predict([colours]), self.network.predict([grey[..., None]])
    )

  def test_channels_of_another_run(self):
    values = workdir.load_config(self.folder)
    try:
      changed = values.copy_and_resolve_references()
      changed.dataset.channels = 3
      workdir.save_config(self.folder, changed)
      with self.assertRaisesRegex(CheckpointError, 'are not of one run'):
        loading.load(self.folder)
    finally:
      workdir.save_config(self.folder, values)


if __name__ == '__main__':
  absltest.main()
