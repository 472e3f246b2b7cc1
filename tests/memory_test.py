"""A run's steps give back what they take."""

from tests import testing  # isort: skip

import gc
import io
import os
import pathlib

import jax
from absl.testing import absltest

from alexnet import metrics, train

_EVERY = 50
_STEPS = 300


class Watch(metrics.Console):
  """Looks at the process each time a line of the log is due."""

  def __init__(self):
    super().__init__(io.StringIO())
    self.arrays, self.files, self.memory = [], [], []

  def progress(self, text, *, transient=False):
    if transient:
      return
    gc.collect()
    self.arrays.append(len(jax.live_arrays()))
    self.files.append(len(os.listdir('/proc/self/fd')))
    status = pathlib.Path('/proc/self/status').read_text().splitlines()
    (line,) = (line for line in status if line.startswith('RssAnon'))
    self.memory.append(1024 * int(line.split()[1]))


class MemoryTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    if not os.path.exists('/proc/self/status'):
      self.skipTest('reads what Linux says of a process')

  def test_flat(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    config = testing.narrow_config('digits')
    config.dataset.size, config.augmentation.crop_size = 96, 88
    config.augmentation.crop_offsets = 9
    config.batch_size = 16
    config.duration = f'{_STEPS} steps'
    config.log_every = f'{_EVERY} steps'
    config.evaluate_every = config.checkpoint_every = 'never'
    config.ten_views = False
    config.schedule.name = 'constant'
    config.schedule.learning_rate = 0.0005
    watch = Watch()
    train.Run(config, directory / 'run', watch).train()
    self.assertLen(watch.memory, _STEPS // _EVERY)
    # By the second line whatever is made once has been made.
    arrays, files, memory = watch.arrays[1:], watch.files[1:], watch.memory[1:]
    self.assertLen(set(arrays), 1, arrays)
    self.assertLen(set(files), 1, files)
    # A quarter of what one batch of 8-bit images kept at each step would be.
    batches = 16 * 88 * 88 * 3 * _EVERY * (len(memory) - 1)
    self.assertLess(memory[-1] - memory[0], batches / 4, memory)


if __name__ == '__main__':
  absltest.main()
