"""Tests that processes end at any stage of making batches.

  python -m benchmarks.ends --starts=200
  python -m benchmarks.ends --starts=200 --processes=2

Each start is a separate process, which enters one of the stages below and then
has nothing more to do. For each stage it prints how many processes ended, the
longest time that took, and how many did not end within a minute.
"""

import collections
import contextlib
import itertools
import subprocess
import sys
import threading
import time

import numpy as np
from absl import app, flags

from input_pipeline import sources
from input_pipeline.errors import DataError

STAGES = (
    'built',  # No batch was requested.
    'reading',  # The second batch is being read.
    'ahead',  # Prefetched batches are ready.
    'failed',  # An image could not be read.
    'raised',  # An exception ends the program.
    'closed',
    'evaluation',
    'thread',  # Another thread is waiting for a batch.
)
_PATIENCE = 60.0
_READY = 'nothing more to do'


class Images(sources.Source):
  """40 black images, read as slowly as a stage requires."""

  name, class_names = 'images', ('0', '1')

  def __init__(self, stage):
    self._stage = stage

  def __len__(self):
    return 40

  def read(self, index):
    raise NotImplementedError

  def image(self, index, box=None):
    if self._stage == 'failed' and index == 3:
      raise DataError('image 3 is broken')
    if self._stage != 'ahead':
      time.sleep(10**6 if self._stage == 'waiting' else 0.01)
    return np.zeros((box.size, box.size, 3), np.uint8), index % 2

  def describe(self, index):
    return f'image {index}'

  def fingerprint(self):
    return ''


def run_in(stage: str, processes: int = 0) -> None:
  """Brings this process into a stage and returns."""
  # Not from this main module, which reading processes do not import.
  from benchmarks.ends import Images
  from configs import alexnet_2012
  from input_pipeline.pipeline import Pipeline

  config = alexnet_2012.get_config('folder')
  config.batch_size = 16
  config.dataset.mean, config.dataset.pca = 'imagenet_channels', 'imagenet'
  config.dataset.processes = processes
  images = Images(stage)
  pipeline = Pipeline(config, images, images)
  global stream  # Keeps it alive after this function.
  stream = pipeline.training_batches(0)
  if stage == 'evaluation':
    stream = pipeline.evaluation_batches(16)
  if stage == 'failed':
    with contextlib.suppress(DataError):
      collections.deque(stream, maxlen=0)
  elif stage == 'thread':
    arguments = dict(target=list, args=(stream,), daemon=True)
    threading.Thread(**arguments).start()
    time.sleep(0.5)
  elif stage != 'built':
    next(stream)
  if stage == 'ahead':
    time.sleep(0.5)
  if stage == 'closed':
    stream.close()
  print(_READY, flush=True)
  if stage == 'raised':
    raise SystemExit(3)


def seconds_to_end(stage: str, processes: int = 0) -> float | None:
  """Starts a process; returns None if it does not end and is killed.

  It counts as ended when its reading processes have, which share its output.
  """
  command = [
      sys.executable, '-m', 'benchmarks.ends', f'--stage={stage}',
      f'--processes={processes}',
  ]
  with subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  ) as process:
    said = process.stdout.readline()
    start = time.monotonic()
    try:
      rest, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
      process.kill()
      return None
  if said.strip() != _READY or process.returncode != 3 * (stage == 'raised'):
    raise RuntimeError(f'stage {stage}: {said}{rest}')
  return time.monotonic() - start


def main(argv):
  """Entry point."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  if values.stage:
    run_in(values.stage, values.processes)
    return
  results = {stage: [] for stage in STAGES}
  for stage in itertools.islice(itertools.cycle(STAGES), values.starts):
    results[stage].append(seconds_to_end(stage, values.processes))
  for stage, seconds in results.items():
    ended = [one for one in seconds if one is not None]
    print(
        f'{stage:10s}  {len(ended):3d} ended, the last after '
        f'{max(ended, default=0):.1f} s; {len(seconds) - len(ended)} did not'
    )


if __name__ == '__main__':
  flags.DEFINE_integer('starts', 200, 'Number of processes, over all stages.')
  flags.DEFINE_integer(
      'processes', 0, 'Number of reading processes that each process starts.'
  )
  flags.DEFINE_enum('stage', None, STAGES, 'Internal: stage of this process.')
  app.run(main)
