"""What the tests of prepared data share; imports neither JAX nor TensorFlow.

Commands run in children of multiprocessing's fork server, which has imported
this module: dozens of them take seconds, and each can be killed.
"""

import ctypes
import hashlib
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import struct
import sys
import tempfile
import threading
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl.testing import parameterized
from PIL import Image

from input_pipeline import cli
from input_pipeline import prepare as prepare_lib
from input_pipeline.prepared import writer

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload([__name__])
SIDE = 256
# Bytes that are left of the file in whose middle a command is killed.
_TORN = 50


class Result(NamedTuple):
  status: int
  output: str
  error: str


class Command:
  """`python -m input_pipeline.prepare FLAGS` in a process of its own."""

  def __init__(self, *flags: str, **options):
    """Starts it.

    Args:
      *flags: of the command line.
      **options: of `_child`.
    """
    self._log = tempfile.TemporaryDirectory()
    self._files = [pathlib.Path(self._log.name, name) for name in 'oe']
    self._process = _CONTEXT.Process(
        target=_child, args=(flags, self._files), kwargs=options
    )
    self._process.start()

  def send(self, number: signal.Signals) -> None:
    """Sends a signal, if it has not ended."""
    if self._process.exitcode is None:
      os.kill(self._process.pid, number)

  def running(self) -> bool:
    return self._process.is_alive()

  def wait(self) -> Result:
    self._process.join(60)
    if self._process.exitcode is None:
      self._process.kill()
      raise AssertionError('it hangs')
    # It may have been killed before it had these files.
    texts = [f.read_text() if f.exists() else '' for f in self._files]
    self._log.cleanup()
    return Result(self._process.exitcode, *texts)


def run(*flags: str, **options) -> Result:
  """Runs the command to its end."""
  return Command(*flags, **options).wait()


def _child(
    flags, files, *, shard=None, die_at=None, by=signal.SIGKILL, limit=None,
    humble=False, number=None
):
  """Runs the command.

  Args:
    flags: of the command line.
    files: for its output and its errors.
    shard: images in a shard.
    die_at: number of the change to the disk before which it gets a signal.
    by: the signal; SIGXFSZ comes in the middle of the next write.
    limit: largest size of a file, in bytes.
    humble: whether permissions count even if this is root.
    number: that it takes for its own, as if on a machine of its own.
  """
  for descriptor, file in enumerate(files, 1):
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
  if shard:
    writer._SHARD = shard
  if die_at is not None:
    _die_at(die_at, by)
  if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
  if number:
    os.getpid = lambda: number
  if humble:
    _give_up_reading_everything()
  # As at a terminal; in the background it is ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  # Half of the time, and of use only to those whose power is cut.
  os.fsync = lambda descriptor: None
  # Its own is shared by processes, and would be kept by one that is killed.
  tqdm.tqdm.set_lock(threading.RLock())
  sys.argv = ['prepare', *flags]
  prepare_lib._define_flags()
  cli.run(prepare_lib.main)


def _give_up_reading_everything():
  libc = ctypes.CDLL(None)
  # Version 3 of the call, this process.
  header = ctypes.create_string_buffer(struct.pack('=Ii', 0x20080522, 0))
  data = ctypes.create_string_buffer(24)
  assert libc.capget(header, data) == 0
  effective, *others = struct.unpack('=6I', data.raw)
  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
  effective &= ~(1 << 1 | 1 << 2)
  data.raw = struct.pack('=6I', effective, *others)
  assert libc.capset(header, data) == 0


def _die_at(number, by):
  left = number
  if by == signal.SIGXFSZ:  # Python ignores it, and would raise an error.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

  def hook(event, arguments):
    nonlocal left
    writes = event == 'open' and 'w' in str(arguments[1])
    changes = 'os.rename', 'os.remove', 'os.rmdir', 'os.mkdir'
    if writes or event in changes:
      left -= 1
      if left == -1 and by == signal.SIGXFSZ:
        # The write that goes beyond this is cut short, and the last.
        resource.setrlimit(resource.RLIMIT_FSIZE, (_TORN, _TORN))
      elif left == -1:
        os.kill(os.getpid(), by)

  sys.addaudithook(hook)


def picture(seed: int, width: int = 50, height: int = 40) -> Image.Image:
  """Colourful noise on a base of its own."""
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 200, 3) + rng.integers(0, 56, (height, width, 3))
  return Image.fromarray(pixels.astype(np.uint8))


def write_picture(path: pathlib.Path, seed: int, *size: int) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  picture(seed, *size).save(path, quality=90)


def write_photos(
    root: pathlib.Path, per_class: int = 6, classes=('ant', 'newt', 'yak')
) -> pathlib.Path:
  """A folder of class folders of JPEGs, all different."""
  for label, name in enumerate(classes):
    for index in range(per_class):
      seed = 100 * label + index
      write_picture(root / name / f'{index:02d}.jpg', seed)
  return root


def resize(image: Image.Image, width: int, height: int) -> np.ndarray:
  """By Pillow, one axis after the other: it rounds in between."""
  columns = image.resize((width, image.height), Image.Resampling.BICUBIC)
  return np.asarray(columns.resize((width, height), Image.Resampling.BICUBIC))


def square(path: pathlib.Path | Any) -> np.ndarray:
  """Pillow's decoding, shorter side to 256, centre cut out.

  The scaled sides must be even integers, so that Pillow cuts where we do.
  """
  image = Image.open(path).convert('RGB')
  width, height = (SIDE * side // min(image.size) for side in image.size)
  assert width % 2 == height % 2 == 0
  left, top = (width - SIDE) // 2, (height - SIDE) // 2
  image = resize(image, width, height)
  return image[top : top + SIDE, left : left + SIDE]


class Stored(NamedTuple):
  """A set of prepared data."""

  items: list[Any]  # Pixels, or JPEG files.
  labels: list[int]
  names: list[str]


def load(directory: pathlib.Path, set_name: str = 'train') -> Stored:
  """Reads prepared data with NumPy alone."""
  shards = [np.load(p) for p in sorted(directory.glob(f'{set_name}-*.npy'))]
  with np.load(directory / f'{set_name}.npz') as arrays:
    labels = arrays['labels'].tolist()
    if 'sizes' not in arrays:
      items = list(np.concatenate(shards))
    else:
      data, items = np.concatenate(shards).tobytes(), []
      for size in arrays['sizes'].tolist():
        items.append(data[:size])
        data = data[size:]
      assert not data
  names = (directory / f'{set_name}.txt').read_text('utf-8')
  assert names.endswith('\n')
  return Stored(items, labels, names.split('\n')[:-1])


def manifest(directory: pathlib.Path) -> dict[str, Any]:
  return json.loads((directory / 'manifest.json').read_text())


def sha256(data: bytes | pathlib.Path) -> str:
  """Of bytes or of a file: short, where a test has to show a difference."""
  if isinstance(data, pathlib.Path):
    data = data.read_bytes()
  return hashlib.sha256(data).hexdigest()


def snapshot(directory: pathlib.Path) -> dict[str, str | None]:
  """All that is in a directory, by SHA-256; None for folders."""
  return {
      str(path.relative_to(directory)): (
          None if path.is_dir() else sha256(path)
      )
      for path in directory.rglob('*')
  }


class PreparingTest(parameterized.TestCase):
  """With a folder of its own, and messages to compare."""

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)
    self.out = self.root / 'out'

  def prepare(self, source, *flags, out=None, **options):
    """Runs the command, which has to succeed; returns its output."""
    result = run(
        f'--source={source}', f'--output={out or self.out}', *flags, **options
    )
    self.assertEqual(result.status, 0, result.error)
    return result.output

  def assert_refused(self, message, *flags, **options):
    """It ends with status 1, this message, one line long, and no traceback."""
    if not any(flag.startswith('--output') for flag in flags):
      flags = (*flags, f'--output={self.out}')
    result = run(*flags, **options)
    self.assert_failed(result, message)
    return result

  def assert_failed(self, result, message):
    self.assertEqual(result.status, 1, result.output + result.error)
    self.assertNotIn('Traceback', result.error)
    _, separator, text = result.error.partition('\nerror: ')
    self.assertTrue(separator, result.error)
    self.assertRegex(text, message)
    self.assertEqual(text.count('\n'), 1, text)

  def assert_same_bytes(self, actual, expected):
    self.assertEqual(snapshot(actual), snapshot(expected))
