"""Probes of a tiny network's layers."""

import dataclasses
import io
import pathlib
import shutil
import tempfile

import jax
import numpy as np
from absl.testing import absltest
from PIL import Image

from alexnet.analysis import linear_probe
from alexnet.analysis.features import images, logistic_regression
from alexnet.metrics import console
from tests import testing, tiny_run
from tests.analysis.features.features_test import run_command


def write_overlapping(directory, classes, per_class):
  """Photos whose brightness says something of their class, but not all."""
  rng = np.random.default_rng(0)
  for label in range(classes):
    folder = directory / f'class{label}'
    folder.mkdir(parents=True)
    for index in range(per_class):
      level = 90 + 20 * label + 15 * rng.standard_normal()
      pixels = level + 40 * rng.standard_normal((32, 32, 3))
      image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
      image.save(folder / f'{index:03d}.png')
  return directory


class DrawTest(absltest.TestCase):

  def test_images_are_of_one_side(self):
    """Of a source without an evaluation set."""
    (first, train), (second, test) = linear_probe.draw(
        {'train': range(100)}, 60, 50, seed=0
    )
    self.assertIs(first, second)
    self.assertLen(set(train.tolist()), 60)
    self.assertLen(set(test.tolist()), 20)  # A fifth, whatever is wanted.
    self.assertEmpty(set(train.tolist()) & set(test.tolist()))
    _, (_, other) = linear_probe.draw({'train': range(100)}, 60, 50, seed=1)
    self.assertNotEqual(test.tolist(), other.tolist())

  def test_own_evaluation_set(self):
    sets = {'train': range(100), 'evaluation': range(30)}
    (first, train), (second, test) = linear_probe.draw(sets, 200, 10, seed=0)
    self.assertEqual((len(first), len(second)), (100, 30))
    self.assertLen(set(train.tolist()), 100)
    self.assertLen(set(test.tolist()), 10)
    self.assertLess(test.max(), 30)


class LinearProbeTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    # The run's own images are not needed.
    cls.workdir = cls.directory / 'run'
    cls.network = tiny_run.write(cls.workdir, cls.directory / 'gone', classes=3)
    cls.images = testing.write_images(cls.directory / 'other', 2, 20)
    cls.sets = images.open_sets(str(cls.images), config=cls.network.config)

  def test_against_features_of_each_network(self):
    """Photos whose classes overlap, so that no two probes do as well.

    Features come one photo at a time from the network, and from others of its
    module that are initialized here.
    """
    folder = write_overlapping(self.directory / 'overlapping', 3, 40)
    sets = images.open_sets(str(folder), config=self.network.config)
    results = linear_probe.measure(
        self.network, sets, ['pixels', 'fc6'], train=72, test=24, seeds=2,
        largest=10**6, console=console.Console(io.StringIO()),
    )
    got = {
        key: [one.accuracy for one in some] for key, some in results.items()
    }
    by_hand = {key: [] for key in got}
    for seed in range(2):
      (source, train), (_, test) = linear_probe.draw(sets, 72, 24, seed)
      init = jax.jit(self.network.model.init)
      other = init(jax.random.key(seed), np.zeros((1, 224, 224, 3), np.float32))
      networks = {
          'trained': self.network,
          'random weights': dataclasses.replace(
              self.network, params=jax.device_put(other['params'])
          ),
      }
      for kind, layer in got:
        x, labels = [], []
        for part in (train, test):
          squares = [*map(source.square, part)]
          labels.append(source.labels[part])
          if layer == 'pixels':
            crops = np.array(squares)[:, 16:240, 16:240].astype(np.float32)
            # The mean image is 120 everywhere.
            x.append(crops.reshape(len(part), -1) - 120)
          else:
            x.append(networks[kind].features(squares, layer))
        fitted = logistic_regression.fit(
            x[0], labels[0], x[1], labels[1], seed=seed
        )
        by_hand[kind, layer].append(fitted.accuracy)
    self.assertEqual(got, by_hand)
    # Else it would not matter which seed or network is whose.
    for accuracies in got['trained', 'fc6'], got['random weights', 'fc6']:
      self.assertGreater(len({*accuracies}), 1, got)
    self.assertNotEqual(got['trained', 'fc6'], got['random weights', 'fc6'])

  def test_broken_files_are_left_out(self):
    folder = self.directory / 'broken'
    shutil.copytree(self.images, folder)
    photos = sorted(folder.rglob('*.jpg'))
    for photo in photos[::8]:
      photo.write_bytes(photo.read_bytes()[:100])
    output = self.directory / 'some.md'
    status, _, error = run_command(
        'linear_probe', f'--workdir={self.workdir}', f'--source={folder}',
        '--layers=pixels', '--seeds=2', '--train_images=32',
        '--test_images=8', f'--output={output}',
    )
    self.assertEqual(status, 1, error)
    self.assertIn('5 of the images could not be read', output.read_text())
    for photo in photos[::8]:
      self.assertEqual(error.count(f'left out: cannot use {photo} ('), 1)
    self.assertNotIn('Traceback', error)

  def test_layers(self):
    arguments = (
        'linear_probe', f'--workdir={self.workdir}', f'--source={self.images}',
        '--seeds=1', '--train_images=12', '--test_images=4',
    )
    status, _, error = run_command(*arguments, '--layers=fc7,bogus')
    self.assertEqual(status, 1)
    self.assertIn("--layers has 'bogus': expected some of pixels, po", error)
    status, text, error = run_command(*arguments, '--layers=fc8,fc8')
    self.assertEqual(status, 0, error)
    self.assertEqual(text.count('fc8 '), 1)

  def test_table(self):
    one = lambda accuracy: logistic_regression.Result(accuracy, 1.0, 4096)
    table = linear_probe.table(
        {
            ('trained', 'pixels'): [one(0.25), one(0.35)],
            ('trained', 'fc7'): [one(0.5), one(0.5)],
            ('random weights', 'fc7'): [one(0.1), one(0.3)],
        },
        ['pixels', 'fc7'],
    )
    self.assertEqual(
        table.rows,
        (
            ('pixels', '4,096', '2', '30.00 ± 7.07', ''),
            ('fc7', '4,096', '2', '50.00 ± 0.00', '20.00 ± 14.14'),
        ),
    )

  def test_command(self):
    output = self.directory / 'table.md'
    status, text, error = run_command(
        'linear_probe', f'--workdir={self.workdir}', f'--source={self.images}',
        '--layers=pixels,fc7', '--seeds=2', '--train_images=24',
        '--test_images=8', f'--output={output}',
    )
    self.assertEqual(status, 0, error)
    self.assertIn('24 images to train a probe, 8 to test it', text)
    self.assertIn('| pixels | 9,747 | 2 | 100.00 ± 0.00 |  |',
                  output.read_text())


if __name__ == '__main__':
  absltest.main()
