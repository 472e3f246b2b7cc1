"""Runs whose checkpoints are damaged, whose disk is full, that are stopped."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import struct
import threading

import numpy as np
from absl.testing import absltest, parameterized

from alexnet import evaluate
from alexnet.checkpointing import lock, workdir
from alexnet.config.errors import (
  CheckpointError,
  UnsavedError,
  WorkdirInUseError,
)
from alexnet.evaluation import session
from alexnet.inference import loading
from alexnet.metrics import tensorboard
from alexnet.metrics import writer as writer_lib
from alexnet.metrics.console import Console
from input_pipeline.errors import DataError
from tests import faulty


def snapshot(folder):
  return {
      path: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in folder.rglob('*')
      if path.is_file()
  }


def damage(checkpoint):
  """Flips a bit of its largest file."""
  path = max(checkpoint.rglob('*'), key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  return path.relative_to(checkpoint)


class DamagedTest(faulty.RunTestCase):

  def test_the_one_before_is_used(self):
    whole = self.undisturbed()
    self.open().train()
    newest = self.workdir / 'checkpoints' / '8'
    name = damage(newest)
    before = snapshot(self.workdir)
    # Who reads says so, and changes nothing.
    run = session.open_run(self.workdir, Console(self.said))
    self.assertEqual(run.step, 6)
    self.assertIn(
        f'warning: {newest} is damaged: {name} is not as it was written. Using '
        'step 6 instead\n',
        self.said.getvalue(),
    )
    with self.assertLogs(level='WARNING') as logs:
      self.assertEqual(loading.load(self.workdir).step, 6)
    self.assertIn('Using step 6 instead', logs.output[0])
    with self.assertRaisesRegex(CheckpointError, '8 is damaged'):
      loading.load(self.workdir, step=8)
    self.assertEqual(snapshot(self.workdir), before)
    # Who trains sets it aside and makes it again.
    (self.workdir / workdir.RESULTS).unlink()
    run = self.open()
    self.assertEqual(run.progress.step, 6)
    self.assertIn(
        f'warning: {newest} is damaged: {name} is not as it was written. It is '
        'now 8.damaged, and step 6 is used instead\n',
        self.said.getvalue(),
    )
    run.train()
    self.assert_same_end(run, whole)
    names = {path.name for path in newest.parent.iterdir()}
    self.assertEqual(names, {'6', '8', '8.damaged'})

  def test_none_is_left(self):
    self.open().train()
    for step in (6, 8):
      damage(self.workdir / 'checkpoints' / str(step))
    before = snapshot(self.workdir / 'checkpoints')
    for _ in range(2):
      with self.assertRaisesRegex(CheckpointError, 'no checkpoint is left to'):
        self.open()
    self.assertEqual(snapshot(self.workdir / 'checkpoints'), before)
    with self.assertRaisesRegex(CheckpointError, 'no checkpoint is left to'):
      loading.load(self.workdir)

  def test_an_unfinished_one_is_reported(self):
    self.open().train()
    (self.workdir / 'checkpoints' / '8' / 'manifest.json').unlink()
    self.assertEqual(self.open().progress.step, 6)
    self.assertRegex(
        self.said.getvalue(),
        'warning: the checkpoint of step 8 was not finished; .*8.incomplete',
    )


class BestTest(faulty.RunTestCase):

  def test_best_ones_are_kept(self):
    run = self.open(
        keep_best=2, keep_checkpoints=1, evaluate_every='1 steps',
        checkpoint_every='never', schedule__learning_rate=0.002,
    )
    evaluate_run = run.evaluate
    # Better and worse, and twice as good as before.
    top1 = iter([0.5, 0.2, 0.9, 0.1, 0.9, 0.3, 0.2, 0.4])
    run.evaluate = lambda views: {**evaluate_run(views), 'top1': next(top1)}
    saved = []
    save = run._setup.recovery._checkpoints.save
    run._setup.recovery._checkpoints.save = lambda step, *rest: (
        saved.append(step), save(step, *rest)
    )
    run.train()
    kept = {int(p.name) for p in (self.workdir / 'checkpoints').iterdir()}
    self.assertEqual(kept, {3, 5, 8})
    # When it was among the best two of those that were there, and at the end.
    self.assertEqual(saved, [1, 2, 3, 5, 8])
    best = session.open_run(
        self.workdir, Console(self.said), step='best'
    )
    self.assertEqual(best.step, 3)
    self.assertEqual(loading.load(self.workdir, step='best').step, 3)

  def test_after_a_restart(self):
    fields = dict(
        keep_best=1, keep_checkpoints=1, evaluate_every='2 steps',
    )
    for duration, value in (('4 steps', 0.9), ('8 steps', 0.1)):
      run = self.open(duration=duration, **fields)
      result = run.evaluate('centre')
      run.evaluate = lambda _, result=result, value=value: {
          **result, 'top1': value
      }
      run.train()
    kept = {int(p.name) for p in (self.workdir / 'checkpoints').iterdir()}
    self.assertEqual(kept, {2, 8})

  def test_flag(self):
    self.assertIn('--step=best', evaluate.__doc__)


class FullDiskTest(faulty.RunTestCase):

  def setUp(self):
    super().setUp()
    self.full = contextlib.ExitStack()
    self.addCleanup(self.full.close)

  def fill(self):
    # Less than a checkpoint's largest file, more than the log's.
    self.full.enter_context(faulty.full_disk(20_000))

  def test_training_goes_on_and_retries(self):
    whole = self.undisturbed()
    saved = []
    calls = {3: self.fill, 6: self.full.close}
    run = self.open(
        console=faulty.AtSteps(self.said, calls), log_every='1 steps'
    )
    save = run._setup.recovery._checkpoints.save

    def noted(step, *rest):
      save(step, *rest)
      saved.append(step)

    run._setup.recovery._checkpoints.save = noted
    run.train()
    self.assert_same_end(run, whole)
    # 4 and 5 fail. The disk has room before 6 is saved.
    self.assertEqual(saved, [2, 6, 8])
    said = self.said.getvalue()
    for step, retry in ((4, 5), (5, 7)):
      self.assertRegex(
          said,
          f'warning: no room on disk for the checkpoint of step {step} in .*: '
          r'it takes \d+ MiB, [\d,]+ MiB are free. Training goes on; the next '
          f'attempt is at step {retry} at the latest, and until then a restart '
          'continues from step 2\n',
      )
    self.assertEqual(
        {p.name for p in (self.workdir / 'checkpoints').iterdir()}, {'6', '8'}
    )

  def test_the_end_has_to_be_saved(self):
    run = self.open(console=faulty.AtSteps(self.said, {5: self.fill}))
    with self.assertRaisesRegex(
        UnsavedError,
        'no room on disk for the checkpoint of step 8 .*same command again: it '
        'continues from step 4',
    ):
      run.train()
    self.full.close()
    self.assertIsNone(workdir.load_results(self.workdir))
    run = self.open()
    self.assertEqual(run.progress.step, 4)
    run.train()
    self.assert_same_end(run, self.undisturbed())

  def test_stopped_while_the_disk_is_full(self):
    def stop():
      self.fill()
      os.kill(os.getpid(), signal.SIGTERM)

    run = self.open(console=faulty.AtSteps(self.said, {5: stop}))
    with self.assertRaisesRegex(UnsavedError, 'step 5 .*continues from step 4'):
      run.train()


class WriterTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.said = []

  def writer(self, step=0):
    return writer_lib.Writer(self.workdir, step, report=self.said.append)

  def steps(self):
    return [
        record['step']
        for record in writer_lib.read_records(self.workdir / writer_lib.FILE)
    ]

  def test_lines_wait(self):
    writer = self.writer()
    writer.write('train', 1, {'loss': 0.5})
    size = (self.workdir / writer_lib.FILE).stat().st_size
    with faulty.full_disk(size + 20):  # Half a line more.
      for step in (2, 3, 4):
        writer.write('train', step, {'loss': 0.5})
      self.assertEqual((self.workdir / writer_lib.FILE).stat().st_size, size)
      with self.assertRaises(OSError):
        writer.flush()
    self.assertEqual(self.steps(), [1])
    self.assertLen(self.said, 1)
    self.assertRegex(self.said[0], 'cannot be written .(No space|File too)')
    writer.write('train', 5, {'loss': 0.5})
    self.assertEqual(self.steps(), [1, 2, 3, 4, 5])
    self.assertRegex(self.said[1], 'has all its lines again')
    writer.close()
    self.assertLen(self.said, 2)

  def test_lines_that_are_lost(self):
    writer = self.writer()
    with faulty.full_disk(0):
      for step in (1, 2):
        writer.write('train', step, {'loss': 0.5})
      writer.close()
    self.assertRegex(self.said[-1], '2 lines are lost')

  def test_rewind(self):
    writer = self.writer()
    for step in (1, 2, 3):
      writer.write('train', step, {})
      writer.write('eval_centre', step, {})
    writer.rewind(2, lambda record: record['kind'] == 'train')
    writer.write('train', 3, {'loss': 1.0})
    writer.close()
    self.assertEqual(self.steps(), [1, 1, 2, 3])

  def test_tensorboard_does_not_wait_for_ever(self):
    writer = tensorboard.create_writer(self.workdir, 0)
    for step in range(3):
      writer.add_scalar('a', step, step)
    writer.flush()
    (file,) = self.workdir.glob('events*')
    # Nothing fits, or less than an event.
    for more in (0, 5):
      done = threading.Event()

      def add(done=done):
        for step in range(3, 30):  # More than wait in its queue.
          writer.add_scalar('a', step, step)
          writer.flush()
        done.set()

      with faulty.full_disk(file.stat().st_size + more):
        threading.Thread(target=add, daemon=True).start()
        self.assertTrue(done.wait(60))
    writer.add_scalar('a', 50, 50)
    writer.close()
    content, events = file.read_bytes(), 0
    while content:  # Whole events, and the last one among them.
      (length,) = struct.unpack_from('<Q', content)
      self.assertGreaterEqual(len(content), length + 16)
      last, content = content[: length + 16], content[length + 16 :]
      events += 1
    self.assertBetween(events, 2, 20)
    self.assertIn(struct.pack('<f', 50.0), last)


class StoppedTest(faulty.RunTestCase):

  def stop(self):
    # Twice, as a cluster does it that signals a process and its group.
    for _ in range(2):
      os.kill(os.getpid(), signal.SIGTERM)

  def check(self, run, step, **fields):
    self.assertIsNone(run.train())
    self.assertIn(f'stopped by SIGTERM; saved step {step} of 8',
                  self.said.getvalue())
    run = self.open(**fields)
    self.assertEqual(run.progress.step, step)
    run.train()
    self.assert_same_end(run, self.undisturbed(**fields))
    for kind in ('train', 'eval_centre'):
      loss = lambda folder, kind=kind: {
          r['step']: r['loss'] for r in self.records(kind, folder)
      }
      self.assertNotEmpty(loss(self.workdir))
      self.assertEqual(loss(self.workdir), loss(self.root / 'undisturbed'))

  def wrapped(self, function, at, count=3):
    """A function that is interrupted when it is called for the third time."""
    calls = []

    def call(*args, **kwargs):
      calls.append(1)
      if len(calls) == count and at == 'before':
        self.stop()
      result = function(*args, **kwargs)
      if len(calls) == count and at == 'after':
        self.stop()
      return result

    return call

  @parameterized.parameters('before', 'after')
  def test_during_a_step(self, at):
    run = self.open()
    run.steps._train_step = self.wrapped(run.steps._train_step, at)
    self.check(run, 3)

  def test_during_an_evaluation(self):
    fields = dict(evaluate_every='4 steps', evaluation_batch_size=3)
    run = self.open(**fields)
    run.task.eval_steps['centre'] = self.wrapped(
        run.task.eval_steps['centre'], 'before', count=2
    )
    self.check(run, 4, **fields)

  @parameterized.parameters('before', 'after')
  def test_during_a_save(self, at):
    run = self.open()
    manager = run._setup.recovery._checkpoints._manager
    manager.save = self.wrapped(manager.save, at, count=2)
    self.check(run, 4)
    names = {p.name for p in (self.workdir / 'checkpoints').iterdir()}
    self.assertEqual(names, {'6', '8'})

  def test_while_data_does_not_come(self):
    """From the third step on no image is read any more."""
    stalled, ever = threading.Event(), threading.Event()
    self.addCleanup(ever.set)
    console = faulty.AtSteps(self.said, {3: stalled.set})
    run = self.open(
        console=console, duration='100 steps', dataset__stalled_after=1.0
    )
    image = run.task.pipeline.train.image
    console_print = console.print

    def read(*args):
      if stalled.is_set():
        ever.wait()
      return image(*args)

    def stop_when_told(text=''):
      console_print(text)
      if 'waiting for' in text and stalled.is_set() and not run._stop:
        os.kill(os.getpid(), signal.SIGTERM)

    run.task.pipeline.train.image = read
    console.print = stop_when_told
    self.assertIsNone(run.train())
    said = self.said.getvalue()
    self.assertRegex(said, f'warning: waiting for {self.images}/class./00..jpg')
    self.assertRegex(said, r'stopped by SIGTERM; saved step \d+ of 100')
    console.print = console_print  # It will have been read in the end.
    self.assertGreaterEqual(self.open().progress.step, 3)


class OtherFaultsTest(faulty.RunTestCase):

  def test_a_file_that_vanishes(self):
    images = self.root / 'images'
    shutil.copytree(self.images, images)
    fields = dict(dataset__train_dir=str(images), duration='100 steps')
    calls = {}
    run = self.open(console=faulty.AtSteps(self.said, calls), **fields)
    name = run.task.pipeline.train.entries[3].path
    calls[3] = (images / name).unlink
    with self.assertRaisesRegex(DataError, f'cannot use .*{name} .No such'):
      run.train()
    shutil.copy(self.images / name, images / name)
    self.assertGreaterEqual(self.open(**fields).progress.step, 2)

  def test_examples_of_a_batch(self):
    run = self.open()
    for batch in (0, 2, 5):
      examples = run.task.pipeline.training_examples(batch)
      plan = run.task.pipeline.plan(8 * batch, 8)
      np.testing.assert_array_equal(
          [example.index for example in examples], plan.index
      )
      for number, example in enumerate(examples, 8 * batch):
        self.assertEqual(18 * example.epoch + example.place, number)

  def test_two_jobs(self):
    self.workdir.mkdir()
    held = lock.take(self.workdir, print)
    # What another process would find.
    with (
        absltest.mock.patch.dict(lock._held, clear=True),
        self.assertRaisesRegex(WorkdirInUseError, f'process {os.getpid()} on'),
    ):
      self.open()
    self.assertEqual([p.name for p in self.workdir.iterdir()], [lock.FILE])
    held.release()
    self.open(duration='1 steps').train()
    # It is free again, and nothing says that there was a job.
    self.assertEqual((self.workdir / lock.FILE).read_text(), '')
    self.open()



if __name__ == '__main__':
  absltest.main()
