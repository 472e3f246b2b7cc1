"""What tests of faults share: runs of a moment, and a disk without room."""

import contextlib
import io
import pathlib
import resource
import tempfile

import jax
import numpy as np
from absl.testing import parameterized

from alexnet.metrics import writer
from alexnet.metrics.console import Console
from alexnet.training import trainer
from tests import testing, tiny


class RunTestCase(parameterized.TestCase):
  """Has a folder of 18 training and 9 evaluation images."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.images = testing.write_images(root / 'images', 3, 9)

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.workdir = self.root / 'run'
    self.said = io.StringIO()

  def config(self, **fields):
    """Eight steps, a checkpoint every two; `a__b` is the field a.b."""
    config = tiny.get_config()
    config.dataset.train_dir = str(self.images)
    config.dataset.eval_fraction = 0.34
    config.dataset.size, config.augmentation.crop_size = 76, 72
    config.augmentation.crop_offsets = 4
    config.duration = '8 steps'
    config.evaluate_every = 'never'
    config.ten_views = False
    for name, value in fields.items():
      config.update_from_flattened_dict({name.replace('__', '.'): value})
    return config

  def open(self, workdir=None, console=None, **fields):
    return trainer.create(
        self.config(**fields),
        workdir or self.workdir,
        console or Console(self.said),
    )

  def undisturbed(self, **fields):
    """The end of a run that nothing happens to, in a workdir of its own."""
    run = self.open(self.root / 'undisturbed', **fields)
    run.train()
    return run

  def records(self, kind, workdir=None):
    path = (workdir or self.workdir) / writer.FILE
    return [r for r in writer.read_records(path) if r['kind'] == kind]

  def assert_same_end(self, one, other):
    self.assertEqual(one.progress.step, other.progress.step)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(one.state),
        jax.device_get(other.state),
    )


class AtSteps(Console):
  """Calls functions when a step's line is due: {step: function}."""

  def __init__(self, stream, calls):
    super().__init__(stream)
    self._calls = calls

  def progress(self, text):
    super().progress(text)
    if text.startswith('step '):
      step = int(text.split()[1].partition('/')[0])
      self._calls.get(step, lambda: None)()


@contextlib.contextmanager
def full_disk(size: int):
  """No file of this process may grow beyond so many bytes, inside."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def damages(path: pathlib.Path):
  """(what, function that does it) for a file; the content comes back after."""
  content = path.read_bytes()

  @contextlib.contextmanager
  def changed(new):
    if new is None:
      path.unlink()
    else:
      path.write_bytes(new)
    try:
      yield
    finally:
      path.write_bytes(content)

  yield 'missing', changed(None)
  if content:
    middle = len(content) // 2
    flipped = content[middle] ^ 1
    yield 'truncated', changed(content[:middle])
    yield 'a bit', changed(
        content[:middle] + bytes([flipped]) + content[middle + 1 :]
    )
  yield 'longer', changed(content + b'\0')
