"""Kills training repeatedly and compares it with an undisturbed run.

  python -m benchmarks.crash --kills=50 --json=results.json
  python -m benchmarks.crash --kills=3 --full

The command is started, killed by SIGKILL and started again: for a third of the
kills while it writes a checkpoint, for one in eight while it starts, otherwise
at some step. Then it runs to its end. For each kill it prints the step reached,
the newest complete checkpoint, and the steps lost between them. It also checks
that the state's arrays, and all losses in metrics.jsonl, equal those of the
undisturbed run bit by bit.
"""

import dataclasses
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags

from alexnet.analysis.tables import Table
from alexnet.checkpointing import manager
from alexnet.metrics import writer
from alexnet.metrics.console import Console
from input_pipeline import cli
from input_pipeline.files import paths

ROOT = pathlib.Path(__file__).parent.parent

SAVE, STEP, START = 'save', 'step', 'start'
# Seconds between two checks of a run.
_POLL = 0.002

_NARROW = (
    '--config.model.width=0.0625', '--config.dataset.size=76',
    '--config.augmentation.crop_size=72',
    '--config.augmentation.crop_offsets=4', '--config.batch_size=8',
)
_FULL = ('--config.batch_size=2',)


@dataclasses.dataclass(frozen=True)
class Kill:
  """One kill.

  Attributes:
    moment: 'save', 'step' or 'start': the activity of the run.
    reached: last step in the log; None if the session made none.
    saved: step of the newest complete checkpoint afterwards; 0 for none.
    lost: number of steps to repeat.
  """

  moment: str
  reached: int | None
  saved: int
  lost: int


class Crash:
  """A run that is killed repeatedly."""

  def __init__(
      self,
      workdir: pathlib.Path,
      command: Sequence[str],
      *,
      interval: int,
      seed: int = 0,
  ):
    """Prepares the run without starting it.

    Args:
      workdir: folder of the run.
      command: its command, without workdir, duration and intervals.
      interval: steps between two checkpoints.
      seed: seed of the moments.
    """
    self.workdir = workdir
    self._command = command
    self._interval = interval
    self._random = random.Random(seed)
    self._start_seconds = 10.0
    self._save_seconds = 0.3
    self.kills: list[Kill] = []

  def steps_for(self, kills: int) -> int:
    """Returns enough steps for a run to be killed that often."""
    return 3 * self._interval * (kills + 1)

  def start(self, steps: int, workdir: pathlib.Path | None = None):
    """Starts the command, for a total number of steps."""
    return subprocess.Popen(
        [
            sys.executable, *self._command,
            f'--workdir={workdir or self.workdir}',
            f'--config.duration={steps} steps',
            f'--config.checkpoint_every={self._interval} steps',
            '--config.log_every=1 steps',
            '--config.evaluate_every=never',
            '--config.ten_views=False',
            '--config.schedule.name=constant',
            '--config.layer_statistics_images=0',
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

  def finish(self, steps: int, workdir: pathlib.Path | None = None) -> str:
    """Runs to the end; returns the output.

    Raises:
      RuntimeError: the run failed.
    """
    process = self.start(steps, workdir)
    output, _ = process.communicate()
    if process.returncode:
      raise RuntimeError(f'status {process.returncode}:\n{output}')
    return output

  def kill(self, steps: int) -> Kill:
    """Starts the run and kills it once."""
    during_saves = sum(kill.moment == SAVE for kill in self.kills)
    # A third of the kills, including the first.
    if 3 * during_saves <= len(self.kills):
      moment = SAVE
    else:
      moment = START if self._random.random() < 1 / 8 else STEP
    # Counted from the last checkpoint: many kills in a row before the next one
    # would hit the same steps.
    begin = time.monotonic()
    process = self.start(steps)
    try:
      if moment == START:
        time.sleep(self._random.uniform(0, self._start_seconds))
      elif self._wait_for_steps(process, 1):
        self._start_seconds = time.monotonic() - begin
        if moment == STEP:
          step = self._random.randint(0, 2 * self._interval)
          self._wait_for_steps(process, step)
          time.sleep(self._random.uniform(0, 0.05))
        else:
          moment = self._wait_for_save(process)
    finally:
      process.kill()
      output, _ = process.communicate()
    if process.returncode != -signal.SIGKILL:
      raise RuntimeError(f'status {process.returncode}:\n{output}')
    if moment == START and '\nstep ' in output:
      moment = STEP  # It finished before it could be stopped.
    # Without steps the log still ends with the previous session.
    reached = None if moment == START else self._last_logged()
    saved = manager.newest_step(self.workdir) or 0
    lost = 0 if reached is None else max(0, reached - saved)
    kill = Kill(moment, reached, saved, lost)
    self.kills.append(kill)
    return kill

  def _wait_for_steps(self, process, count):
    """Returns whether the run makes `count` more steps before it ends."""
    while count > 0:
      line = process.stdout.readline()
      if not line:
        return False
      count -= line.startswith('step ') and '/' in line
    return True

  def _wait_for_save(self, process):
    """Stops the process at an arbitrary moment of a save."""
    while process.poll() is None:
      began = time.monotonic()
      if not self._saving():
        time.sleep(_POLL)
        continue
      time.sleep(self._random.uniform(0, self._save_seconds))
      # Stopped during the check, so that the moment does not pass.
      process.send_signal(signal.SIGSTOP)
      if self._saving():
        return SAVE
      process.send_signal(signal.SIGCONT)
      self._save_seconds = 0.7 * (time.monotonic() - began)
    return STEP

  def _saving(self):
    folder = self.workdir / 'checkpoints'
    if any(folder.glob('*.orbax-checkpoint-tmp*')):
      return True
    complete = manager.complete_steps(self.workdir)
    newest = max(complete, default=0)
    steps = [int(p.name) for p in folder.glob('*') if p.name.isdecimal()]
    return max(steps, default=0) > newest

  def _last_logged(self):
    records = writer.read_records(self.workdir / writer.FILE)
    return max((r['step'] for r in records), default=None)


def differences(one: pathlib.Path, other: pathlib.Path) -> Iterator[str]:
  """Yields names of arrays and losses that differ at the ends of two runs."""
  import jax
  import numpy as np

  from alexnet.inference import loading
  from alexnet.training import setup
  from alexnet.training.steps import Steps

  console = Console()
  states = [
      jax.tree.leaves_with_path(
          jax.device_get(
              Steps(setup.create(
                  loading.config_of_run(workdir), workdir, console,
                  training=False,
              )).state
          )
      )
      for workdir in (one, other)
  ]
  if not states[0] or len(states[0]) != len(states[1]):
    yield 'the number of arrays'
  for (path, a), (_, b) in zip(*states):
    if a.dtype != b.dtype or not np.array_equal(a, b):
      yield jax.tree_util.keystr(path)
  losses = [
      {
          record['step']: record['loss']
          for record in writer.read_records(workdir / writer.FILE)
          if record['kind'] == 'train'
      }
      for workdir in (one, other)
  ]
  for step in sorted(losses[0].keys() | losses[1].keys()):
    if losses[0].get(step) != losses[1].get(step):
      yield f'the loss of step {step}'


def table(kills: Sequence[Kill], interval: int) -> str:
  """Formats the kills as Markdown, with a summary."""
  rows = [
      (number, kill.moment, '--' if kill.reached is None else kill.reached,
       kill.saved, kill.lost)
      for number, kill in enumerate(kills, 1)
  ]
  lines = Table(
      ('kill', 'moment', 'step reached', 'checkpoint', 'lost'),
      tuple(tuple(map(str, row)) for row in rows),
  ).to_markdown()
  lost = [kill.lost for kill in kills]
  saves = sum(kill.moment == SAVE for kill in kills)
  lines += [
      '',
      f'{len(kills)} kills, {saves} of them during a save; lost at most '
      f'{max(lost)} steps, on the average {sum(lost) / len(lost):.1f}; a '
      f'checkpoint every {interval}',
  ]
  return '\n'.join(lines)


def _make(values, work) -> dict[str, Any]:
  command = [
      'main.py', '--config=configs/alexnet.py:digits',
      f'--config.dataset.statistics_dir={work}',
      f'--compilation_cache={work / "programs"}',
      '--config.schedule.learning_rate=0.0001',
      *(_FULL if values.full else _NARROW),
  ]
  interval = values.interval or (2 if values.full else 10)
  crash = Crash(
      work / 'killed', command, interval=interval, seed=values.seed
  )
  steps = crash.steps_for(values.kills)
  start = time.monotonic()
  print(f'{steps} steps, undisturbed', flush=True)
  crash.finish(steps, work / 'undisturbed')
  print(f'{time.monotonic() - start:.0f} s', flush=True)
  while len(crash.kills) < values.kills:
    print(f'{len(crash.kills) + 1}: {crash.kill(steps)}', flush=True)
  crash.finish(steps)
  found = list(differences(work / 'undisturbed', work / 'killed'))
  print(table(crash.kills, interval))
  print('differences: ' + (', '.join(found) or 'none, bit by bit'))
  print(f'{time.monotonic() - start:.0f} s in all')
  return {
      'kills': [dataclasses.asdict(kill) for kill in crash.kills],
      'interval': interval,
      'steps': steps,
      'differences': found,
      'seconds': time.monotonic() - start,
  }


def main(argv: list[str]) -> int:
  """Entry point of `python -m benchmarks.crash`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  with tempfile.TemporaryDirectory(dir=values.work) as work:
    results = _make(values, pathlib.Path(work))
  if values.json:
    values.json.write_text(json.dumps(results, indent=2) + '\n')
  worst = max(kill['lost'] for kill in results['kills'])
  return 1 if results['differences'] or worst > results['interval'] else 0


if __name__ == '__main__':
  flags.DEFINE_integer(
      'kills', 50, 'Number of times to kill the run.', lower_bound=1
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the times at which it is killed.')
  flags.DEFINE_boolean('full', False, 'Use the whole network.')
  flags.DEFINE_integer(
      'interval', None,
      'Number of steps between checkpoints. Default: 10, or 2 with --full.'
  )
  paths.define(
      'work', "Folder for the runs. Default: the system's temporary folder."
  )
  paths.define('json', 'Write the results as JSON to this file.')
  cli.run(main)
