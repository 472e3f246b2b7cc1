"""Whole runs: to the end, killed, stopped, continued; and what goes wrong."""

import dataclasses
import io
import json
import math
import os
import pathlib
import shutil
import signal
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.checkpointing import manager
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import (
  CheckpointError,
  ConfigError,
  NonFiniteLossError,
)
from alexnet.evaluation import session
from alexnet.inference import loading
from alexnet.metrics import clock as clock_lib
from alexnet.metrics.console import Console, format_duration
from alexnet.metrics.writer import Writer, read_records
from alexnet.training import train_step, trainer
from alexnet.training.progress import Progress
from input_pipeline import cli
from input_pipeline.errors import DataError
from tests import commands, testing, tiny


def silent():
  return Console(io.StringIO())


def losses(workdir, kind='train'):
  """{step: loss} of a metrics.jsonl."""
  return {
      record['step']: record['loss']
      for record in read_records(workdir / 'metrics.jsonl')
      if record['kind'] == kind
  }


def squares_of(source):
  """([images, 256, 256, 3] float64, labels) of JPEG files, by Pillow."""
  squares, labels = [], []
  for index in range(len(source)):
    image = Image.open(source.describe(index)).convert('RGB')
    side, left = image.height, (image.width - image.height) / 2
    squares.append(
        image.resize(
            (256, 256),
            Image.Resampling.BICUBIC,
            box=(left, 0, left + side, side),
        )
    )
    labels.append(source.read(index)[1])
  return np.stack(squares).astype(np.float64), np.array(labels)


def logits_of(model, state, images, **kwargs):
  logits = testing.apply_of(model)(
      jax.device_get(state.variables),
      images.astype(np.float32),
      **kwargs,
  )
  return np.asarray(logits, np.float64)


def softmax(logits):
  exp = np.exp(logits - logits.max(1, keepdims=True))
  return exp / exp.sum(1, keepdims=True)


def assert_bit_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


class RunTestCase(parameterized.TestCase):
  """Has a folder of images, and one finished run of six steps."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.images = testing.write_images(
        pathlib.Path(cls.create_tempdir_of_class()), classes=3, per_class=9
    )
    cls.reference_dir = pathlib.Path(cls.create_tempdir_of_class()) / 'run'
    cls.output = io.StringIO()
    cls.reference = trainer.create(
        cls.config(), cls.reference_dir, Console(cls.output)
    )
    cls.results = cls.reference.train()

  @classmethod
  def create_tempdir_of_class(cls):
    return cls.enterClassContext(tempfile.TemporaryDirectory())

  @classmethod
  def config(cls, **fields):
    config = tiny.get_config()
    config.dataset.train_dir = str(cls.images)
    config.dataset.eval_fraction = 0.34
    for name, value in fields.items():
      config.update_from_flattened_dict({name.replace('__', '.'): value})
    return config

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'

  def run_here(self, workdir=None, **fields):
    workdir = workdir or self.workdir
    return trainer.create(self.config(**fields), workdir, silent())

  def copy_of_reference(self):
    shutil.copytree(self.reference_dir, self.workdir)
    return self.workdir


class FinishedRunTest(RunTestCase):

  def test_results(self):
    self.assertEqual(self.results['step'], 6)
    for views, count in (('centre', 1), ('ten', 10)):
      result = self.results[views]
      self.assertEqual(result['count'], 9)
      self.assertEqual(result['views'], count)
      self.assertBetween(result['top1'], 0, 1)
      self.assertEqual(result['top5'], 1)
      self.assertTrue(math.isfinite(result['loss']))
    saved = workdir_lib.load_results(self.reference_dir)
    self.assertEqual(saved, self.results)

  def test_until_a_training_error(self):
    """The run ends at the first line of the log that is as good as wanted."""
    errors = [
        1 - record['top1']
        for record in read_records(self.reference_dir / 'metrics.jsonl')
        if record['kind'] == 'train'
    ]
    goal = min(errors[:4])
    wanted = errors.index(goal) + 1
    results = self.run_here(until_train_error=goal, ten_views=False).train()
    self.assertEqual(results['step'], wanted)
    self.assertEqual(
        [r['step'] for r in read_records(self.workdir / 'metrics.jsonl')
         if r['kind'] == 'train'],
        list(range(1, wanted + 1)),
    )
    # Again: finished already. Without the goal: on to the end.
    again = self.run_here(until_train_error=goal, ten_views=False).train()
    self.assertEqual(again, results)
    self.assertEqual(self.run_here().train()['step'], 6)
    assert_bit_equal(losses(self.workdir), losses(self.reference_dir))

  @parameterized.parameters((25.0, '1 step'), (-0.1, '1 step'), (0.2, 'never'))
  def test_an_end_that_cannot_come(self, goal, log_every):
    with self.assertRaisesRegex(ConfigError, 'until_train_error is .*expected'):
      self.run_here(until_train_error=goal, log_every=log_every)

  def test_files(self):
    self.assertContainsSubset(
        {
            'config.json', 'environment.json', 'metrics.jsonl', 'results.json',
            'checkpoints', 'tensorboard',
        },
        {path.name for path in self.reference_dir.iterdir()},
    )
    kept = (self.reference_dir / 'checkpoints').iterdir()
    self.assertEqual({path.name for path in kept}, {'4', '6'})
    self.assertNotEmpty(list((self.reference_dir / 'tensorboard').iterdir()))
    sessions = json.loads(
        (self.reference_dir / 'environment.json').read_text()
    )['sessions']
    self.assertEqual(sessions[0]['packages']['jax'], jax.__version__)

  def test_metrics(self):
    self.assertEqual(list(losses(self.reference_dir)), [1, 2, 3, 4, 5, 6])
    self.assertEqual(list(losses(self.reference_dir, 'eval_centre')), [3, 6])
    self.assertEqual(list(losses(self.reference_dir, 'eval_ten')), [6])
    first = read_records(self.reference_dir / 'metrics.jsonl')[0]
    self.assertEqual(first['learning_rate'], 0.0005)
    # 18 images in batches of 8.
    self.assertAlmostEqual(first['epoch'], 8 / 18)

  def test_metrics_of_several_steps_are_their_means(self):
    self.run_here(log_every='3 steps', ten_views=False).train()
    train = lambda workdir: [
        record for record in read_records(workdir / 'metrics.jsonl')
        if record['kind'] == 'train'
    ]
    steps, means = train(self.reference_dir), train(self.workdir)
    self.assertEqual([record['step'] for record in means], [3, 6])
    for name in 'loss', 'top1':
      by_hand = np.reshape([record[name] for record in steps], (2, 3)).mean(1)
      np.testing.assert_allclose(
          [record[name] for record in means], by_hand, rtol=1e-6
      )

  def test_what_is_said(self):
    text = self.output.getvalue()
    for part in (
        'alexnet, ', ' parameters, 2 tower(s), float32',
        f'18 training and 9 evaluation images, 3 classes; {self.images}',
        'data=1, tower=1 on 1 cpu device(s)',
        '6 of 8 images (2.7 epochs), evaluation every 3',
        'step 6/6 100%', 'img/s', 'ETA', 'lr 0.0005',
        'centre crop  top-1', 'ten views    top-1', str(self.reference_dir),
    ):
      self.assertIn(part, text)

  @parameterized.parameters('centre', 'ten')
  def test_evaluation_by_numpy(self, views):
    """The exact set, by the plain module, outside of mesh and batches."""
    run = self.reference
    train, _ = squares_of(run.task.pipeline.train)
    images, label = squares_of(run.task.pipeline.evaluation)
    images = images - train.mean(0)
    offsets = [(16, 16)]
    if views == 'ten':
      offsets += [(0, 0), (0, 32), (32, 0), (32, 32)]
    crops = [
        images[:, top : top + 224, left : left + 224] for top, left in offsets
    ]
    if views == 'ten':
      crops += [crop[:, :, ::-1] for crop in crops]
    mean = np.mean(
        [softmax(logits_of(run.task.model, run.state, crop)) for crop in crops],
        axis=0,
    )
    self.assertAlmostEqual(
        self.results[views]['loss'],
        -np.log(mean[np.arange(9), label]).mean(),
        places=4,
    )
    self.assertAlmostEqual(
        self.results[views]['top1'], (mean.argmax(1) == label).mean()
    )

  @parameterized.parameters(
      {},
      dict(
          augmentation__mean_crop='centre',
          augmentation__images_per_crop=3,
          augmentation__lighting='standard_deviation',
          augmentation__lighting_divisor=1.1,
      ),
      dict(
          augmentation__lighting_divisor=1.1,
          augmentation__lighting_until_epoch=0.0,
      ),
  )
  def test_first_loss_by_numpy(self, **fields):
    """The first batch, from files to loss, without mesh and views."""
    fields = {'duration': '1 step', 'ten_views': False, **fields}
    run = self.run_here(**fields)
    augmentation = run.task.config.augmentation
    plan = run.task.pipeline.plan(
        0, 8, lit=augmentation.lighting_until_epoch is None
    )
    train, labels = squares_of(run.task.pipeline.train)
    mean = train.mean(0)
    crops = []
    for index, (top, left), flip, shift in zip(
        plan.index, plan.offset, plan.flip, plan.shift
    ):
      cut = lambda x, top=top, left=left: x[top : top + 224, left : left + 224]
      if augmentation.mean_crop == 'under':
        crop = cut(train[index] - mean)[:, :: -1 if flip else 1]
      else:
        crop = cut(train[index])[:, :: -1 if flip else 1]
        crop = crop - mean[16:240, 16:240]
      divisor = augmentation.lighting_divisor if shift.any() else 1
      crops.append((crop + shift) / divisor)
    keys = train_step.dropout_keys(
        jax.random.key(0), jnp.int32(0), jnp.int32(0), 8
    )
    probabilities = softmax(
        logits_of(run.task.model, run.state, np.stack(crops), dropout_keys=keys)
    )
    run.train()
    expected = -np.log(probabilities[np.arange(8), labels[plan.index]]).mean()
    self.assertAlmostEqual(losses(self.workdir)[1], expected, delta=1e-5)

  @parameterized.parameters((None, None), (0.8, 2), (2.0, 5), (0.0, 0))
  def test_lighting_ends_at_an_epoch(self, epoch, steps):
    """An epoch is 18 / 8 = 2.25 steps, and what has begun is ended."""
    run = self.run_here(augmentation__lighting_until_epoch=epoch)
    with (
        absltest.mock.patch.object(
            run.task.pipeline, 'training_batches',
            side_effect=DataError('enough'),
        ) as asked,
        self.assertRaisesRegex(DataError, 'enough'),
    ):
      run.train()
    asked.assert_called_once_with(0, lighting_steps=steps)

  def test_speed_of_the_first_lines(self):
    """Where a step does not return before it is computed, as on CPUs."""
    run = self.run_here(log_every='2 steps', evaluate_every='never')
    train_step = run.steps._train_step

    def slow(*arguments):
      time.sleep(0.2)
      return jax.block_until_ready(train_step(*arguments))

    run.steps._train_step = slow
    run.train()
    speeds = [
        record['images_per_second']
        for record in read_records(self.workdir / 'metrics.jsonl')
        if record['kind'] == 'train'
    ]
    self.assertLen(speeds, 3)
    self.assertLess(max(speeds), 8 / 0.2)

  def test_five_views_where_training_does_not_mirror(self):
    run = self.run_here(augmentation__flip=False)
    result = run.evaluate('ten')
    self.assertEqual((result['views'], result['count']), (5, 9))
    self.assertEqual(run.evaluate('centre')['views'], 1)

  def test_again_says_that_it_is_finished(self):
    output = io.StringIO()
    run = trainer.create(
        self.config(), self.reference_dir, Console(output)
    )
    self.assertEqual(run.train(), self.results)
    self.assertIn('finished already', output.getvalue())

  def test_longer_duration_continues(self):
    self.copy_of_reference()
    results = self.run_here(duration='7 steps', ten_views=False).train()
    self.assertEqual(results['step'], 7)
    self.assertEqual(list(losses(self.workdir)), [1, 2, 3, 4, 5, 6, 7])

  def test_evaluate_again(self):
    workdir = self.copy_of_reference()
    run = session.open_run(workdir, silent())
    self.assertEqual(run.evaluate('centre'), self.results['centre'])


class RestartTest(RunTestCase):

  def _check_against_reference(self, workdir):
    self.assertEqual(losses(workdir), losses(self.reference_dir))
    for kind in ('eval_centre', 'eval_ten'):
      self.assertEqual(losses(workdir, kind), losses(self.reference_dir, kind))
    results = workdir_lib.load_results(workdir)
    for views in ('centre', 'ten'):
      self.assertEqual(results[views], self.results[views])
    state = self.run_here(workdir).state
    assert_bit_equal(
        jax.device_get(state), jax.device_get(self.reference.state)
    )

  def _process(self, *flags):
    return commands.Started(
        'main.py', '--config=tests/tiny.py', f'--workdir={self.workdir}',
        f'--config.dataset.train_dir={self.images}',
        '--config.dataset.eval_fraction=0.34', *flags,
    )

  def _wait_for_step(self, process, step):
    for line in process.stdout:
      if line.startswith(f'step {step}/'):
        return
    self.fail(f'the run ended before step {step}')

  def test_killed_and_restarted(self):
    """SIGKILL between checkpoints, and another one in the second session."""
    for step in (3, 5):
      process = self._process()
      self._wait_for_step(process, step)
      process.send_signal(signal.SIGKILL)
      process.communicate()
      self.assertIsNone(workdir_lib.load_results(self.workdir))
    process = self._process()
    output = process.communicate()
    self.assertEqual(process.returncode, 0, output)
    self.assertRegex(output, 'continuing from step [24]')
    self._check_against_reference(self.workdir)

  def test_terminated_saves_and_says_how_to_continue(self):
    process = self._process('--config.checkpoint_every=never')
    self._wait_for_step(process, 1)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()
    self.assertEqual(process.returncode, cli.STOPPED, output)
    self.assertRegex(output, 'stopped by SIGTERM; saved step [1-5] of 6')
    self.assertIn('Run the same command again to continue', output)
    # In this process, where a signal handler is set for the time of a run.
    self.run_here().train()
    self._check_against_reference(self.workdir)
    self.assertIs(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

  def test_stopped_during_the_last_evaluation(self):
    run = self.run_here()
    evaluate = run.evaluate

    def stop_at_ten(views):
      if views == 'ten':
        os.kill(os.getpid(), signal.SIGTERM)
      return evaluate(views)

    run.evaluate = stop_at_ten
    self.assertIsNone(run.train())
    self.run_here().train()
    self._check_against_reference(self.workdir)

  def test_saved_on_one_mesh_continued_on_another(self):
    # At the usual rate a rounding decides, on some processors, which of two
    # pixels is the largest of a window.
    fields = dict(schedule__learning_rate=0.0001)
    elsewhere = self.workdir.with_name('undisturbed')
    expected = self.run_here(elsewhere, **fields).train()
    self.run_here(duration='4 steps', ten_views=False, **fields).train()
    results = self.run_here(
        mesh__tower=2, mesh__data=2, evaluation_batch_size=8, **fields
    ).train()
    for step, loss in losses(elsewhere).items():
      self.assertAlmostEqual(losses(self.workdir)[step], loss, delta=2e-6)
    self.assertEqual(results['centre']['count'], 9)
    self.assertAlmostEqual(
        results['ten']['loss'], expected['ten']['loss'], delta=1e-5
    )

  def test_plateau_state_survives(self):
    fields = dict(
        schedule__name='plateau',
        schedule__plateau__patience=1,
        schedule__learning_rate=1e-9,  # No improvement: it drops at once.
        evaluate_every='1 step',
        ten_views=False,
    )
    self.run_here(duration='4 steps', **fields).train()
    run = self.run_here(**fields)
    self.assertEqual(run.progress.plateau.drops, 3)
    rate = run.steps.rates()['fc8']['kernel']
    self.assertAlmostEqual(rate, 1e-12, delta=1e-15)


class BadRunTest(RunTestCase):

  def test_another_config(self):
    self.copy_of_reference()
    with self.assertRaisesRegex(
        CheckpointError,
        r'made by another config: model\.fc6\.features was 32, is 64.*'
        'another --workdir',
    ):
      self.run_here(model__fc6__features=64)

  def test_config_is_read_back_as_it_was(self):
    config = workdir_lib.load_config(self.reference_dir)
    self.assertEqual(config.model.conv1.padding, (1, 2))
    self.assertEqual(config.to_dict(), self.reference.task.config.to_dict())

  def _newest(self):
    return self.copy_of_reference() / 'checkpoints' / '6'

  def test_checkpoint_removed(self):
    shutil.rmtree(self._newest())
    self.assertEqual(self.run_here().progress.step, 4)

  def test_interrupted_save_does_not_count(self):
    (self._newest() / 'manifest.json').unlink()
    (self.workdir / 'results.json').unlink()
    names = lambda: {p.name for p in (self.workdir / 'checkpoints').iterdir()}
    run = self.run_here()
    self.assertEqual(run.progress.step, 4)
    self.assertEqual(names(), {'4', '6.incomplete'})
    # It is made again, instead of what was left of it.
    run.train()
    self.assertEqual(names(), {'4', '6'})

  def test_foreign_checkpoint(self):
    """Of another network, in a workdir whose config says otherwise."""
    self.copy_of_reference()
    config = json.loads((self.workdir / 'config.json').read_text())
    config['model']['fc6']['features'] = 64
    (self.workdir / 'config.json').write_text(json.dumps(config))
    with self.assertRaisesRegex(CheckpointError, 'not of this network.*shape'):
      self.run_here(model__fc6__features=64)

  def test_checkpoints_of_something_else(self):
    (self.workdir / 'checkpoints' / '100' / 'params').mkdir(parents=True)
    with self.assertRaisesRegex(CheckpointError, 'not the workdir of a run'):
      self.run_here()
    self.assertTrue((self.workdir / 'checkpoints' / '100' / 'params').exists())

  def test_other_images(self):
    self.copy_of_reference()
    images = testing.write_images(self.workdir / 'other', 3, 8)
    with self.assertRaisesRegex(CheckpointError, 'trained on other files'):
      self.run_here(dataset__train_dir=str(images))

  def test_a_copy_of_the_images_elsewhere(self):
    self.copy_of_reference()
    images = self.workdir / 'copy'
    shutil.copytree(self.images, images)
    run = session.open_run(
        self.workdir, silent(), {'dataset.train_dir': str(images)}
    )
    self.assertEqual(run.step, 6)

  def test_shorter_duration(self):
    self.copy_of_reference()
    with self.assertRaisesRegex(ConfigError, 'at step 6 already.*2 steps'):
      self.run_here(duration='2 steps').train()

  def test_a_mistake_in_the_config_can_be_corrected(self):
    with self.assertRaisesRegex(ConfigError, 'crop_offsets is 40'):
      self.run_here(augmentation__crop_offsets=40)
    self.run_here(augmentation__crop_offsets=33)

  def test_no_run_there(self):
    with self.assertRaisesRegex(CheckpointError, 'not the workdir of a run'):
      session.open_run(self.workdir, silent())

  def test_no_checkpoint_there(self):
    self.copy_of_reference()
    shutil.rmtree(self.workdir / 'checkpoints')
    with self.assertRaisesRegex(CheckpointError, 'no checkpoint yet'):
      session.open_run(self.workdir, silent())

  def test_checkpoint_of_step_0(self):
    """Of a run that went back to its beginning, and was stopped there."""
    self.copy_of_reference()
    folder = self.workdir / 'checkpoints'
    newest = manager.newest_step(self.workdir)
    (folder / str(newest)).rename(folder / '0')
    for step in manager.complete_steps(self.workdir)[1:]:
      shutil.rmtree(folder / str(step))
    self.assertEqual(
        loading.config_of_run(self.workdir).model.conv1.features, 8
    )

  def test_diverged(self):
    with self.assertRaisesRegex(
        NonFiniteLossError, 'the loss is .* near step .*learning_rate'
    ):
      self.run_here(
          schedule__learning_rate=1e15, duration='6 steps'
      ).train()
    # Nothing of it is worth continuing.
    steps = [int(p.name) for p in (self.workdir / 'checkpoints').iterdir()]
    self.assertLess(max(steps, default=0), 6)

  def test_unreadable_image(self):
    broken = self.images / 'class1' / '003.jpg'
    content = broken.read_bytes()
    try:
      broken.write_bytes(content[: len(content) // 2])
      with self.assertRaisesRegex(DataError, 'class1/003.jpg'):
        self.run_here().train()
    finally:
      broken.write_bytes(content)

  def test_too_few_classes_for_the_data(self):
    with self.assertRaisesRegex(ConfigError, 'num_classes is 2.*3 classes'):
      self.run_here(model__num_classes=2)

  def test_workdir_that_cannot_be_made(self):
    self.workdir.write_text('a file')
    with self.assertRaisesRegex(CheckpointError, 'cannot write to workdir'):
      self.run_here()

  @parameterized.parameters(
      (dict(duration='never'), "duration is 'never'"),
      (dict(schedule__name='plateau', evaluate_every='never'), 'plateau'),
      (dict(log_every='often'), "log_every is 'often'"),
  )
  def test_message(self, fields, message):
    with self.assertRaisesRegex(ConfigError, message):
      self.run_here(**fields)


class CheckpointsTest(absltest.TestCase):

  def test_old_ones_go_after_the_new_one_is_complete(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    store = manager.Checkpoints(directory, keep=2)
    state = train_step.TrainState(
        jnp.int32(3), {'fc8': {'kernel': jnp.ones(3)}}, ()
    )
    for step in (1, 2, 3):
      store.save(step, state, {'step': step})
    kept = sorted(p.name for p in (directory / 'checkpoints').iterdir())
    self.assertEqual(kept, ['2', '3'])
    self.assertEqual(store.complete_steps()[-1], 3)
    restored, progress = store.restore(2, state)
    self.assertEqual(progress, {'step': 2})
    assert_bit_equal(restored, state)
    store.close()


class ProgressTest(absltest.TestCase):

  def test_json(self):
    progress = Progress(step=3, seconds=1.5, loss=0.1)
    progress.plateau.best_error = 0.3
    values = json.loads(json.dumps(dataclasses.asdict(progress)))
    self.assertEqual(Progress.from_dict(values), progress)


class ConsoleTest(absltest.TestCase):

  def test_a_file_gets_lines_and_no_short_bars(self):
    stream = io.StringIO()
    console = Console(stream)
    console.progress('one')
    with console.bar('passing', 3) as bar:
      bar.update(3)
    console.print('two')
    self.assertEqual(stream.getvalue(), 'one\ntwo\n')

  def test_a_terminal_gets_a_bar_that_goes(self):
    stream = io.StringIO()
    stream.isatty = lambda: True
    console = Console(stream)
    console.progress('step 1')
    with console.bar('passing', 3) as bar:
      bar.update(2)
      bar.refresh()
      self.assertRegex(stream.getvalue(), r'passing: +67%.* 2/3 ')
      console.print('two')
      # The bar is cleared for the line, and shown below it again.
      self.assertRegex(stream.getvalue(), r'\r +\rtwo\n\rpassing: +67%[^\n]*$')
    self.assertRegex(stream.getvalue(), r'\r +\r$')
    self.assertNotIn('\n\n', stream.getvalue())

  def test_a_terminal_gets_one_line(self):
    stream = io.StringIO()
    stream.isatty = lambda: True
    console = Console(stream)
    console.progress('long line')
    console.progress('short')
    console.print('two')
    self.assertEqual(
        stream.getvalue(), '\rlong line\x1b[K\rshort\x1b[K\ntwo\n'
    )


class WriterTest(absltest.TestCase):

  def test_later_and_half_records_are_dropped(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    (workdir / 'metrics.jsonl').write_text(
        '{"kind": "train", "step": 2}\n{"kind": "train", "step": 4}\n'
        '{"kind": "tra'
    )
    writer = Writer(workdir, first_step=2)
    writer.write('train', 3, {'loss': 0.5})
    writer.close()
    self.assertEqual(
        read_records(workdir / 'metrics.jsonl'),
        [
            {'kind': 'train', 'step': 2},
            {'kind': 'train', 'step': 3, 'loss': 0.5},
        ],
    )


class ClockTest(absltest.TestCase):

  def test_only_steps_count(self):
    clock = clock_lib.Clock(seconds=100.0)
    with absltest.mock.patch.object(time, 'perf_counter') as now:
      self.assertIsNone(clock.lap())
      now.return_value = 10.0
      clock.tick()  # This step compiled.
      self.assertIsNone(clock.lap())
      self.assertIsNone(clock.remaining(5))
      for now.return_value in (12.0, 16.0):
        clock.tick()
      self.assertEqual(clock.lap(), 3.0)
      with clock.paused():
        now.return_value = 1000.0
      now.return_value = 1003.0
      clock.tick()
      self.assertEqual(clock.lap(), 3.0)
      self.assertEqual(clock.remaining(5), 15.0)
    self.assertEqual(clock.seconds, 109.0)
    self.assertEqual(format_duration(3725), '1h02m')
    self.assertEqual(format_duration(65), '1m05s')


if __name__ == '__main__':
  absltest.main()
