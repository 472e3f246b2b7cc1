"""Figure 1: epochs by hand, the best rate, the picture."""

import json
import pathlib

from absl.testing import absltest
from PIL import Image

from alexnet.analysis.paper import figure1
from alexnet.checkpointing import workdir
from alexnet.config.errors import ConfigError
from configs import figure1 as recipe


def curve(*errors, activation='relu', rate=0.1, seed=0):
  epochs = [0.5 * (i + 1) for i in range(len(errors))]
  return figure1.Curve(activation, rate, seed, epochs, errors)


class CurveTest(absltest.TestCase):

  def test_epochs_by_hand(self):
    # From 0.35 at 1.0 to 0.15 at 1.5: half way.
    self.assertAlmostEqual(curve(0.5, 0.35, 0.15).epochs_to(0.25), 1.25)
    self.assertAlmostEqual(curve(0.5, 0.3, 0.25).epochs_to(0.25), 1.5)
    self.assertEqual(curve(0.2, 0.3).epochs_to(0.25), 0.5)
    self.assertIsNone(curve(0.5, 0.4).epochs_to(0.25))
    self.assertIsNone(curve().epochs_to(0.25))

  def test_best_rate_of_all_seeds(self):
    fast = [curve(0.5, 0.2, seed=0), curve(0.5, 0.5, 0.2, seed=1)]
    slow = [curve(0.5, 0.5, 0.5, 0.2, rate=0.2)]
    # The fastest seed of all, but the other one has not arrived.
    failing = [curve(0.1, rate=0.3), curve(0.5, 0.4, rate=0.3, seed=1)]
    chosen = figure1.best([*failing, *slow, *fast])
    self.assertEqual(chosen, {'relu': fast})

  def test_table(self):
    tanh = curve(0.6, 0.6, 0.6, 0.25, activation='tanh')
    text = figure1.table([curve(0.5, 0.25), tanh, curve(0.9, rate=9.0)])
    self.assertIn('| ReLU | 0.1 | 0 | 1.00 |', text)
    self.assertIn('| tanh | 0.1 | 0 | 2.00 |', text)
    self.assertIn('| ReLU | 9 | 0 | 90.0% after 0.50 |', text)
    self.assertIn('ReLU is 2.00 times as fast as tanh (1.00 and 2.00', text)


class FilesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)

  def test_runs_and_picture(self):
    for activation, errors in (('relu', (0.4, 0.2)), ('tanh', (0.6, 0.24))):
      folder = self.directory / activation
      folder.mkdir()
      config = recipe.get_config('folder')
      config.model.activation = activation
      workdir.save_config(folder, config)
      lines = [
          {'kind': 'train', 'step': i, 'epoch': i + 1.0, 'top1': 1 - error}
          for i, error in enumerate(errors)
      ]
      lines.append({'kind': 'eval_centre', 'step': 2, 'top1': 0.5})
      (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    curves = figure1.read_curves(self.directory)
    self.assertEqual([c.activation for c in curves], ['relu', 'tanh'])
    self.assertAlmostEqual(curves[0].epochs_to(), 1.75)
    figure1.draw(curves, self.directory / 'out' / 'figure.png')
    with Image.open(self.directory / 'out' / 'figure.png') as image:
      dark = sum(pixel < 64 for pixel in image.convert('L').getdata())
      self.assertGreater(image.width, 400)
    self.assertGreater(dark, 1000)

  def test_nothing_there(self):
    with self.assertRaisesRegex(ConfigError, 'has no run of Figure 1: train'):
      figure1.read_curves(self.directory)
    with self.assertRaisesRegex(ConfigError, 'no run has reached'):
      figure1.draw([curve(0.9)], self.directory / 'x.png')


if __name__ == '__main__':
  absltest.main()
