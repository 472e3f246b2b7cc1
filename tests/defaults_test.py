"""Runs as a user's first one: by the command, with what is on by default.

Other tests switch defaults off, or make them small, to be quick:

  layer_statistics_images, ten_views          off
  evaluate_every, checkpoint_every, log_every  'never', or each few steps
  schedule.name                               'constant'
  batch_size, evaluation_batch_size           4 to 48
  model.*.features, model.lrn, spatial_norm   narrow, off
  dataset.size, augmentation.crop_*           small squares
  dataset.mean, dataset.pca                   ImageNet's, so without statistics
  augmentation.flip, lighting                 off
  --compilation_cache, XLA's optimizer        another, off, by tests/__init__.py

Here only the duration is another one, and the features are few.
"""

import json
import math
import pathlib
import subprocess
import sys

import pytest
from absl.testing import absltest, parameterized

import tests
from alexnet.metrics.writer import read_records
from tests import definitions, testing

ROOT = pathlib.Path(__file__).parents[1]
# Of 71 images of each of two classes, 7 are held out: a batch of 128 an epoch.
_PER_CLASS = 71
_NARROW = '--config.model.width=0.0625'


def run(*flags: str, caches: pathlib.Path) -> str:
  """What main.py prints, started without the settings of these tests."""
  done = subprocess.run(
      [sys.executable, 'main.py', *flags], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
      env=tests.users_environment(quick=False, XDG_CACHE_HOME=str(caches)),
  )
  assert done.returncode == 0, done.stdout
  return done.stdout


class DefaultsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.images = testing.write_images(
        self.directory / 'images', 2, _PER_CLASS
    )

  def test_everything_on(self):
    self.check('alexnet')

  @parameterized.parameters('alexnet_2012', 'cuda_convnet')
  @pytest.mark.full
  def test_everything_on_of_another_recipe(self, recipe):
    self.check(recipe)

  def check(self, recipe):
    flags = [f'--config=configs/{recipe}.py:folder', _NARROW]
    if recipe == 'cuda_convnet':
      paths = self.directory / 'layers.cfg', self.directory / 'params.cfg'
      sections = definitions.run_145(**definitions.NARROW)
      for path, one in zip(paths, sections):
        path.write_text(definitions.text(one))
      flags = [
          f'--config=configs/{recipe}.py:{paths[0]}',
          f'--config.layer_params={paths[1]}', '--config.dataset.name=folder',
      ]
    workdir = self.directory / 'run'
    output = run(
        *flags, f'--config.dataset.train_dir={self.images}',
        '--config.duration=2 epochs', f'--workdir={workdir}',
        caches=self.directory / 'caches',
    )
    self.assertNotIn('Traceback', output)
    records = read_records(workdir / 'metrics.jsonl')
    self.assertEqual(
        [(record['kind'], record['step']) for record in records],
        [('eval_centre', 1), ('layers', 1), ('train', 2), ('eval_centre', 2),
         ('layers', 2), ('eval_ten', 2)],
    )
    for record in records:
      for key, value in record.items():
        if isinstance(value, float):
          self.assertTrue(math.isfinite(value), f'{key} is {value}')
    steps = {path.name for path in (workdir / 'checkpoints').iterdir()}
    self.assertContainsSubset({'1', '2'}, steps)
    self.assertTrue([*(workdir / 'tensorboard').iterdir()])
    # The cache of compiled programs, and the statistics beside the images.
    (programs,) = (self.directory / 'caches' / 'alexnet-jax').iterdir()
    self.assertNotEmpty([*programs.glob('*-cache')])
    config = json.loads((workdir / 'config.json').read_text())
    self.assertEqual(config['layer_statistics_images'], 64)
    self.assertTrue(config['ten_views'])
    self.assertEqual(config['batch_size'], 128)
    self.assertEqual(config['dataset']['mean'], 'image')
    self.assertEqual(config['augmentation']['crop_size'], 224)
    self.assertNotEqual(config['augmentation']['lighting'], 'none')
    self.assertTrue(config['augmentation']['flip'])


if __name__ == '__main__':
  absltest.main()
