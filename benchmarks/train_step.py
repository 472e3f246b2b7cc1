"""Compares our training step with others, on the same network.

  python -m benchmarks.train_step --json=results.json
  python -m benchmarks.train_step --batch_sizes=128 --modes=training \
      --dtypes=float32 --rounds=7
  python -m benchmarks.train_step --layers

Each competitor runs in its own process, with run #145's network, the same
parameters and one constant batch. They take turns, A B C A B C, of a few
seconds over several rounds, so that a slow minute affects all. While one works,
the others are verified to be idle. A competitor with several forms uses the
fastest, found before the first round. It prints medians over the rounds with
the lowest and highest, the median ratio to ours within rounds, the peak memory
of the steps, and the speed of the step's products and convolutions as a share
of XLA's fastest matrix product in the same rounds.

Before that, every competitor makes two updates of a smaller network without
dropout, which must agree with ours; --nocheck skips this.

The peers are TensorFlow, PyTorch, and PyTorch compiled. Peers that are not
installed are skipped with a message; those that fail are reported and left out.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.step import network, report
from input_pipeline.files import paths

ROOT = pathlib.Path(__file__).parent.parent
BENCH_PYTHON = ROOT / '.venv-bench' / 'bin' / 'python'
CEILING = 'xla_product'
# Time limits in seconds for a competitor to get ready, and for its turn.
_PREPARE_LIMIT = 900.0
_TURN_LIMIT = 600.0
# All compute on the CPU, even if there are accelerators.
ON_CPU = {'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': ''}
# Share of a core that an idle competitor may use before it is reported.
_ASLEEP_LIMIT = 0.02
# Norm of each parameter's difference, as a share of the norm of its update.
_CHECK_TOLERANCE = 1e-3
_CHECK_LOSS_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Competitor:
  """A competitor.

  Attributes:
    module: module below `benchmarks.step` with the functions for its worker.
    arguments: arguments of these functions.
    variants: values of their argument `variant`; the fastest one is used.
    install: advice if the module cannot be imported.
  """

  module: str
  arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
  variants: tuple[str, ...] = ()
  install: str = 'pip install -r requirements-bench.txt (make bench does)'

  def by_layers(self) -> 'Competitor':
    """Returns the competitor with the variants that single layers have."""
    forms = tuple(v for v in self.variants if v != 'xla')
    return dataclasses.replace(self, variants=forms)

  def forms(self) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (variant, arguments) of each form."""
    for variant in self.variants:
      yield variant, {**self.arguments, 'variant': variant}
    if not self.variants:
      yield '', self.arguments


_PYTORCH = ('library', 'band')
COMPETITORS = {
    'ours': Competitor('ours'),
    'ours_two_devices': Competitor('ours', {'towers': 2}),
    'tensorflow': Competitor('tensorflow', {}, ('lrn', 'band', 'xla')),
    'pytorch': Competitor('pytorch', {'compiled': False}, _PYTORCH),
    'pytorch_compiled': Competitor(
        'pytorch', {'compiled': True}, _PYTORCH
    ),
}
# Competitors whose layers are measured separately.
LAYERS_OF = ('ours', 'tensorflow', 'pytorch')
# Competitors for the fastest matrix products: XLA, and oneDNN in two ways.
PRODUCTS = {
    'xla': Competitor('ours'),
    'tensorflow': Competitor('tensorflow'),
    'pytorch': Competitor('pytorch'),
}


class CompetitorError(Exception):
  """A competitor cannot take part; the message says why."""


class Worker:
  """A competitor's process; see step/worker.py.

  Attributes:
    variant: variant that runs.
    seconds: seconds per step of each item, in the warm-up.
    operations: floating-point operations per step of each item.
    result: result of the function called by the message, if any.
  """

  def __init__(
      self,
      python: str,
      competitor: Competitor,
      message: dict,
      *,
      environment: Mapping[str, str] = ON_CPU,
      limit: float = _PREPARE_LIMIT,
  ):
    self._install = competitor.install
    self._errors = tempfile.TemporaryFile()
    self._process = subprocess.Popen(
        [python, '-m', 'benchmarks.step.worker'],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._errors,
        env={**os.environ, **environment},
    )
    self.variant = message['arguments'].get('variant', '')
    try:
      ready = self._ask(
          {'module': f'benchmarks.step.{competitor.module}', **message}, limit
      )
    except BaseException:
      self.stop()
      raise
    self.seconds = ready['ready']
    self.operations = ready.get('operations')
    self.result = ready.get('result')

  def turn(self, item: str, steps: int, seconds: float) -> dict[str, float]:
    """Takes a turn; returns seconds and core_seconds per step, and more."""
    order = {'item': item, 'steps': steps, 'seconds': seconds}
    return self._ask(order, _TURN_LIMIT + seconds)

  def stop(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):  # Unread input.
      self._process.stdin.close()
    self._process.stdout.close()
    self._errors.close()

  def _ask(self, message, limit):
    try:
      self._process.stdin.write(json.dumps(message).encode() + b'\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      raise CompetitorError(self._last_words()) from None
    with selectors.DefaultSelector() as selector:
      selector.register(self._process.stdout, selectors.EVENT_READ)
      if not selector.select(limit):
        raise CompetitorError(f'no answer for {limit:.0f} s')
    line = self._process.stdout.readline()
    if not line:
      raise CompetitorError(self._last_words())
    answer = json.loads(line)
    if 'missing' in answer:
      raise CompetitorError(f'{answer["missing"]}: {self._install}')
    if 'failed' in answer:
      raise CompetitorError(answer['failed'])
    return answer

  def _last_words(self):
    self._process.wait()
    self._errors.seek(0)
    lines = self._errors.read().decode(errors='replace').strip().splitlines()
    return f'ended with {self._process.returncode}: {"".join(lines[-1:])}'


def start(
    python: str, competitor: Competitor, case: network.Case
) -> Worker:
  """Starts the fastest form of a competitor.

  Args:
    python: path of the interpreter.
    competitor: one of COMPETITORS or PRODUCTS.
    case: the case to measure.

  Returns:
    Its process, ready for the first turn.

  Raises:
    CompetitorError: it is not installed, or none of its forms works.
  """
  best, error = None, None
  for _, arguments in competitor.forms():
    message = {'arguments': arguments, 'case': dataclasses.asdict(case)}
    try:
      worker = Worker(python, competitor, message)
    except CompetitorError as reason:
      error = error or reason
      continue
    if best and sum(best.seconds.values()) <= sum(worker.seconds.values()):
      worker.stop()
      continue
    if best:
      best.stop()
    best = worker
  if best is None:
    raise error
  return best


def measure(
    competitors: dict[str, tuple[str, Competitor, network.Case]],
    rounds: int,
    steps: int,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
  """Measures competitors in turns.

  Args:
    competitors: name to (interpreter, competitor, case).
    rounds: turns of each.
    steps: least number of steps in a turn.
    seconds: least duration of a turn.
    say: called with messages about the progress.

  Returns:
    'turns' {name: {item: [turn, by round]}}, 'operations' {name: {item: per
    step}}, 'variants' {name: variant that ran} and 'left_out' {name: reason}.
  """
  workers, left_out = {}, {}

  def leave_out(name, reason):
    left_out[name] = str(reason)
    say(f'  {name} is left out: {reason}')
    if name in workers:
      workers.pop(name).stop()

  try:
    for name, (python, competitor, case) in competitors.items():
      try:
        workers[name] = start(python, competitor, case)
      except CompetitorError as reason:
        leave_out(name, reason)
    variants = {name: worker.variant for name, worker in workers.items()}
    operations = {name: worker.operations for name, worker in workers.items()}
    items = list(
        dict.fromkeys(i for worker in workers.values() for i in worker.seconds)
    )
    turns = {name: {} for name in workers}
    for number in range(rounds):
      for item in items:
        for name, worker in list(workers.items()):
          if item not in worker.seconds:
            continue
          try:
            turn = worker.turn(item, steps, seconds)
          except CompetitorError as reason:
            leave_out(name, reason)
            turns.pop(name)
            continue
          turns[name].setdefault(item, []).append(turn)
          label = name if item == 'step' else f'{item} {name}'
          say(
              f'  round {number + 1}/{rounds}  {label:25s} '
              f'{turn["seconds"]:.4f} s a step'
          )
  finally:
    for worker in workers.values():
      worker.stop()
  _report_unrest(turns, say)
  return {
      'turns': turns,
      'operations': operations,
      'variants': variants,
      'left_out': left_out,
  }


def _report_unrest(turns, say):
  for name, items in turns.items():
    rows = [turn for of_item in items.values() for turn in of_item]
    waited = sum(turn['waited'] for turn in rows)
    burnt = sum(turn['core_seconds_asleep'] for turn in rows)
    if waited > 1 and burnt > _ASLEEP_LIMIT * waited:
      say(
          f'  {name} took {burnt / waited:.1%} of a core while it was not its '
          'turn'
      )


# --- Checks that all compute the same network ---


def check(
    competitors: dict[str, tuple[str, Competitor]],
    case: network.Case,
    say: Callable[[str], None],
) -> dict[str, str]:
  """Compares the first updates of all forms of all competitors with ours.

  Args:
    competitors: name to (interpreter, competitor).
    case: a case in float32, without dropout, whose rate moves parameters.
    say: called with messages about the progress.

  Returns:
    {name: reason} of the competitors without any working form.

  Raises:
    SystemExit: a competitor computes something else.
  """
  initial = network.parameters(case)
  failures, compared, reference = {}, set(), None
  for name, (python, competitor) in competitors.items():
    for variant, arguments in competitor.forms():
      label = f'{name} {variant}'.strip()
      try:
        updated = _updates(python, competitor, arguments, case)
      except CompetitorError as reason:
        say(f'  {label} is left out: {reason}')
        failures[name] = str(reason)
        continue
      compared.add(name)
      reference = reference or updated
      worst, place = difference(reference, updated, initial)
      say(f'  {label}: {worst:.1e} ({place})')
      if not worst <= 1:
        raise SystemExit(
            f'{label} is not the same network: its {place} differs '
            f'from that of {next(iter(competitors))} {worst:.1f} times as much '
            'as rounding may; fix it, or leave it out by --frameworks'
        )
  return {name: r for name, r in failures.items() if name not in compared}


def _updates(python, competitor, arguments, case):
  with tempfile.TemporaryDirectory() as directory:
    file = pathlib.Path(directory) / 'updates.npz'
    message = {
        'arguments': arguments,
        'case': dataclasses.asdict(case),
        'updates_to': str(file),
    }
    Worker(python, competitor, message).stop()
    with np.load(file) as arrays:
      return dict(arrays)


def differences(
    reference: Mapping[str, np.ndarray],
    updated: Mapping[str, np.ndarray],
    initial: network.Parameters,
) -> dict[str, float]:
  """Measures how two competitors differ, by part.

  Args:
    reference: 'losses' and 'LAYER/KIND' after the updates.
    updated: the same of the other competitor.
    initial: parameters before the updates.

  Returns:
    For 'loss' the largest relative difference; for each 'LAYER/KIND' the norm
    of the difference, as a share of the norm of the reference's change.
  """
  losses = np.abs(updated['losses'] / reference['losses'] - 1).max()
  result = {'loss': float(losses)}
  for layer, kinds in initial.items():
    for kind, start_value in kinds.items():
      name = f'{layer}/{kind}'
      exact = reference[name].astype(np.float64)
      apart = np.linalg.norm(updated[name] - exact)
      result[name] = float(apart / np.linalg.norm(exact - start_value))
  return result


def largest(differences: Mapping[str, float]) -> tuple[float, str]:
  """The largest difference and its place; NaN counts as the largest."""
  size = lambda name: np.nan_to_num(differences[name], nan=np.inf)
  place = max(differences, key=size)
  return differences[place], place


def difference(
    reference: Mapping[str, np.ndarray],
    updated: Mapping[str, np.ndarray],
    initial: network.Parameters,
) -> tuple[float, str]:
  """Largest difference of two competitors; arguments as for `differences`.

  Returns:
    The largest difference in units of the allowed rounding, and its place.
  """
  return largest({
      name: value
      / (_CHECK_LOSS_TOLERANCE if name == 'loss' else _CHECK_TOLERANCE)
      for name, value in differences(reference, updated, initial).items()
  })


# --- The command ---


def contestants(
    names: Sequence[str], peers_python: str
) -> dict[str, tuple[str, Competitor]]:
  """{name: (interpreter, competitor)} of some of COMPETITORS, ours first."""
  return {
      name: (
          sys.executable if name.startswith('ours') else peers_python,
          competitor,
      )
      for name, competitor in COMPETITORS.items()
      if name in names
  }


def machine() -> dict[str, Any]:
  """Describes the machine of the measurements."""
  model = platform.processor() or platform.machine()
  try:
    rows = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    model = next(r for r in rows if r.startswith('model name')).split(': ')[1]
  except (OSError, StopIteration):  # Not Linux on x86.
    pass
  return {'processor': model, 'cores': os.cpu_count()}


def measure_ceilings(
    dtypes: Sequence[str],
    runs: dict[str, tuple[str, Competitor]],
    width: float,
    plan: dict[str, Any],
) -> dict[str, Any]:
  """Measures products in GFLOP/s by dtype, and copying in GB/s.

  Products are XLA's, and those of the peers among the competitors `runs`.
  """
  say = plan['say']
  ceilings = {}
  for dtype in dtypes:
    say(f'largest matrix product, {dtype}')
    case = network.Case(mode='product', dtype=dtype, width=width)
    products = {
        name: (runs[name][0] if name in runs else sys.executable, product, case)
        for name, product in PRODUCTS.items()
        if name == 'xla' or name in runs
    }
    results = measure(products, **{**plan, 'rounds': min(3, plan['rounds'])})
    ceilings[dtype] = {
        name: results['operations'][name]['step']
        / min(turn['seconds'] for turn in items['step'])
        / 1e9
        for name, items in results['turns'].items()
    }
  ceilings['memory_copy_gigabytes_per_second'] = _memory_copy()
  return ceilings


def _memory_copy():
  """Best rate of copying 256 MB per core in threads, read plus written."""
  import threading
  import time

  cores = os.cpu_count()
  arrays = [np.ones((2, 2**25), np.float32) for _ in range(cores)]
  best = 0.0
  for _ in range(5):
    threads = [
        threading.Thread(target=np.copyto, args=(array[0], array[1]))
        for array in arrays
    ]
    begin = time.perf_counter()
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    taken = time.perf_counter() - begin
    best = max(best, sum(array.nbytes for array in arrays) / taken / 1e9)
  return best


def measure_case(
    case: network.Case,
    runs: dict[str, tuple[str, Competitor]],
    plan: dict[str, Any],
) -> dict[str, Any]:
  """Measures one row of the table: all competitors, and XLA's product.

  Returns:
    The case's fields, 'competitors' {name: see report.summary} and
    'left_out' {name: reason}.
  """
  plan['say'](f'{case.mode} {case.dtype} batch {case.batch_size}')
  everyone = {name: (*run, case) for name, run in runs.items()}
  product = dataclasses.replace(case, mode='product')
  everyone[CEILING] = (sys.executable, PRODUCTS['xla'], product)
  results = measure(everyone, **plan)
  return {
      'mode': case.mode,
      'dtype': case.dtype,
      'batch_size': case.batch_size,
      'competitors': report.summary(
          results, case.batch_size, ceiling=CEILING
      ),
      'left_out': results['left_out'],
  }


def default_python() -> str:
  """Returns the interpreter of `make bench`'s environment, or this one."""
  return str(BENCH_PYTHON) if BENCH_PYTHON.exists() else sys.executable


def measure_layers(
    case: network.Case,
    runs: dict[str, tuple[str, Competitor]],
    plan: dict[str, Any],
) -> dict[str, Any]:
  """Measures every layer separately.

  Returns:
    {'LAYER PART': {name: see report.layer_summary}}.
  """
  plan['say'](f'layers {case.dtype} batch {case.batch_size}')
  everyone = {
      name: (python, competitor.by_layers(), case)
      for name, (python, competitor) in runs.items()
      if name in LAYERS_OF
  }
  # There are about forty, each of a few milliseconds.
  results = measure(everyone, **{**plan, 'seconds': plan['seconds'] / 10})
  return report.layer_summary(results)


def _measure_all(values, runs, plan):
  """Results for --json, and the table."""
  cases = [
      network.Case(mode, dtype, int(batch_size), values.width, values.classes)
      for mode in values.modes
      for dtype in values.dtypes
      for batch_size in values.batch_sizes
  ]
  results = {
      'machine': machine(),
      'rounds': values.rounds,
      'seconds_a_turn': values.seconds,
  }
  if values.layers:
    case = max(cases, key=lambda case: case.batch_size)
    layers = {
        dtype: measure_layers(
            dataclasses.replace(case, mode='layers', dtype=dtype), runs, plan
        )
        for dtype in values.dtypes
    }
    results |= {'batch_size': case.batch_size, 'layers': layers}
    return results, report.layer_table(results)
  results |= {
      'ceilings': measure_ceilings(values.dtypes, runs, values.width, plan),
      'cases': [measure_case(case, runs, plan) for case in cases],
  }
  return {**report.headline(results), **results}, report.table(
      results
  )


def _check_flags(values):
  for flag, wanted in (
      ('modes', network.MODES),
      ('dtypes', network.DTYPES),
      ('frameworks', tuple(COMPETITORS)),
  ):
    for value in values[flag].value:
      if value not in wanted:
        raise app.UsageError(
            f'--{flag} has {value!r}: expected some of {", ".join(wanted)}'
        )
  if not all(size.isdigit() and int(size) for size in values.batch_sizes):
    raise app.UsageError(
        f'--batch_sizes is {values.batch_sizes}: expected numbers from 1'
    )
  if values.tables:
    if values.layers:
      raise app.UsageError('--tables is for the table without --layers')
    # Fails now rather than after an hour.
    report.split_at_markers(values.tables)


def main(argv):
  """Entry point."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  _check_flags(values)
  say = lambda line: print(line, flush=True)
  names = [*values.frameworks, *(['ours_two_devices'] if values.towers else [])]
  runs = contestants(names, values.python or default_python())
  plan = dict(
      rounds=values.rounds, steps=values.steps, seconds=values.seconds, say=say
  )
  if values.check:
    say('the same network: differences, 1 is what rounding may do')
    # Wide enough, and with enough images, for our convolutions to take the
    # forms that are measured. At full width, roundings change the maximum of a
    # window, and any two competitors are 1 apart.
    small = network.Case(
        batch_size=8, width=min(values.width, 0.75), classes=values.classes,
        dropout=0.0, rate=1e-4,
    )
    for name in check(runs, small, say):
      del runs[name]
  results, table = _measure_all(values, runs, plan)
  say('\n' + table)
  if values.json:
    values.json.write_text(json.dumps(results, indent=2) + '\n')
  if values.tables:
    report.write_between_markers(values.tables, table)


def _define_flags():
  flags.DEFINE_list(
      'batch_sizes', ['1', '8', '32', '128'], 'Numbers of images in a step.'
  )
  flags.DEFINE_list('modes', list(network.MODES), 'Modes to measure.')
  flags.DEFINE_list(
      'dtypes', list(network.DTYPES), 'Data types of the computation.'
  )
  flags.DEFINE_list(
      'frameworks',
      [name for name in COMPETITORS if name != 'ours_two_devices'],
      'Competitors to measure.',
  )
  flags.DEFINE_bool(
      'towers', False,
      'Measure our step also on two CPU devices, one per tower.'
  )
  flags.DEFINE_bool(
      'layers', False,
      'Measure each layer separately instead: its forward pass and gradients, '
      'at the largest batch size and with turns a tenth as long.',
  )
  flags.DEFINE_integer('rounds', 5, 'Number of turns of each competitor.')
  flags.DEFINE_integer('steps', 2, 'Least number of steps in a turn.')
  flags.DEFINE_float('seconds', 3.0, 'Least duration of a turn, in seconds.')
  flags.DEFINE_bool(
      'check', True, 'Compare the first updates before measuring.'
  )
  flags.DEFINE_float(
      'width', 1.0, 'Factor of the number of features, for tests.'
  )
  flags.DEFINE_integer('classes', 1000, 'Number of outputs, for tests.')
  flags.DEFINE_string(
      'python', None,
      'Python interpreter with the other frameworks. Default: that of '
      '`make bench`, or this one.',
  )
  paths.define('json', 'Write the results as JSON to this file.')
  paths.define('tables', 'Replace the table between the markers in this file.')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
