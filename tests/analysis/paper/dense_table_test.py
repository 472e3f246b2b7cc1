"""Tables of dense views: their numbers by hand, and the command."""

import io
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest

from alexnet import models
from alexnet.analysis.paper import dense_table
from alexnet.evaluation import session
from alexnet.evaluation.evaluator import Predictions
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.training import trainer
from tests import testing, tiny
from tests.analysis.features.features_test import run_command


def softmax(logits):
  exp = np.exp(logits - logits.max(-1, keepdims=True))
  return exp / exp.sum(-1, keepdims=True)


class NumbersTest(absltest.TestCase):

  def test_deviations(self):
    """Of one image with 1 x 2 places and two classes."""
    maps = lambda one, two: np.array([[[[one, 1 - one], [two, 1 - two]]]])
    found = dense_table.Places(
        dense=maps(0.75, 0.25), crops=maps(0.5 + 0.125, 0.5 + 0.25),
        centre_mean=maps(0.625, 0.5625), colour=maps(0.5, 0.5),
        labels=np.array([0]), distance=32,
    )
    self.assertEqual(
        dense_table.deviations(found).rows,
        (
            ('position and crop', '31.2', '31.2', '48.1', '50.0', '50.0%'),
            ("crop, and crop less the mean image's centre", '9.4', '9.4',
             '17.8', '18.8', '100.0%'),
            ('crops 32 pixels apart, sideways', '12.5', '12.5', '12.5', '12.5',
             '100.0%'),
        ),
    )

  def test_results_and_differences(self):
    labels = np.array([0, 1, 0, 1], np.int32)

    def row(name, first, crops):
      found = np.stack([first, 1 - np.array(first)], axis=1)
      log = np.log(found).astype(np.float32)
      return dense_table.Row(name, Predictions(log, labels, 1), crops)

    found = [
        row('ten', [0.75, 0.75, 0.75, 0.25], 10),  # Three are right.
        row('one', [0.75, 0.25, 0.25, 0.75], 1),  # Two; three are others.
    ]
    # Differences 0, 1, -1, -1: mean -1/4, deviation sqrt(11)/4.
    around = 1.96 * 100 * np.sqrt(11) / 4 / 2
    losses = -np.log([0.75**3 * 0.25, 0.75**2 * 0.25**2]) / 4
    self.assertEqual(
        dense_table.table(found).rows,
        (
            ('ten', '75.00%', '100.00%', f'{losses[0]:.4f}', '', '10.0'),
            ('one', '50.00%', '100.00%', f'{losses[1]:.4f}',
             f'-25.00 ± {around:.2f}', '1.0'),
        ),
    )


class RunTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    images = testing.write_images(cls.directory / 'images', 3, 4)
    config = tiny.get_config()
    config.dataset.train_dir = str(images)
    cls.workdir = cls.directory / 'run'
    cls.console = Console(io.StringIO())
    # Its first parameters, as of step 1: training would make no difference.
    run = trainer.create(config, cls.workdir, cls.console)
    run.progress.step = 1
    run._save(required=True)
    run.close()
    cls.finished = session.open_run(cls.workdir, cls.console)
    cls.network = loading.load(cls.workdir)

  def test_places(self):
    found = dense_table.places(self.network, self.finished, self.console)
    self.assertEqual(found.distance, 32)
    source = self.finished.task.pipeline.evaluation
    (batch,) = self.finished.task.pipeline.evaluation_batches(len(source))
    np.testing.assert_array_equal(found.labels, batch['label'])
    mean = np.float64(self.finished.task.pipeline.mean_image)
    variables = jax.device_get(self.finished.variables)
    say = lambda model, x: softmax(np.float64(
        jax.jit(model.apply)(variables, np.float32(x))
    ))
    squares = batch['image']
    everywhere = models.everywhere(self.finished.task.model)
    for got, less in ((found.dense, mean), (found.colour, mean.mean((0, 1)))):
      np.testing.assert_allclose(
          got, say(everywhere, squares - less), rtol=1e-3
      )

    def cut(x, down, across):
      return x[:, 32 * down :, 32 * across :][:, :224, :224]

    middle = mean[16:240, 16:240]
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
      for got, seen in (
          (found.crops, cut(squares - mean, *place)),
          (found.centre_mean, cut(squares, *place) - middle),
      ):
        np.testing.assert_allclose(
            got[:, *place], say(self.finished.task.model, seen), rtol=1e-3
        )

  def test_command(self):
    output = self.directory / 'table.md'
    status, text, error = run_command(
        'paper.dense_table', f'--workdir={self.workdir}', '--scales=224,288',
        f'--output={output}',
    )
    self.assertEqual(status, 0, error)
    self.assertIn(
        'all 3 images of its evaluation set. 2 x 2 positions',
        ' '.join(text.split()),
    )
    lines = output.read_text().splitlines()
    names = [line.split('|')[1].strip() for line in lines if line[:1] == '|']
    self.assertContainsSubset(
        ['ten views', 'centre crop', 'dense, 224', 'dense, 288',
         'dense, 224 + 288', 'position and crop', 'the mean colour'],
        names,
    )
    # 224 is two crops, 288 takes (288 / 224)^2 of them, with mirror images.
    pixels = [line.split('|')[-2].strip() for line in lines
              if line.startswith('| dense, ')]
    self.assertEqual(pixels, ['2.0', '3.3', '5.3'])

  def test_scales(self):
    status, _, error = run_command(
        'paper.dense_table', f'--workdir={self.workdir}', '--scales=200'
    )
    self.assertEqual(status, 1)
    self.assertIn('--scales is 200: expected at least 224 pixels', error)
    self.assertNotIn('Traceback', error)


if __name__ == '__main__':
  absltest.main()
