"""Measures and checks a GPU with one command.

  python -m benchmarks.gpu --json=results.jsonl
  python -m benchmarks.gpu --all --source=PHOTOS
  JAX_PLATFORMS=cpu python -m benchmarks.gpu --reduced

It needs jax (for GPUs), flax, optax, ml_collections and numpy; PyTorch is
measured if installed. It compares the logits and first updates of run #145's
network on the first GPU with the CPU's, then times training and inference steps
on a constant batch. Each case runs in its own process and writes a line of JSON
when it ends, with the error if it failed. Tables follow at the end;
docs/gpus.md explains them.

--all adds PyTorch without `torch.compile`, a comparison of TF32 with the CPU,
and training from prepared data, which needs requirements-dev.txt.
"""

import dataclasses
import json
import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import train_step
from benchmarks.gpu import results
from benchmarks.step import network
from input_pipeline.files import paths

# Default limit in seconds; --all has none.
BUDGET = 350.0
# Longest wait for a process, in seconds.
_LONGEST = 600.0
_MEASURE = 'benchmarks.gpu.measure'

_COMPARED = network.Case(batch_size=8, rate=1e-4)
_TRAINING = network.Case(dtype='bfloat16')


@dataclasses.dataclass(frozen=True)
class Planned:
  """A case to measure.

  Attributes:
    name: its name, besides mode and batch size.
    call: a function of `benchmarks.gpu.measure`, or 'compare', which makes two
      calls.
    case: the case to compute.
    seconds: estimated duration.
    arguments: arguments of the function.
    bounds: for comparisons, the largest 'logits', 'loss' and 'update'.
  """

  name: str
  call: str
  case: network.Case
  seconds: float
  arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
  bounds: dict[str, float] | None = None


# Bounds of relative differences, by precision. Plain forms and CPU forms on a
# CPU differ by 2e-7, 6e-8 and 9e-4 in float32, and by 2e-3, 1e-3 and 0.6 in
# bfloat16, whose rounding can move the maximum of a window. TF32 rounding in
# convolutions gives 9e-5, 2e-5 and 0.1, beyond the bounds of float32. A missing
# update gives 1.
BOUNDS = {
    'float32': dict(logits=1e-5, loss=1e-5, update=1e-2),
    'TF32': dict(logits=1e-3, loss=1e-3, update=0.3),
    'bfloat16': dict(logits=2e-2, loss=1e-2, update=0.9),
}


def planned(
    everything: bool, source: str | None = None, images: int = 1024
) -> list[Planned]:
  """Lists the cases, most important first.

  Args:
    everything: whether to include the cases of --all.
    source: folder of images for these; None to generate some.
    images: number of generated images.
  """

  def compared(name, dtype, precision):
    case = dataclasses.replace(_COMPARED, dtype=dtype)
    arguments = {'precision': precision}
    return Planned(name, 'compare', case, 50, arguments, BOUNDS[name])

  def ours(name, case, seconds, precision=None):
    return Planned(name, 'ours', case, seconds, {'precision': precision})

  def pytorch(variant, compiled, seconds):
    name = 'torch.compile' if compiled else 'PyTorch'
    arguments = {'variant': variant, 'compiled': compiled}
    name = f'{name} bfloat16, {variant} LRN'
    return Planned(name, 'pytorch', _TRAINING, seconds, arguments)

  large = dataclasses.replace(_TRAINING, batch_size=1024)
  cases = [
      compared('float32', 'float32', 'highest'),
      compared('bfloat16', 'bfloat16', None),
      ours('bfloat16', _TRAINING, 40),
      ours('TF32', network.Case(), 40, 'tensorfloat32'),
      ours('bfloat16', large, 40),
      ours('bfloat16', dataclasses.replace(large, mode='inference'), 30),
      # Two forms of response normalization; the faster one counts.
      pytorch('band', True, 45),
      pytorch('library', True, 45),
  ]
  if everything:
    feeding = {'source': source, 'images': images}
    cases += [
        compared('TF32', 'float32', 'tensorfloat32'),
        pytorch('band', False, 30),
        pytorch('library', False, 30),
        Planned('bfloat16, fed', 'feeding', _TRAINING, 240, feeding),
    ]
  return cases


def reduced(case: network.Case) -> network.Case:
  """Reduces a case to one that a CPU computes quickly."""
  batch_size = max(2, case.batch_size // 32)
  return dataclasses.replace(
      case, batch_size=batch_size, width=0.0625, classes=10
  )


def call(
    function: str,
    arguments: dict[str, Any],
    *,
    limit: float,
    on_cpu: bool = False,
) -> Any:
  """Calls a function of `measure` in a separate process.

  Args:
    function: its name.
    arguments: its arguments, for JSON.
    limit: time limit in seconds.
    on_cpu: whether to hide GPUs from JAX; otherwise it uses the first.

  Raises:
    CompetitorError: it failed, gave no answer, or lacks a package.
  """
  first = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]
  worker = train_step.Worker(
      sys.executable,
      train_step.Competitor('', install='install it to measure this'),
      {'module': _MEASURE, 'call': function, 'arguments': arguments},
      environment={
          'CUDA_VISIBLE_DEVICES': first,
          # The cache would hide compilation times.
          'JAX_ENABLE_COMPILATION_CACHE': 'false',
          **(train_step.ON_CPU if on_cpu else {}),
      },
      limit=limit,
  )
  worker.stop()
  return worker.result


def compare(
    one: Planned, limit: float, ask: Callable[..., Any]
) -> dict[str, Any]:
  """Compares the device with the CPU: 'differences', 'layer', and 'agrees'.

  Args:
    one: the case, with its bounds.
    limit: time limit for both together, in seconds.
    ask: `call`, or a replacement.
  """
  end = time.monotonic() + limit
  with tempfile.TemporaryDirectory() as folder:
    outputs = []
    for on_cpu in (True, False):
      file = str(pathlib.Path(folder) / f'{on_cpu}.npz')
      arguments = {
          'case': dataclasses.asdict(one.case), 'file': file, **one.arguments
      }
      ask('outputs', arguments, limit=end - time.monotonic(), on_cpu=on_cpu)
      with np.load(file) as arrays:
        outputs.append(dict(arrays))
  reference, found = outputs
  parts = train_step.differences(
      reference, found, network.parameters(one.case)
  )
  loss = parts.pop('loss')
  update, layer = train_step.largest(parts)
  apart = np.linalg.norm(found['logits'] - reference['logits'])
  logits = float(apart / np.linalg.norm(reference['logits']))
  differences = {'logits': logits, 'loss': loss, 'update': update}
  return {
      'differences': {
          # JSON has no infinity or NaN.
          name: value if math.isfinite(value) else None
          for name, value in differences.items()
      },
      'layer': layer,
      'bounds': one.bounds,
      'agrees': all(differences[n] <= most for n, most in one.bounds.items()),
  }


def measure(
    cases: Sequence[Planned],
    machine: dict[str, Any],
    *,
    budget: float,
    seconds: float,
    write: Callable[[dict[str, Any]], None],
    ask: Callable[..., Any] = call,
    clock: Callable[[], float] = time.monotonic,
) -> None:
  """Runs the cases one by one.

  Args:
    cases: the cases, in order.
    machine: result of `measure.machine`.
    budget: time limit in seconds. A case with a longer estimate is not started;
      a running case is ended at the limit.
    seconds: measuring time of each case, after its start.
    write: called with the record of each case when it ends: its fields and
      results, or 'error'.
    ask: calls a function of `measure`.
    clock: returns seconds.
  """
  end = clock() + budget
  for one in cases:
    record = {'case': one.name, **dataclasses.asdict(one.case)}
    begin = clock()
    left = end - begin
    if left < one.seconds:
      record['error'] = (
          f'not begun: it takes about {one.seconds:.0f} s, and of --budget '
          f'{max(0.0, left):.0f} s are left'
      )
      write(record)
      continue
    try:
      record |= _result(one, machine, min(left, _LONGEST), seconds, ask)
    except train_step.CompetitorError as error:
      record['error'] = str(error)
      if one.call == 'compare':
        record['agrees'] = False
    write({**record, 'took': clock() - begin})


def _result(one, machine, limit, seconds, ask):
  if one.call == 'compare':
    return compare(one, limit, ask)
  arguments = {
      'case': dataclasses.asdict(one.case), 'seconds': seconds, **one.arguments
  }
  if one.call == 'pytorch':
    arguments['device'] = 'cpu' if machine['backend'] == 'cpu' else 'cuda'
  found = ask(one.call, arguments, limit=limit)
  if one.call == 'feeding':
    return found
  median = found['seconds_per_step']['median']
  return {
      **found,
      'images_per_second': one.case.batch_size / median,
      **results.shares(machine['device_kind'], one.case.dtype, found),
  }


def main(argv):
  """Entry point; status 1 if the device and its CPU disagree."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  begin = time.monotonic()
  budget = values.budget
  if budget is None:
    budget = math.inf if values.all else BUDGET
  file = values.json.open('w') if values.json else None
  records = []

  def write(record):
    records.append(record)
    for stream in (sys.stdout, file):
      if stream:
        print(json.dumps(record), file=stream, flush=True)

  try:
    machine = call('machine', {}, limit=_LONGEST)
  except train_step.CompetitorError as error:
    raise SystemExit(f'error: JAX does not start here: {error}') from error
  if machine['backend'] == 'cpu' and not values.reduced:
    raise SystemExit(
        f'error: JAX has no GPU here, only {machine["device_kind"]}: install '
        'requirements-gpu.txt and look at JAX_PLATFORMS, or try the command on '
        'the CPU by --reduced'
    )
  write({'case': 'machine', **machine})
  cases = planned(values.all, values.source, values.images)
  if values.reduced:
    cases = [dataclasses.replace(c, case=reduced(c.case)) for c in cases]
  measure(
      cases,
      machine,
      budget=budget - (time.monotonic() - begin),
      seconds=0.1 if values.reduced else 3.0,
      write=write,
  )
  print('\n' + results.table(machine, records))
  return 0 if all(row.get('agrees', True) for row in records) else 1


if __name__ == '__main__':
  flags.DEFINE_bool(
      'all', False, 'Include the cases that take long or need more packages.'
  )
  flags.DEFINE_float(
      'budget', None,
      'Seconds for all cases: a case is not started if its estimated time '
      f'exceeds the rest. Default: {BUDGET:.0f}, or with --all no limit.',
      lower_bound=0,
  )
  flags.DEFINE_bool(
      'reduced', False,
      'Use a narrow network and small batches, to try the command.'
  )
  flags.DEFINE_string(
      'source', None,
      'Folder with a folder of images per class, to read batches from. '
      'Default: photographs of scikit-learn.',
  )
  flags.DEFINE_integer(
      'images', 1024, 'Number of these photographs.', lower_bound=4
  )
  paths.define('json', 'Write the results as lines of JSON to this file.')
  app.run(main)
