"""Processes that read: the same batches, their errors, and their ends."""

import gc
import io
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import reduction

import jax
import numpy as np
import psutil
import pytest
from absl.testing import absltest, parameterized

from benchmarks import ends
from configs import alexnet_2012
from input_pipeline import datasets
from input_pipeline.batches import reading
from input_pipeline.batches import workers as workers_lib
from input_pipeline.errors import DataError, ImageError
from input_pipeline.files import threads as threads_lib
from input_pipeline.files.tensorflow_cpu import tf
from input_pipeline.images import limits
from input_pipeline.pipeline import Pipeline
from tests import testing
from tests.preparing import PreparingTest

ROOT = pathlib.Path(__file__).parents[3]

# A module that is not of `tests`, which import JAX. What its images do is their
# names.
_ACTIONS = '''
import os, resource, signal, sys, time
import numpy as np
from input_pipeline import sources
from input_pipeline.errors import DataError, ImageError
from input_pipeline.images import limits

class Own(Exception):
  def __init__(self, one, two):
    super().__init__(f'{one} and {two}')

class Actions(sources.Source):
  name, class_names, directory = 'actions', (), None

  def __init__(self, *actions):
    self.actions = actions

  def __len__(self):
    return len(self.actions)

  def read(self, index):
    raise NotImplementedError

  def image(self, index, box=None):
    exec(self.actions[index])
    pixels = index + np.arange(box.size**2 * 3) + box.top + 10 * box.left
    return pixels.reshape(box.size, box.size, 3).astype(np.uint8), 10 * index

  def describe(self, index):
    return f'image {index}'

  def fingerprint(self):
    return ''
'''


def is_there(pid: int) -> bool:
  try:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:
    return False


def children() -> set[int]:
  """Of this process, which do something."""
  found = {child.pid for child in psutil.Process().children()}
  return {pid for pid in found if is_there(pid)}


def wait_for_end(pids, seconds: float = 20) -> None:
  end = time.monotonic() + seconds
  while left := [pid for pid in pids if is_there(pid)]:
    assert time.monotonic() < end, f'{left} are there after {seconds} s'
    time.sleep(0.05)


class WorkersTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    (pathlib.Path(folder) / 'actions_of_test.py').write_text(_ACTIONS)
    self.enterContext(absltest.mock.patch.object(
        sys, 'path', [*sys.path, folder]
    ))
    self.addCleanup(sys.modules.pop, 'actions_of_test', None)
    import actions_of_test

    self.module = actions_of_test
    self.before = children()
    self.said = []

  def make(self, *actions, count=1, stalled_after=None, source=None):
    return workers_lib.Workers(
        [source if actions == () else self.module.Actions(*actions)], count,
        stalled_after=stalled_after, report=self.said.append,
    )

  def read(self, workers, *index, offset=None, size=4):
    return workers.read(
        np.array(index), offset, source=0, form=reading.Form(size, 8)
    )

  def pids(self):
    return children() - self.before

  def test_what_is_read(self):
    workers = self.make('', '', '')
    offset = np.array([[0, 0], [2, 1], [0, 3]])
    images, labels = self.read(workers, 2, 0, 1, offset=offset)
    np.testing.assert_array_equal(labels, [20, 0, 10])
    first = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(images, [first + 2, first + 12, first + 31])
    self.assertEqual(images.dtype, np.uint8)
    # What JAX and TensorFlow take without a copy.
    self.assertEqual(images.ctypes.data % 64, 0)

  @parameterized.parameters(
      lambda images: images, lambda images: images[1:2, ::2],
      lambda images: memoryview(images), tf.constant, jax.device_put,
      lambda images: jax.device_put(images[1:]),
  )
  def test_what_is_in_use_is_not_written_again(self, use):
    workers = self.make('', '', '')
    images, _ = self.read(workers, 2, 0, 1, size=64)
    used = use(images)
    wanted = np.array(use(images.copy()))
    del images
    for _ in range(3):
      self.read(workers, 1, 1, 1, size=64)
      np.testing.assert_array_equal(np.asarray(used), wanted)

  def test_memory_is_written_again(self):
    workers = self.make('', '')
    place = lambda images: images.ctypes.data
    images, _ = self.read(workers, 0)
    first = place(images)
    del images
    for index in 1, 0, 1:
      images, labels = self.read(workers, index)
      self.assertEqual((place(images), labels), (first, [10 * index]))
      np.testing.assert_array_equal(
          images.ravel(), np.arange(48, dtype=np.uint8) + index
      )
      del images
    # Another size has its own, and comes back to it.
    images, _ = self.read(workers, 0, 1)
    self.assertNotEqual(place(images), first)
    self.assertEqual(place(self.read(workers, 0)[0]), first)

  def test_memory_does_not_pile_up(self):
    workers = self.make('')
    self.read(workers, 0)
    (worker,) = workers._workers
    descriptors = lambda pid: len(os.listdir(f'/proc/{pid}/fd'))
    (pid,) = self.pids()
    before = descriptors(pid), descriptors(os.getpid())
    held = [self.read(workers, 0) for _ in range(20)]
    self.assertLen(worker._memories, 20)
    del held
    self.read(workers, 0)
    self.read(workers, 0)
    self.assertLessEqual(len(worker._memories), workers_lib._KEPT + 1)
    for one, count in zip((pid, os.getpid()), before):
      self.assertLessEqual(descriptors(one), count + workers_lib._KEPT + 1)

  def test_processes_read_at_the_same_time(self):
    """Each waits until the other has begun."""
    folder = self.create_tempdir().full_path
    action = f'''
here, other = {folder!r} + '/%d', {folder!r} + '/%d'
open(here % index, 'w').close()
while not os.path.exists(other % (1 - index)):
  time.sleep(0.01)
'''
    workers = self.make(action, action, count=2)
    threads = [
        threading.Thread(target=self.read, args=(workers, i)) for i in range(2)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join(60)
      self.assertFalse(thread.is_alive())
    self.assertLen(self.pids(), 2)

  def test_more_than_there_are_cores(self):
    """Each waits for all others, in a chain."""
    count = threads_lib.cores() + 2
    folder = self.create_tempdir().full_path
    action = f'''
open({folder!r} + '/%d' % os.getpid(), 'w').close()
end = time.monotonic() + 300
while len(os.listdir({folder!r})) < {count}:
  if time.monotonic() > end:
    raise DataError('the others have not begun')
  time.sleep(0.01)
'''
    config = alexnet_2012.get_config('folder')
    config.batch_size, config.dataset.processes = 1, count
    config.dataset.mean, config.dataset.pca = 'imagenet_channels', 'imagenet'
    source = self.module.Actions(*[action] * count)
    stream = Pipeline(config, source, source).training_batches(0)
    self.assertLen([next(stream) for _ in range(count)], count)
    stream.close()

  def test_neither_tensorflow_nor_jax(self):
    workers = self.make("raise DataError(' '.join(sys.modules))")
    with self.assertRaises(DataError) as caught:
      self.read(workers, 0)
    modules = set(str(caught.exception).split())
    self.assertIn('input_pipeline.sources', modules)
    heavy = {'tensorflow', 'jax', 'sklearn', 'tests', 'configs', 'alexnet'}
    self.assertEmpty(modules & heavy)

  @parameterized.parameters(
      ("raise DataError('no image')", DataError, '^no image$'),
      ("raise ImageError('a.jpg', 'empty')", ImageError,
       r'^cannot use a.jpg \(empty\)'),
      ("raise ZeroDivisionError('no')", ZeroDivisionError, '^no$'),
      # Which cannot be made again of its text.
      ("raise sys.modules['actions_of_test'].Own(1, 2)", RuntimeError,
       '1 and 2'),
  )
  def test_errors(self, action, kind, text):
    workers = self.make(action, '')
    for _ in range(2):
      with self.assertRaisesRegex(kind, text) as caught:
        self.read(workers, 1, 0)
      self.assertIs(type(caught.exception), kind)
    # It goes on.
    self.assertEqual(self.read(workers, 1)[1], [10])

  def test_where_a_fault_was(self):
    workers = self.make('1 / 0')
    with self.assertRaises(ZeroDivisionError) as caught:
      self.read(workers, 0)
    self.assertIn('in image', ''.join(caught.exception.__notes__))

  @parameterized.parameters(
      ('os.kill(os.getpid(), signal.SIGKILL)', 'was ended by SIGKILL, as a '),
      ('os.kill(os.getpid(), signal.SIGSEGV)', 'was ended by SIGSEGV: run'),
      ('os._exit(3)', 'has ended with status 3; its own'),
  )
  def test_one_that_dies(self, action, text):
    workers = self.make(action, '')
    name = r'reading process 1 of 1 \(pid \d+\) '
    for index in 0, 1:
      with self.assertRaisesRegex(DataError, name + text):
        self.read(workers, index)

  def test_one_that_is_killed_idle(self):
    workers = self.make('', count=2)
    self.read(workers, 0)
    for pid in self.pids():
      os.kill(pid, signal.SIGKILL)
      wait_for_end([pid])
      with self.assertRaisesRegex(DataError, rf'\(pid {pid}\) .*SIGKILL'):
        for _ in range(2):
          self.read(workers, 0)

  def test_signals_of_a_cluster_are_for_the_parent(self):
    numbers = 'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGQUIT'
    workers = self.make(*(
        f'os.kill(os.getpid(), signal.{name})' for name in numbers
    ))
    _, labels = self.read(workers, *range(len(numbers)))
    self.assertLen(labels, len(numbers))
    (pid,) = self.pids()
    self.assertNotEqual(os.getsid(pid), os.getsid(0))  # No Ctrl-C either.

  def test_no_room(self):
    """As where memory ends: after a part of a batch."""
    small = 'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))'
    workers = self.make(small, '')
    self.read(workers, 0)
    with self.assertRaisesRegex(
        DataError, r'no room for a batch of 1,200 bytes \(File too large\): set'
    ):
      self.read(workers, 0, size=20)
    self.assertEqual(self.read(workers, 1)[1], [10])

  def test_no_more_open_files(self):
    workers = self.make('', '')
    kept = [self.read(workers, 0)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir('/proc/self/fd'))
    self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    with self.assertRaisesRegex(
        DataError, r'no room for a batch|may open no more files: set a smaller'
    ):
      while True:
        kept.append(self.read(workers, 1))

  def test_a_file_where_there_is_no_nameless_memory(self):
    """Also with nothing left in /dev/shm, which is not used in any case."""
    folder = self.create_tempdir().full_path
    action = f'''
def refuse(name):
  raise PermissionError(name)
os.memfd_create = refuse
import tempfile
tempfile.tempdir = {folder!r}
'''
    workers = self.make(action, '')
    self.read(workers, 0)
    images, _ = self.read(workers, 1, size=5)
    np.testing.assert_array_equal(images.ravel(), np.arange(1, 76))
    (pid,) = self.pids()
    files = map(os.readlink, pathlib.Path(f'/proc/{pid}/fd').iterdir())
    self.assertIn(folder, ' '.join(files))
    self.assertEmpty(os.listdir(folder))
    # Without it there is a message.
    workers = self.make(action.replace(folder, '/nowhere'), '')
    self.read(workers, 0)
    with self.assertRaisesRegex(DataError, 'no room for a batch .*No such'):
      self.read(workers, 1, size=5)

  def test_waiting_is_told_of(self):
    workers = self.make('time.sleep(1)', stalled_after=0.2)
    self.read(workers, 0)
    self.assertRegex(self.said[0], '^waiting for image 0 for 0 s now')
    self.assertRegex(self.said[-1], '^image 0 has been read after 1 s')

  def test_limits_are_those_of_the_parent(self):
    self.addCleanup(limits.set_memory, limits.DEFAULT_MEMORY)
    limits.set_memory(2000)
    workers = self.make('raise DataError(str(limits.MEMORY))')
    with self.assertRaisesRegex(DataError, f'^{2000 * 2**20}$'):
      self.read(workers, 0)

  def test_they_end_with_their_object(self):
    workers = self.make('', 'time.sleep(100)', count=2)
    self.read(workers, 0)
    pids = self.pids()
    self.assertLen(pids, 2)
    del workers
    # Buried, too.
    self.assertEqual([pid for pid in pids if psutil.pid_exists(pid)], [])

  def test_sources_that_cannot_be_sent(self):
    source = object.__new__(datasets.TFDS)
    source.name = 'mnist (train)'
    with self.assertRaisesRegex(
        DataError, r'^mnist \(train\) is read by TensorFlow.*processes=0, or'
    ):
      self.read(self.make(source=source), 0)
    source = self.module.Actions('')
    source.file = io.TextIOWrapper(io.BytesIO())
    with self.assertRaisesRegex(DataError, 'by other processes.*processes=0'):
      self.read(self.make(source=source), 0)
    self.assertEmpty(self.pids())

  def test_one_that_cannot_be_started(self):
    workers = self.make('')
    with (
        absltest.mock.patch.object(sys, 'executable', '/no/python'),
        self.assertRaisesRegex(
            DataError, 'start reading process 1 of 1 .*/no/python.*smaller'
        ),
    ):
      self.read(workers, 0)
    self.assertEqual(self.read(workers, 0)[1], [0])

  def test_the_second_cannot_be_started(self):
    """Nobody waits for the first, which nothing was sent."""
    start, started = subprocess.Popen, []

    def start_one(*arguments, **options):
      if started:
        raise BlockingIOError('no more processes')
      started.append(start(*arguments, **options))
      return started[0]

    workers = self.make('', count=2)
    for _ in range(2):
      started.clear()
      with (
          absltest.mock.patch.object(subprocess, 'Popen', start_one),
          self.assertRaisesRegex(DataError, 'start reading process 2 of 2'),
      ):
        self.read(workers, 0)
      self.assertEqual(started[0].poll(), -signal.SIGKILL)


# A program without a file. Its source is of a module, or its own.
_PROGRAM = '''
import os, signal, sys
import numpy as np
from benchmarks import ends
from input_pipeline.batches import reading, workers

class Own(ends.Images):
  pass

# Whoever runs this again, fails.
print('begun', flush=True)
source = {source}('ahead')
read = workers.Workers([source], 2, stalled_after=None, report=print).read
form = reading.Form(8, 8)
images, labels = read(np.arange(3), source=0, form=form)
print(images.shape, labels.tolist(), flush=True)
{last}
'''


class ProgramsTest(parameterized.TestCase):

  def run_program(self, way, source='ends.Images', last=''):
    text = _PROGRAM.format(source=source, last=last)
    command, given = [sys.executable, '-c', text], None
    if way == 'stdin':
      command, given = [sys.executable, '-'], text
    return subprocess.run(
        command, cwd=ROOT, input=given, capture_output=True, text=True,
        timeout=120, check=False,
    )

  @parameterized.parameters('-c', 'stdin')
  def test_a_notebook(self, way):
    """The output ends when the last process has that has it."""
    done = self.run_program(way)
    self.assertEqual(done.stdout, 'begun\n(3, 8, 8, 3) [0, 1, 0]\n')
    self.assertEqual((done.returncode, done.stderr), (0, ''))

  @parameterized.parameters('-c', 'stdin')
  def test_a_class_of_a_notebook(self, way):
    done = self.run_program(way, source='Own')
    self.assertIn(
        'DataError: the images cannot be read by other processes '
        "(AttributeError: Can't get attribute 'Own'", done.stderr
    )
    self.assertIn('set --config.dataset.processes=0', done.stderr)

  @parameterized.parameters('SIGKILL', 'SIGTERM')
  def test_none_outlives_its_parent(self, name):
    begun = time.monotonic()
    done = self.run_program(
        '-c', last=f'os.kill(os.getpid(), signal.{name})'
    )
    self.assertEqual(done.returncode, -signal.Signals[name])
    self.assertLess(time.monotonic() - begun, 60)

  def test_none_outlives_its_parent_in_the_middle_of_an_image(self):
    last = '''
import threading, time
source = ends.Images('waiting')
read = workers.Workers([source], 1, stalled_after=0.1, report=print).read
threading.Thread(target=read, args=[np.arange(3)], kwargs=dict(
    source=0, form=reading.Form(8, 8)), daemon=True).start()
time.sleep(3)
os.kill(os.getpid(), signal.SIGKILL)
'''
    done = self.run_program('-c', last=last)
    self.assertEqual(done.returncode, -signal.SIGKILL)
    self.assertIn('waiting for image 0 for', done.stdout)


class EndsTest(parameterized.TestCase):
  """`benchmarks.ends --processes=2` has more stages, and more starts."""

  def test_a_process_ends(self):
    """While a thread waits for a batch."""
    self.assertIsNotNone(ends.seconds_to_end('thread', 2))

  @parameterized.parameters('reading', 'raised')
  @pytest.mark.full
  def test_a_process_ends_otherwise(self, stage):
    self.assertIsNotNone(ends.seconds_to_end(stage, 2))


class PipelineTest(PreparingTest):
  """Whole chains, with sources as users have them."""

  def batches(self, name, processes, first=0, count=5, **dataset):
    config = alexnet_2012.get_config(name)
    config.batch_size = 6
    config.dataset.update(dataset, processes=processes)
    pipeline = Pipeline(config, *datasets.create_sources(config.dataset, 0))
    self.pipeline = pipeline
    stream = pipeline.training_batches(first)
    batches = [next(stream) for _ in range(count)]
    stream.close()
    evaluation = list(pipeline.evaluation_batches(4))
    return batches, evaluation, pipeline.mean_image

  def assert_equal(self, one, other):
    for batches, others in zip(one[:2], other[:2]):
      self.assertEqual(len(batches), len(others))
      for batch, same in zip(batches, others):
        self.assertEqual(batch.keys(), same.keys())
        for name in batch:
          np.testing.assert_array_equal(batch[name], same[name])
    np.testing.assert_array_equal(one[2], other[2])

  @parameterized.parameters('folder', 'jpeg', 'raw', 'digits')
  def test_the_same_batches(self, kind):
    photos = testing.write_images(self.root / 'photos', 2, 12)
    fields = dict(statistics_dir=str(self.root))
    name = kind
    if kind == 'folder':
      fields |= dict(train_dir=str(photos))
    elif kind != 'digits':
      self.prepare(photos, f'--storage={kind}')
      name, fields = 'prepared', dict(dir=str(self.out))
    wanted = self.batches(name, 0, **fields)
    # What a process is sent has no pixels of prepared data in it.
    sent = reduction.ForkingPickler.dumps(self.pipeline.train)
    self.assertLess(len(sent), 2**19)
    for processes in 1, 2:
      self.assert_equal(self.batches(name, processes, **fields), wanted)
    # From a later step on, as a run that continues.
    (later, *rest) = self.batches(name, 2, first=3, count=2, **fields)
    self.assert_equal((later, *rest), (wanted[0][3:], *wanted[1:]))

  def test_they_end_with_their_pipeline(self):
    before = children()
    self.batches('digits', 2)
    started = children() - before
    self.assertLen(started, 2)
    del self.pipeline
    gc.collect()
    wait_for_end(started)

  def test_an_error_names_its_file_in_its_turn(self):
    photos = testing.write_images(self.root / 'photos', 2, 12)
    config = alexnet_2012.get_config('folder')
    config.batch_size, config.dataset.train_dir = 4, str(photos)
    config.dataset.mean, config.dataset.pca = 'imagenet_channels', 'imagenet'
    config.dataset.processes = 2
    pipeline = Pipeline(config, *datasets.create_sources(config.dataset, 0))
    index = pipeline.plan(0, 12).index
    broken = pathlib.Path(pipeline.train.describe(index[9]))
    broken.write_bytes(broken.read_bytes()[:300])
    stream = pipeline.training_batches(0)
    next(stream), next(stream)
    with self.assertRaisesRegex(ImageError, f'^cannot use {broken}'):
      next(stream)


if __name__ == '__main__':
  absltest.main()
