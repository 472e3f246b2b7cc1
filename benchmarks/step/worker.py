"""A competitor's process in `benchmarks.train_step`, run by messages.

It reads messages as lines of JSON from standard input and answers on standard
output; output of frameworks goes to standard error. The first message says what
to prepare:

  {"module": "benchmarks.step.ours", "arguments": {}, "case": {...}}

The answer is {"ready": ...}, {"missing": ...} or {"failed": ...}. Then it takes
turns, each with at least so many steps and seconds:

  {"item": "step", "steps": 2, "seconds": 3.0}

If the first message has "call", the worker calls that function once instead and
answers {"ready": {}, "result": ...}.
"""

import contextlib
import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

# Sizes of products among which the fastest is chosen.
_SIZES = (1024, 2048, 4096)
# Steps before the first turn, which compile and allocate memory.
_WARM_UP = 3


def _products(module, case) -> dict[str, tuple[Callable[[], None], float]]:
  """Finds the framework's fastest size; returns it with its operations."""
  best = None
  for size in _SIZES if case.width >= 1 else (64,):
    run = module.product(case.dtype, size)
    for _ in range(_WARM_UP):
      start = time.perf_counter()
      run()
    rate = 2 * size**3 / (time.perf_counter() - start)
    if best is None or rate > best[0]:
      best = rate, run, 2 * size**3
  return {'step': best[1:]}


def _prepare(message) -> dict[str, tuple[Callable[[], None], float]]:
  """{item: (function, its floating-point operations)}."""
  from benchmarks.step import network

  case = network.Case(**message['case'])
  module = importlib.import_module(message['module'])
  arguments = message['arguments']
  if case.mode == 'product':
    return _products(module, case)
  if case.mode == 'layers':
    return module.layers(case, **arguments)
  run = getattr(module, case.mode)(case, **arguments)
  return {'step': (run, network.operations(case))}


def _check(message) -> None:
  from benchmarks.step import network

  module = importlib.import_module(message['module'])
  case = network.Case(**message['case'])
  save(message['updates_to'], *module.updates(case, **message['arguments']))


def save(file: str, losses: list[float], params: Any, **others: Any) -> None:
  """Writes losses, parameters as 'LAYER/KIND', and other arrays."""
  import numpy as np

  arrays = {
      f'{layer}/{kind}': array
      for layer, kinds in params.items()
      for kind, array in kinds.items()
  }
  np.savez(file, losses=losses, **arrays, **others)


def _reset_peak_memory() -> None:
  # Excludes compilation. Where this is impossible (not Linux, or not allowed),
  # the peak includes everything.
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def _peak_memory() -> int:
  """Peak of resident bytes since the reset."""
  try:
    status = pathlib.Path('/proc/self/status').read_text()
    line = next(row for row in status.splitlines() if row.startswith('VmHWM'))
    return 1024 * int(line.split()[1])
  except OSError:
    import resource

    # In bytes on macOS, the other supported system, without /proc.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _turn(run, steps: int, seconds: float) -> dict[str, float]:
  start, core_start, count = time.perf_counter(), time.process_time(), 0
  while count < steps or time.perf_counter() < start + seconds:
    run()
    count += 1
  return {
      'seconds': (time.perf_counter() - start) / count,
      'core_seconds': (time.process_time() - core_start) / count,
      'steps': count,
      'peak_memory': _peak_memory(),
  }


def _serve(answer: Callable[[dict[str, Any]], None]) -> None:
  message = json.loads(sys.stdin.readline())
  try:
    if 'call' in message:
      module = importlib.import_module(message['module'])
      result = getattr(module, message['call'])(**message['arguments'])
      answer({'ready': {}, 'result': result})
      return
    if 'updates_to' in message:
      _check(message)
      answer({'ready': []})
      return
    items = _prepare(message)
    seconds = {}
    for name, (run, _) in items.items():
      taken = [_turn(run, 1, 0.0)['seconds'] for _ in range(_WARM_UP)]
      seconds[name] = min(taken[1:])
  except ImportError as error:
    answer({'missing': f'{error}'})
    return
  except Exception as error:  # Whatever the framework does not support.
    lines = str(error).strip().splitlines() or ['']
    answer({'failed': f'{type(error).__name__}: {lines[0]}'})
    return
  _reset_peak_memory()
  operations = {name: count for name, (_, count) in items.items()}
  answer({'ready': seconds, 'operations': operations})
  asleep, core_asleep = time.perf_counter(), time.process_time()
  for line in sys.stdin:
    order = json.loads(line)
    # CPU time used during the others' turns would slow them down.
    waited = time.perf_counter() - asleep
    burnt = time.process_time() - core_asleep
    run, _ = items[order['item']]
    run()  # Restores pages and caches lost during the others' turns.
    result = _turn(run, order['steps'], order['seconds'])
    answer({**result, 'waited': waited, 'core_seconds_asleep': burnt})
    asleep, core_asleep = time.perf_counter(), time.process_time()


def main() -> None:
  """Entry point."""
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # Frameworks print to standard output.

  def answer(message):
    out.write(json.dumps(message) + '\n')
    out.flush()

  _serve(answer)
  out.flush()
  os._exit(0)  # Some frameworks wait long for their threads.


if __name__ == '__main__':
  main()
