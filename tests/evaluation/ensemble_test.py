"""Several runs averaged, against probabilities worked out outside of runs."""

import io
import pathlib
import re
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.evaluation import ensemble, session
from alexnet.evaluation.evaluator import Predictions, score
from alexnet.metrics.console import Console
from alexnet.training import trainer
from tests import commands, testing, tiny
from tests.training.trainer_test import softmax

# Eight classes, so that top-5 says something.
CLASSES = 8
# Sides of images and crops.
SIDE, CROP = 76, 72


def squares_of(source):
  """([images, SIDE, SIDE, 3] float64, labels) of JPEG files, by Pillow."""
  squares, labels = [], []
  for index in range(len(source)):
    image = Image.open(source.describe(index)).convert('RGB')
    side, left = image.height, (image.width - image.height) / 2
    squares.append(
        image.resize(
            (SIDE, SIDE),
            Image.Resampling.BICUBIC,
            box=(left, 0, left + side, side),
        )
    )
    labels.append(source.read(index)[1])
  return np.stack(squares).astype(np.float64), np.array(labels)


def numbers(probabilities, labels):
  """(top-1, top-5, loss) by sorting; there are no equal probabilities."""
  order = np.argsort(-probabilities, axis=1)
  hits = order == labels[:, None]
  true = probabilities[np.arange(len(labels)), labels]
  return hits[:, :1].any(1).mean(), hits[:, :5].any(1).mean(), -np.log(
      true
  ).mean()


class EnsembleTest(parameterized.TestCase):
  """Two runs that differ in seed, mean, views and batches."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.directory = directory
    cls.train_images = testing.write_images(directory / 'train', CLASSES, 3)
    cls.images = testing.write_images(directory / 'val', CLASSES, 3, seed=1)
    cls.make('a')
    cls.make(
        'b',
        seed=1,
        evaluation_batch_size=10,
        dataset__mean='channels',
        augmentation__mean_crop='centre',
        model__fc6__features=48,
        schedule__learning_rate=0.001,
    )
    cls.probabilities, cls.labels = {}, None
    for name in 'ab':
      cls.work_out(name)

  @classmethod
  def config(cls, **fields):
    config = tiny.get_small_config()
    config.dataset.train_dir = str(cls.train_images)
    config.dataset.eval_dir = str(cls.images)
    config.duration = '2 steps'
    config.ten_views = False
    for field, value in fields.items():
      config.update_from_flattened_dict({field.replace('__', '.'): value})
    return config

  @classmethod
  def make(cls, name, **fields):
    """A run that has a checkpoint of its first parameters, as of step 2."""
    console = Console(io.StringIO())
    run = trainer.create(cls.config(**fields), cls.directory / name, console)
    run.progress.step = 2
    run._save(required=True)
    run.close()

  def pretend(self, name, **fields):
    """A run as far as it can be seen before it is opened."""
    workdir = self.directory / name
    (workdir / 'checkpoints' / '2').mkdir(parents=True)
    (workdir / 'checkpoints' / '2' / 'manifest.json').touch()
    fields = {'model__num_classes': CLASSES, **fields}
    workdir_lib.save_config(workdir, self.config(**fields))

  @classmethod
  def work_out(cls, name):
    """{(run, views): [images, classes]}: pixels by Pillow, the plain module."""
    run = session.open_run(cls.directory / name, Console(io.StringIO()))
    images, cls.labels = squares_of(run.task.evaluation)
    mean = squares_of(run.task.train)[0].mean(0)
    if name == 'b':
      mean = mean.mean((0, 1))
    images = images - mean
    cut = lambda top, left: images[:, top : top + CROP, left : left + CROP]
    last = SIDE - CROP
    centre = cut(last // 2, last // 2)
    five = [cut(t, left) for t in (0, last) for left in (0, last)] + [centre]
    ten = five + [crop[:, :, ::-1] for crop in five]
    apply = jax.jit(run.task.model.apply)
    variables = jax.device_get(run.variables)
    predict = lambda crop: softmax(
        np.float64(apply(variables, np.float32(crop)))
    )
    cls.probabilities[name, 'centre'] = predict(centre)
    cls.probabilities[name, 'ten'] = np.mean([*map(predict, ten)], axis=0)

  def workdirs(self, names='ab'):
    return [self.directory / name for name in names]

  def evaluate(self, weights, names='ab', **overrides):
    self.output = io.StringIO()
    return ensemble.evaluate(
        self.workdirs(names),
        ensemble.parse_weights(weights, len(names)),
        ('centre', 'ten'),
        Console(self.output),
        {name.replace('__', '.'): value for name, value in overrides.items()},
    )

  def assert_numbers(self, result, expected):
    top1, top5, loss = expected
    self.assertEqual(result['top1'], top1)
    self.assertEqual(result['top5'], top5)
    self.assertAlmostEqual(result['loss'], loss, delta=2e-5)
    self.assertEqual(result['count'], len(self.labels))

  @parameterized.parameters(
      (None, 0.5, {}),
      (['0.7', '0.3'], 0.7, {}),
      (['1', '3'], 0.25, {'mesh__tower': 2, 'mesh__data': 2}),
  )
  def test_mean_of_probabilities(self, weights, first, overrides):
    results = self.evaluate(weights, **overrides)
    for views in ('centre', 'ten'):
      mean = first * self.probabilities['a', views] + (
          1 - first
      ) * self.probabilities['b', views]
      self.assert_numbers(results[views], numbers(mean, self.labels))

  def test_the_runs_differ_and_so_does_their_mean(self):
    """So that the test above means something."""
    for views in ('centre', 'ten'):
      both = [self.probabilities[name, views] for name in 'ab']
      losses = [numbers(p, self.labels)[2] for p in (*both, sum(both) / 2)]
      for i, j in ((0, 1), (0, 2), (1, 2)):
        self.assertGreater(abs(losses[i] - losses[j]), 1e-3)

  def test_what_is_said(self):
    self.evaluate(['3', '1'])
    lines = self.output.getvalue().splitlines()
    self.assertLen(lines, 9)
    for start, name in ((0, 'a'), (3, 'b')):
      self.assertEqual(lines[start], f'{self.directory / name}, step 2:')
      for line, views in ((start + 1, 'centre'), (start + 2, 'ten')):
        top1, top5, loss = numbers(self.probabilities[name, views], self.labels)
        text = f'^  {views} .*top-1 +{top1:.2%} +top-5 +{top5:.2%} +loss '
        self.assertRegex(lines[line], text + '.*24 images')
        said = float(re.search(r'loss (\S+)', lines[line])[1])
        self.assertAlmostEqual(said, loss, delta=1e-4)
    self.assertEqual(lines[6], 'ensemble of 2 runs, weights 0.75, 0.25:')

  def test_one_run_alone_is_as_ever(self):
    """The numbers of the loop that adds up on the device, to the last bit."""
    console = Console(io.StringIO())
    run = session.open_run(self.directory / 'b', console)
    for views in ('centre', 'ten'):
      expected = run.evaluate(views)
      result = score(run.predict(views))
      self.assertAlmostEqual(result.pop('loss'), expected.pop('loss'), places=5)
      self.assertEqual(result, expected)

  def test_command(self):
    result = commands.run(
        '-m', 'alexnet.evaluate', '--views=centre', '--weights=0.7,0.3',
        *(f'--workdir={workdir}' for workdir in self.workdirs()),
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    mean = 0.7 * self.probabilities['a', 'centre']
    mean += 0.3 * self.probabilities['b', 'centre']
    top1, top5, _ = numbers(mean, self.labels)
    self.assertRegex(
        result.stdout,
        r'ensemble of 2 runs, weights 0.7, 0.3:\n'
        f'  centre crop  top-1 +{top1:.2%} +top-5 +{top5:.2%}',
    )

  def held_out(self, names, **fields):
    """Runs of the seeds 0 and 1 on images held out of the training set."""
    for seed, name in enumerate(names):
      self.pretend(
          name,
          seed=seed,
          dataset__eval_dir=None,
          dataset__eval_fraction=0.34,
          **fields,
      )

  def test_other_images(self):
    self.held_out('cd')
    with self.assertRaisesRegex(
        CheckpointError,
        'c and .*d cannot be averaged.*not the same images.*split_seed',
    ):
      self.evaluate(None, 'cd')

  def test_split_seed_keeps_the_images(self):
    self.held_out('ef', dataset__split_seed=5)
    with (
        absltest.mock.patch.object(
            session, 'open_run', side_effect=InterruptedError
        ),
        self.assertRaises(InterruptedError),  # So it has come to that.
    ):
      self.evaluate(None, 'ef')

  def test_other_classes(self):
    images = testing.write_images(self.directory / 'two', 2, 3)
    self.pretend('g', dataset__train_dir=str(images), dataset__eval_dir=None)
    with self.assertRaisesRegex(
        CheckpointError,
        r'first has 8 classes \(class0, .*\.\.\.\), the second 2 classes '
        r'\(class0, class1\)',
    ):
      self.evaluate(None, 'ag')

  def test_other_outputs(self):
    self.pretend('h', model__num_classes=10)
    with self.assertRaisesRegex(CheckpointError, '8 outputs, the second 10'):
      self.evaluate(None, 'ah')

  def test_no_run(self):
    with self.assertRaisesRegex(
        CheckpointError, 'nothing is not the workdir of a run'
    ):
      ensemble.evaluate(
          [self.directory / 'a', self.directory / 'nothing'],
          [0.5, 0.5],
          ('centre',),
          Console(io.StringIO()),
      )


class MeanTest(absltest.TestCase):

  def test_small_probabilities_keep_their_rank_and_loss(self):
    """e^-200 is zero as a float32; the mean of it and e^-210 is not.

    log((e^-200 + e^-210) / 2) = -200 + log(1 + e^-10) - log 2 = -200.69310
    """
    mean = ensemble.Mean()
    for low, middle in ((-200.0, -300.0), (-210.0, -300.0)):
      array = np.array([[low, 0.0, middle]], np.float32)
      mean.add(Predictions(array, np.array([0], np.int32), 10), 0.5)
    result = score(mean.predictions())
    self.assertAlmostEqual(result['loss'], 200.69310, places=4)
    self.assertEqual((result['top1'], result['top5']), (0, 1))

  def test_views_are_the_fewest(self):
    mean = ensemble.Mean()
    for views in (10, 5):
      array = np.log(np.array([[0.25, 0.75]], np.float32))
      mean.add(Predictions(array, np.array([1], np.int32), views), 0.5)
    result = score(mean.predictions())
    self.assertEqual(result['views'], 5)
    self.assertAlmostEqual(result['loss'], -np.log(0.75), places=6)


class WeightsTest(parameterized.TestCase):

  def test_normalized(self):
    self.assertEqual(ensemble.parse_weights(['1', '3'], 2), [0.25, 0.75])
    self.assertEqual(ensemble.parse_weights(None, 4), [0.25] * 4)

  @parameterized.parameters(
      (['1'], 2), (['1', '2', '3'], 2), (['1', '0'], 2), (['1', '-1'], 2),
      (['1', 'x'], 2), (['1', 'nan'], 2), (['1', 'inf'], 2), (['1', ''], 2),
      ([], 2),
  )
  def test_message(self, given, runs):
    with self.assertRaisesRegex(
        ConfigError,
        re.escape(
            f'--weights is {",".join(given)}: expected a positive number for '
            'each of the 2 --workdir, such as 1,1'
        ),
    ):
      ensemble.parse_weights(given, runs)


if __name__ == '__main__':
  absltest.main()
