"""A process that passes inputs to a reader one by one; see fuzz.py.

  python -m benchmarks.fuzzing.worker MODULE:TARGET SEED FOLDER

It reads lines 'FIRST END'. It writes a line at the beginning of each input,
which is then in FOLDER/current (a finding stays as FOLDER/current-NUMBER), and
a line of JSON at its end. It is killed by SIGPROF if an input takes more than
CPU_SECONDS of CPU time, and by SIGALRM if it takes more than WALL_SECONDS.
Crashes of the reader end it too.
"""

import contextlib
import importlib
import json
import os
import pathlib
import random
import resource
import signal
import sys
import time
from typing import Any, Protocol

CURRENT = 'current'
CPU_SECONDS = 5
# On a machine that may have other work.
WALL_SECONDS = 60
MEMORY = 2**30
# Above the allowed memory, so that excess is measured, but low enough to
# protect the machine.
_HARD_LIMIT = 3 * MEMORY


class Finding(Exception):
  """Raised for a forbidden behaviour of a reader."""


class Target(Protocol):
  """A reader, and its inputs."""

  # Errors that it may raise.
  refusals: tuple[type[Exception], ...]

  def __init__(self, folder: pathlib.Path):
    """Creates the seeds; the folder belongs to this target."""

  def make(self, rng: random.Random) -> Any:
    """Returns an input."""

  def read(self, made: Any) -> str | None:
    """Reads an input; returns its kind.

    Raises:
      Finding: the input must not be accepted.
    """

  def save(self, made: Any, path: pathlib.Path) -> None:
    """Writes an input to a file for inspection."""


def load(name: str, folder: pathlib.Path) -> Target:
  """Creates the target of 'MODULE:CLASS'."""
  module, _, kind = name.partition(':')
  return getattr(importlib.import_module(module), kind)(folder)


def generator(name: str, seed: int, number: int) -> random.Random:
  """Random generator that determines an input."""
  return random.Random(f'{name} {seed} {number}')


def _memory(field):
  """A field of the system's report on this process, in bytes."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(field + ':'):
      return 1024 * int(line.split()[1])
  raise ValueError(field)


def _forget_peak():
  # If it cannot be written, the peak is the whole process's.
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def _read(target, made):
  """(outcome, kind), where the outcome is accepted, refused or finding."""
  try:
    return 'accepted', target.read(made) or 'as it is'
  except Finding as error:
    return 'finding', str(error)
  except target.refusals as error:
    if _by_memory(error):
      return 'finding', f'memory was refused: {error}'
    return 'refused', _kind(error)
  except Exception as error:
    return 'finding', f'raised {type(error).__name__}: {error}'


def _by_memory(error):
  while error is not None:
    if isinstance(error, MemoryError):
      return True
    error = error.__cause__
  return False


def _kind(error):
  cause = error.__cause__
  return type(error).__name__ + (f' ({type(cause).__name__})' if cause else '')


def main() -> None:
  """Serves until its input ends."""
  name, seed, folder = sys.argv[1:]
  say = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # Output of libraries must not mix with answers.
  target = load(name, pathlib.Path(folder))
  current = pathlib.Path(folder) / CURRENT
  limit = _memory('VmData') + _HARD_LIMIT
  resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  for line in sys.stdin:
    for number in range(*map(int, line.split())):
      made = target.make(generator(name, int(seed), number))
      target.save(made, current)
      print(number, file=say, flush=True)
      _forget_peak()
      wall, cpu = time.perf_counter(), time.process_time()
      signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
      signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
      outcome, kind = _read(target, made)
      signal.setitimer(signal.ITIMER_PROF, 0)
      signal.setitimer(signal.ITIMER_REAL, 0)
      peak = _memory('VmHWM')
      if peak > MEMORY:
        outcome, kind = 'finding', f'took {peak / 2**20:,.0f} MiB'
      if outcome == 'finding':  # The next input would overwrite it.
        current.replace(current.with_name(f'{CURRENT}-{number}'))
      result = {
          'number': number,
          'outcome': outcome,
          'kind': kind[:300],
          'cpu': time.process_time() - cpu,
          'wall': time.perf_counter() - wall,
          'peak': peak,
      }
      print(json.dumps(result), file=say, flush=True)
    print('ready', file=say, flush=True)


if __name__ == '__main__':
  # By name, since targets raise `Finding` of the imported module.
  importlib.import_module('benchmarks.fuzzing.worker').main()
