"""Trains for a while and checks that memory, files and threads do not grow.

  python -m benchmarks.soak --minutes=60 --every=60 --json=soak.json

A first session measures the duration of a step. A second one continues the run,
with an evaluation and a checkpoint every so many seconds, and is observed from
outside. The first third does not count, since caches and the like are created
in it.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
from absl import app, flags

from alexnet.analysis.tables import Table
from alexnet.checkpointing import manager
from alexnet.metrics import writer
from input_pipeline import cli
from input_pipeline.files import paths

ROOT = pathlib.Path(__file__).parent.parent

# Steps of the session that measures the duration of a step.
_FIRST_STEPS = 10
_TIMED_STEPS = 40
# Share of growth over the counted time that counts as none.
_TOLERANCE = 0.02


class Sample(NamedTuple):
  """Resources of a process at a moment.

  Attributes:
    seconds: seconds since its start.
    memory: bytes of memory without mapped files.
    resident: bytes in memory, including mapped files.
    files: number of open files.
    threads: number of threads.
  """

  seconds: float
  memory: int
  resident: int
  files: int
  threads: int


def look(process: psutil.Process, start: float) -> Sample:
  """Samples a process that was started at a time of `time.monotonic`."""
  with process.oneshot():
    memory = process.memory_info()
    # Where the system does not report shared memory, all of it counts.
    own = memory.rss - getattr(memory, 'shared', 0)
    return Sample(
        time.monotonic() - start,
        own,
        memory.rss,
        process.num_fds(),
        process.num_threads(),
    )


def judge(samples: Sequence[Sample]) -> dict[str, Any]:
  """Evaluates samples without those of the first third.

  Returns:
    'memory_slope', bytes per hour by least squares; 'memory_growth', that over
    the counted time, as a share of the median; 'files' and 'threads', the most
    frequent numbers in the first and the last quarter of that time; and 'flat',
    the verdict.
  """
  end = samples[-1].seconds
  counted = [sample for sample in samples if sample.seconds >= end / 3]
  seconds = np.array([sample.seconds for sample in counted])
  memory = np.array([sample.memory for sample in counted], np.float64)
  slope = np.polyfit(seconds, memory, 1)[0]
  growth = slope * (seconds[-1] - seconds[0]) / np.median(memory)
  quarter = max(1, len(counted) // 4)
  ends = {
      name: [
          statistics.mode(getattr(sample, name) for sample in part)
          for part in (counted[:quarter], counted[-quarter:])
      ]
      for name in ('files', 'threads')
  }
  return {
      'memory_median': float(np.median(memory)),
      'memory_slope': 3600 * slope,
      'memory_growth': growth,
      **ends,
      'flat': bool(
          growth <= _TOLERANCE
          and all(last <= first for first, last in ends.values())
      ),
  }


class Soak:
  """The observed run."""

  def __init__(self, workdir: pathlib.Path, command: Sequence[str]):
    """Takes the workdir, and the command without workdir and durations."""
    self.workdir = workdir
    self._command = command

  def _start(self, every: str, **options):
    return subprocess.Popen(
        [
            sys.executable, *self._command, f'--workdir={self.workdir}',
            '--config.duration=100000000 steps', '--config.log_every=1 steps',
            f'--config.evaluate_every={every}',
            f'--config.checkpoint_every={every}',
        ],
        cwd=ROOT,
        text=True,
        **options,
    )

  def _stop(self, process):
    process.terminate()
    process.communicate()
    if process.returncode != cli.STOPPED:
      raise RuntimeError(f'status {process.returncode}, not {cli.STOPPED}')

  def seconds_a_step(self) -> float:
    """Makes some steps and saves the run; returns seconds per step."""
    process = self._start('never', stdout=subprocess.PIPE)
    times = []
    for line in process.stdout:
      if line.startswith('step '):
        times.append(time.monotonic())
      if len(times) > _FIRST_STEPS + _TIMED_STEPS:
        break
    self._stop(process)
    return (times[-1] - times[_FIRST_STEPS]) / _TIMED_STEPS

  def run(
      self, minutes: float, every_steps: int, pause: float
  ) -> list[Sample]:
    """Continues the run and samples it.

    Args:
      minutes: duration.
      every_steps: interval of evaluations and checkpoints, in steps.
      pause: seconds between two samples.

    Returns:
      The samples.
    """
    samples = []
    start = time.monotonic()
    with open(self.workdir / 'output.txt', 'w', encoding='utf-8') as output:
      process = self._start(f'{every_steps} steps', stdout=output)
      seen = psutil.Process(process.pid)
      try:
        while time.monotonic() < start + 60 * minutes:
          time.sleep(pause)
          if process.poll() is not None:
            raise RuntimeError(f'it ended with status {process.returncode}')
          samples.append(look(seen, start))
        self._stop(process)
      finally:
        process.kill()
        process.wait()
    return samples


def table(results: dict[str, Any]) -> str:
  """Formats results as Markdown."""
  samples = [Sample(*sample) for sample in results['samples']]
  places = np.linspace(0, len(samples) - 1, 9).round().astype(int)
  rows = tuple(
      (f'{sample.seconds / 60:.1f}', f'{sample.memory / 2**20:,.0f}',
       str(sample.files), str(sample.threads))
      for sample in map(samples.__getitem__, places)
  )
  headings = ('minute', 'memory, MiB', 'files', 'threads')
  lines = Table(headings, rows).to_markdown()
  lines += [
      '',
      f'{results["steps"]:,} steps, {results["evaluations"]} evaluations, '
      f'checkpoints every {results["every_steps"]} steps',
      f'memory: {results["memory_slope"] / 2**20:+.2f} MiB an hour, '
      f'{results["memory_growth"]:+.2%} over the time that counts',
      'files: {} and {}; threads: {} and {}'.format(
          *results['files'], *results['threads']
      ),
      'flat' if results['flat'] else 'NOT FLAT',
  ]
  return '\n'.join(lines)


def main(argv: list[str]) -> int:
  """Entry point of `python -m benchmarks.soak`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  with tempfile.TemporaryDirectory(dir=values.work) as work:
    command = [
        'main.py', '--config=configs/alexnet.py:digits',
        f'--config.model.width={values.width}', '--config.dataset.size=76',
        '--config.augmentation.crop_size=72',
        '--config.augmentation.crop_offsets=4',
        f'--config.dataset.statistics_dir={work}',
        f'--compilation_cache={pathlib.Path(work) / "programs"}',
        '--config.schedule.name=constant',
    ]
    soak = Soak(pathlib.Path(work) / 'run', command)
    seconds = soak.seconds_a_step()
    every = max(1, round(values.every / seconds))
    print(f'{seconds:.3f} s a step: something every {every} steps', flush=True)
    samples = soak.run(values.minutes, every, values.pause)
    records = writer.read_records(soak.workdir / writer.FILE)
    results = {
        **judge(samples),
        'every_steps': every,
        'steps': manager.newest_step(soak.workdir),
        'evaluations': sum(r['kind'] == 'eval_centre' for r in records),
        'samples': samples,
    }
  print(table(results))
  if values.json:
    values.json.write_text(json.dumps(results, indent=1) + '\n')
  return 0 if results['flat'] else 1


if __name__ == '__main__':
  flags.DEFINE_float(
      'minutes', 60.0, 'Duration of training, in minutes.', lower_bound=0.1
  )
  flags.DEFINE_float('every', 60.0, 'Seconds between two checkpoints.')
  flags.DEFINE_float('pause', 5.0, 'Seconds between two samples.')
  flags.DEFINE_float('width', 0.25, 'Width of the network: model.width.')
  paths.define(
      'work', "Folder for the run. Default: the system's temporary folder."
  )
  paths.define('json', 'Write the results as JSON to this file.')
  cli.run(main)
