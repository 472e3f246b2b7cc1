"""One run in several processes, beside the same run in one."""

import contextlib
import ctypes
import functools
import io
import json
import os
import pathlib
import signal
import socket
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.config.errors import ConfigError
from alexnet.evaluation import layer_statistics, session
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.runtime import distributed, multihost
from alexnet.training import setup, trainer
from alexnet.training.steps import Steps
from tests import several, testing, tiny

STEPS = 20


def predictions(config, workdir):
  """What a process of several says of the evaluation set, into a file."""
  del config
  run = session.open_run(pathlib.Path(workdir), Console())
  found = run.predict('centre')
  np.savez(
      f'{workdir}.{jax.process_index()}.npz',
      log_probabilities=found.log_probabilities,
      labels=found.labels,
      mesh=list(run.task.mesh.shape.values()),
  )


def one_fails(config, workdir):
  """One process ends, as the workdir's name says; the other waits for it."""
  del config
  multihost.wait_for_all('meeting')
  how, index = pathlib.Path(workdir).name.split('-')
  if multihost.place()[0] == int(index):
    if how.startswith('SIG'):
      os.kill(os.getpid(), signal.Signals[how])
    raise ConfigError('nothing to be done') if how == 'mend' else KeyError
  multihost.wait_for_all('never')


def holds_python(config, workdir):
  """One process has Python for itself, for longer than others wait."""
  del config, workdir
  multihost.wait_for_all('meeting')
  if multihost.place()[0] == 1:
    # As the worst of compilations would: no other thread gets its turn.
    ctypes.PyDLL(None).sleep(12)
  multihost.wait_for_all('after')


@contextlib.contextmanager
def port():
  """A port that only those can have that share it, as JAX's server does."""
  with socket.socket() as reserved:
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(('127.0.0.1', 0))
    yield reserved.getsockname()[1]


def records(workdir, kind):
  """{step: record} of a metrics.jsonl, without times."""
  return {
      record['step']: {
          name: value
          for name, value in record.items()
          if name != 'images_per_second'
      }
      for record in read_records(workdir / 'metrics.jsonl')
      if record['kind'] == kind
  }


class SeveralTestCase(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    temporary = lambda: pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.root = temporary()
    # 18 for training and 9 for evaluation, in batches of 2 images: one of the
    # last batch's two processes has nothing but padding.
    cls.images = testing.write_images(cls.root / 'images', 3, 9)
    cls.starter = several.Starter(cls.root / 'cache')
    cls.addClassCleanup(cls.starter.close)

  def fields(self, **fields):
    return {
        'dataset.train_dir': str(self.images),
        'dataset.eval_fraction': 0.34,
        'evaluation_batch_size': 2,
        'seed': 1,
        # Small images, since sizes are not the point.
        'dataset.size': 76,
        'augmentation.crop_size': 72,
        'augmentation.crop_offsets': 4,
        **fields,
    }

  def flags(self, workdir, **fields):
    return [
        '--config=tests/tiny.py',
        f'--workdir={workdir}',
        *(
            f'--config.{name}={value}'
            for name, value in self.fields(**fields).items()
        ),
    ]

  def run_here(self, workdir, **fields):
    """The same run in this process, which has four devices."""
    config = tiny.get_config()
    with config.ignore_type():
      config.update_from_flattened_dict(self.fields(**fields))
    run = trainer.create(config, workdir, Console(io.StringIO()))
    run.train()
    return run

  def start(self, flags, *, count=2, timeout=100, last=120, **options):
    """Starts them, with a list of each option of `Starter.start`.

    The first process may take two minutes, the others `last` seconds more.

    Returns:
      (their exit statuses, what they have said).
    """
    with port() as number:
      started = []
      for index in range(count):
        common = [
            f'--coordinator=127.0.0.1:{number}',
            f'--num_processes={count}',
            f'--process_id={index}',
            f'--peer_timeout={timeout}',
        ]
        own = {name: values[index] for name, values in options.items()}
        started.append(
            self.starter.start([*common, *flags], self.log(index), **own)
        )
      first, *others = started
      statuses = [self.starter.wait(first)]
      statuses += [self.starter.wait(other, last) for other in others]
    return statuses, [self.log(i).read_text() for i in range(count)]

  def log(self, index):
    return self.root / f'log{index}'


class RunTest(SeveralTestCase):

  def test_killed_stopped_and_continued(self):
    """Two processes with two devices each; what one process does with four."""
    workdir = self.root / 'two'
    fields = {
        'duration': f'{STEPS} steps',
        'checkpoint_every': '5 steps',
        'evaluate_every': '10 steps',
        'evaluation_batch_size': 4,
        'mesh.data': 2,
        'mesh.tower': 2,
        # Everything that looks at a run.
        'layer_statistics_images': 8,
        'log_images': True,
    }
    flags = self.flags(workdir, **fields)
    start = functools.partial(self.start, flags, devices=[2, 2])

    with self.subTest('the other process is killed'):
      statuses, logs = start(signal_at=[None, (signal.SIGKILL, 8)])
      self.assertEqual(statuses, [distributed.LOST, -signal.SIGKILL], logs)
      self.assert_told(logs[0])
      self.assertEqual(self.saved(workdir), {5})

    with self.subTest('one process is asked to stop'):
      statuses, logs = start(signal_at=[None, (signal.SIGTERM, 2)])
      self.assertEqual(statuses[0], statuses[1], logs)
      self.assertIn('continuing from step 5', logs[0])
      self.assertRegex(logs[0], 'stopped by SIGTERM; saved step 7 of 20')
      self.assertNotIn('stopped', logs[1])
      self.assertEqual(self.saved(workdir), {5, 7})

    statuses, logs = start()
    self.assertEqual(statuses, [0, 0], logs)
    self.assertIn('continuing from step 7', logs[0])
    self.assertIn('data=2, tower=2 on 4 cpu', logs[0])
    # It says nothing; what is left is said by libraries.
    self.assertNotRegex(logs[1], 'step|model|dataset|error|Traceback')

    one = self.run_here(self.root / 'one', **fields)
    self.assert_equal_runs(
        workdir, one, 'train', 'eval_centre', 'eval_ten',
        layer_statistics.KIND,
    )
    self.assertEqual(int(one.state.step), STEPS)
    self.assert_equal_pictures(workdir / 'images', one.workdir / 'images')
    self.check_predictions(workdir)

  def check_predictions(self, workdir):
    """Another two, with a device each, on the mesh that is theirs untold."""
    statuses, logs = self.start(
        self.flags(workdir), instead=[f'{__name__}:predictions'] * 2
    )
    self.assertEqual(statuses, [0, 0], logs)
    expected = session.open_run(
        workdir, Console(io.StringIO())
    ).predict('centre')
    for index in range(2):
      found = np.load(f'{workdir}.{index}.npz')
      self.assertEqual(found['mesh'].tolist(), [2, 1])
      np.testing.assert_array_equal(found['labels'], expected.labels)
      np.testing.assert_allclose(
          found['log_probabilities'], expected.log_probabilities, atol=1e-5
      )

  def assert_told(self, log):
    # JAX's own threads may say a line more at the very end.
    last = '\n'.join(log.strip().splitlines()[-3:])
    self.assertRegex(
        last, '(?m)^error: .*process.* Start all processes again to'
    )

  def saved(self, workdir):
    return {
        int(path.parent.name)
        for path in (workdir / 'checkpoints').glob('*/manifest.json')
    }

  def assert_equal_runs(self, workdir, expected, *kinds):
    """Up to rounding: XLA cuts up a program by the devices of its process."""
    for kind in kinds:
      ours, theirs = (records(w, kind) for w in (workdir, expected.workdir))
      self.assertNotEmpty(theirs)
      self.assertEqual(ours.keys(), theirs.keys())
      for step, record in theirs.items():
        self.assertEqual(ours[step].keys(), record.keys())
        for name, value in record.items():
          if name in ('count', 'views', 'top1', 'top5', 'learning_rate'):
            self.assertEqual(ours[step][name], value, f'{kind} {name} {step}')
          elif name != 'kind':
            np.testing.assert_allclose(
                ours[step][name],
                value,
                rtol=1e-6 if name == 'loss' else 1e-4,
                atol=1e-6,
                err_msg=f'{kind} {name} {step}',
            )
    results = json.loads((workdir / 'results.json').read_text())
    self.assertEqual(results['step'], expected.progress.step)
    self.assertEqual(results['centre']['count'], 9)
    state = Steps(setup.create(
        loading.config_of_run(workdir), workdir, Console(io.StringIO()),
        training=False,
    )).state
    jax.tree.map(
        lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=1e-6),
        jax.device_get(state),
        jax.device_get(expected.state),
    )

  def assert_equal_pictures(self, folder, expected):
    pictures = {path.name for path in expected.iterdir()}
    self.assertLen(pictures, 4)
    for name in pictures:
      ours, theirs = (
          np.asarray(Image.open(where / name), np.int16)
          for where in (folder, expected)
      )
      # Percentages may be drawn rounded the other way.
      self.assertLess(np.abs(ours - theirs).mean(), 1, name)

  @parameterized.parameters(
      ('mend', r'^error: nothing to be done \(process 1 of 2\)$'),
      ('bug', 'KeyError\n\nerror: process 1 of 2 has failed$'),
  )
  def test_one_process_fails(self, kind, message):
    statuses, logs = self.start_failing(f'{kind}-1')
    self.assertEqual(statuses, [distributed.LOST, 1], logs)
    self.assert_told(logs[0])
    self.assertRegex(logs[1].strip(), f'(?m){message}')

  def test_the_first_process_is_killed(self):
    """Which the others have their news from."""
    statuses, logs = self.start_failing('SIGKILL-0')
    self.assertEqual(statuses, [-signal.SIGKILL, distributed.LOST], logs)
    self.assert_told(logs[1])

  def test_a_host_that_is_not_heard_of(self):
    """Its connections stay open, so that only its silence tells."""
    statuses, logs = self.start_failing('SIGSTOP-1', timeout=10, last=0)
    self.assertEqual(statuses, [distributed.LOST, several.HANGS], logs[0])
    self.assert_told(logs[0])
    self.assertRegex(logs[0], 'error: another .* not heard of for 10 s')

  def test_a_long_compilation_is_not_silence(self):
    statuses, logs = self.start(
        self.flags(self.root / 'long'),
        instead=[f'{__name__}:holds_python'] * 2,
        timeout=4,
    )
    self.assertEqual(statuses, [0, 0], logs)

  def start_failing(self, how, **options):
    return self.start(
        self.flags(self.root / how),
        instead=[f'{__name__}:one_fails'] * 2,
        **options,
    )


if __name__ == '__main__':
  absltest.main()
