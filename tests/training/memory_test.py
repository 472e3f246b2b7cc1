"""A run's steps give back what they take."""

import contextlib
import gc
import io
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from absl.testing import absltest

from alexnet.metrics.console import Console
from alexnet.runtime import heap
from alexnet.training import trainer
from tests import testing

_EVERY = 50
_STEPS = 300


def _open_files():
  """Targets of the process's descriptors, but for TensorBoard's file.

  That is opened at its first flush, some seconds after the run has begun.
  """
  targets = []
  for name in os.listdir('/proc/self/fd'):
    with contextlib.suppress(OSError):  # The listing's own is closed again.
      target = os.readlink(f'/proc/self/fd/{name}')
      if 'tfevents' not in target:
        targets.append(target)
  return targets


class Watch(Console):
  """Looks at the process each time a line of the log is due."""

  def __init__(self):
    super().__init__(io.StringIO())
    self.arrays, self.files, self.memory = [], [], []

  def progress(self, text):
    gc.collect()
    self.arrays.append(len(jax.live_arrays()))
    self.files.append(len(_open_files()))
    status = pathlib.Path('/proc/self/status').read_text().splitlines()
    (line,) = (line for line in status if line.startswith('RssAnon'))
    self.memory.append(1024 * int(line.split()[1]))


def _config():
  config = testing.narrow_config('digits')
  config.dataset.size, config.augmentation.crop_size = 96, 88
  config.augmentation.crop_offsets = 9
  config.batch_size = 16
  config.evaluate_every = config.checkpoint_every = 'never'
  config.ten_views = False
  config.schedule.name = 'constant'
  config.schedule.learning_rate = 0.0005
  return config


def evaluate_often(directory):
  """Prints whether memory is kept, and what there is after each 4 steps.

  After each 8 is an evaluation, which looks at layers in six times the memory
  of a step.
  """
  print(int(heap.keep_freed()))
  config = _config()
  config.model.conv1.features = 96
  config.batch_size, config.layer_statistics_images = 160, 960
  config.duration, config.log_every = '32 steps', '4 steps'
  config.evaluate_every = '8 steps'
  watch = Watch()
  trainer.create(config, pathlib.Path(directory), watch).train()
  print(*watch.memory)


class MemoryTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    if not os.path.exists('/proc/self/status'):
      self.skipTest('reads what Linux says of a process')

  def test_flat(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    config = _config()
    config.duration = f'{_STEPS} steps'
    config.log_every = f'{_EVERY} steps'
    watch = Watch()
    gc.freeze()  # What earlier tests have left.
    self.addCleanup(gc.unfreeze)
    trainer.create(config, directory / 'run', watch).train()
    self.assertLen(watch.memory, _STEPS // _EVERY)
    # By the second line whatever is made once has been made.
    arrays, files, memory = watch.arrays[1:], watch.files[1:], watch.memory[1:]
    self.assertLen(set(arrays), 1, arrays)
    self.assertLen(set(files), 1, files)
    # A quarter of what one batch of 8-bit images kept at each step would be.
    batches = 16 * 88 * 88 * 3 * _EVERY * (len(memory) - 1)
    self.assertLess(memory[-1] - memory[0], batches / 4, memory)

  @pytest.mark.full
  def test_flat_with_evaluations(self):
    directory = pathlib.Path(self.create_tempdir().full_path) / 'run'
    program = (
        'from tests.training import memory_test as test; '
        f'test.evaluate_often({str(directory)!r})'
    )
    output = subprocess.run(
        [sys.executable, '-c', program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    if output[0] == '0':
      self.skipTest('not with this C library, or too little memory')
    memory = [int(number) for number in output[1:]]
    # The programs of an evaluation stay, 1 GB that it worked in does not.
    self.assertLess(max(memory[2:]) - memory[1], 2**29, memory)


if __name__ == '__main__':
  absltest.main()
