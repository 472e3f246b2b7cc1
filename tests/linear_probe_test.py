"""Probes of a tiny network's layers."""

from tests import testing  # isort: skip

import io
import pathlib
import shutil
import tempfile

from absl.testing import absltest

from alexnet import metrics
from alexnet.analysis import images, linear_probe, probe
from tests import tiny_run
from tests.features_test import run_command


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

  def test_measures_each_layer_with_each_seed(self):
    results = linear_probe.measure(
        self.network, self.sets, ['pixels', 'pool1'], train=24, test=8,
        seeds=2, largest=100, console=metrics.Console(io.StringIO()),
    )
    # The classes differ in brightness, which anything shows.
    self.assertEqual(
        {key: [one.accuracy for one in some] for key, some in results.items()},
        {
            ('trained', 'pixels'): [1, 1],
            ('trained', 'pool1'): [1, 1],
            ('random weights', 'pool1'): [1, 1],
        },
    )

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
    self.assertIn("--layers has 'bogus': wanted some of pixels, po", error)
    status, text, error = run_command(*arguments, '--layers=fc8,fc8')
    self.assertEqual(status, 0, error)
    self.assertEqual(text.count('fc8 '), 1)

  def test_table(self):
    one = lambda accuracy: probe.Result(accuracy, 1.0, 4096)
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
