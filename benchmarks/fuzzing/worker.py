"""A process that gives inputs to a reader, one after the other; see fuzz.py.

  python -m benchmarks.fuzzing.worker MODULE:TARGET SEED FOLDER

reads lines 'FIRST END' and writes a line when it begins with an input, which
then lies in FOLDER/current (a finding stays, as FOLDER/current-NUMBER), and one
of JSON when it has ended. It dies by SIGPROF at an input that takes more than
CPU_SECONDS of the processor, by SIGALRM at one that waits longer than
WALL_SECONDS, and of whatever the reader dies of.
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
# Of a machine that may have other work.
WALL_SECONDS = 60
MEMORY = 2**30
# More than may be used, so that a reader that does is seen, and less than
# would take the machine from others.
_HARD_LIMIT = 3 * MEMORY


class Finding(Exception):
  """A reader did what it must not do."""


class Target(Protocol):
  """A reader, and inputs for it."""

  # What it may raise.
  refusals: tuple[type[Exception], ...]

  def __init__(self, folder: pathlib.Path):
    """Makes its seeds; the folder is its own."""

  def make(self, rng: random.Random) -> Any:
    """An input."""

  def read(self, made: Any) -> str | None:
    """Reads it; what it took it for.

    Raises:
      Finding: it was taken, and must not be.
    """

  def save(self, made: Any, path: pathlib.Path) -> None:
    """Writes an input for a person to look at."""


def load(name: str, folder: pathlib.Path) -> Target:
  """The target of 'MODULE:CLASS'."""
  module, _, kind = name.partition(':')
  return getattr(importlib.import_module(module), kind)(folder)


def generator(name: str, seed: int, number: int) -> random.Random:
  """What decides an input: nothing else does."""
  return random.Random(f'{name} {seed} {number}')


def _memory(field):
  """Bytes, from the system's report on this process."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(field + ':'):
      return 1024 * int(line.split()[1])
  raise ValueError(field)


def _forget_peak():
  # Where it cannot be written, the peak is that of the whole process.
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def _read(target, made):
  """(outcome, kind), where an outcome is accepted, refused or finding."""
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
  os.dup2(2, 1)  # What libraries print is no answer.
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
      if outcome == 'finding':  # The next input will take its place.
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
  # Of the module by its name, whose `Finding` is the one that targets raise.
  importlib.import_module('benchmarks.fuzzing.worker').main()
