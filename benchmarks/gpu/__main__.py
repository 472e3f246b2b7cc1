"""All there is to measure of a GPU, by one command, for when there is one.

  python -m benchmarks.gpu --json=results.jsonl
  python -m benchmarks.gpu --all --source=PHOTOS
  JAX_PLATFORMS=cpu python -m benchmarks.gpu --reduced

It needs jax (for GPUs), flax, optax, ml_collections and numpy; PyTorch is
measured where it is installed. Run #145's network on the first GPU: its logits
and first updates beside those of the CPU, then steps of training and inference
from a batch that stays on the device. Each case has a process of its own, and
when it ends its line of JSON is written, with the error if it failed. At the
end there are tables; docs/gpus.md explains them.

--all adds PyTorch without `torch.compile`, TF32 beside the CPU, and training
from prepared data, which needs requirements-dev.txt.
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

# Seconds of the command, if no flag says it; --all has no end.
BUDGET = 350.0
# Longest wait for a process, in seconds.
_LONGEST = 600.0
_MEASURE = 'benchmarks.gpu.measure'

_COMPARED = network.Case(batch_size=8, rate=1e-4)
_TRAINING = network.Case(dtype='bfloat16')


@dataclasses.dataclass(frozen=True)
class Planned:
  """A case before it begins.

  Attributes:
    name: of it, beside its mode and batch size.
    call: a function of `benchmarks.gpu.measure`; 'compare' is two of them.
    case: what to compute.
    seconds: that it takes, by estimate.
    arguments: of the function.
    bounds: of a comparison: the largest 'logits', 'loss' and 'update'.
  """

  name: str
  call: str
  case: network.Case
  seconds: float
  arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
  bounds: dict[str, float] | None = None


# By precision, relative differences. On a CPU the plain forms are apart from
# those for CPUs by 2e-7, 6e-8 and 9e-4 in float32, by 2e-3, 1e-3 and 0.6 in
# bfloat16, whose rounding moves the largest of a window; with TF32's rounding
# in convolutions by 9e-5, 2e-5 and 0.1, so that TF32 is no float32 here. An
# update that is not made is 1 away.
BOUNDS = {
    'float32': dict(logits=1e-5, loss=1e-5, update=1e-2),
    'TF32': dict(logits=1e-3, loss=1e-3, update=0.3),
    'bfloat16': dict(logits=2e-2, loss=1e-2, update=0.9),
}


def planned(
    everything: bool, source: str | None = None, images: int = 1024
) -> list[Planned]:
  """The cases in their order, most wanted first.

  Args:
    everything: also those that are for --all.
    source: of these, the folder of images; None for some that are made.
    images: how many of those.
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
      # Two forms of response normalization; the faster is the competitor.
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
  """A case that a CPU computes in a moment."""
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
  """Calls a function of `measure` in a process of its own.

  Args:
    function: its name.
    arguments: as JSON has them.
    limit: seconds that it may take.
    on_cpu: whether JAX sees no GPU; else it sees the first.

  Raises:
    CompetitorError: it failed, has no answer, or misses a package.
  """
  first = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]
  worker = train_step.Worker(
      sys.executable,
      train_step.Competitor('', install='install it to measure this'),
      {'module': _MEASURE, 'call': function, 'arguments': arguments},
      environment={
          'CUDA_VISIBLE_DEVICES': first,
          # Compiling is measured too.
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
  """The device beside the CPU: 'differences', in which 'layer', and 'agrees'.

  Args:
    one: the case, with its bounds.
    limit: seconds that both may take together.
    ask: `call`, or a stand-in.
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
          # JSON has no others.
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
  """Runs one case after the other.

  Args:
    cases: in their order.
    machine: from `measure.machine`.
    budget: seconds that are left. A case that takes longer, by its estimate, is
      not begun; one that does so all the same is ended.
    seconds: that are measured of each, after its start.
    write: is given the record of each case when it ends: its fields and what
      was found, or 'error'.
    ask: calls a function of `measure`.
    clock: in seconds.
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
  """Entry point; status 1 if the device and its CPU do not agree."""
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
  flags.DEFINE_bool('all', False, 'What takes longer, or needs more, as well.')
  flags.DEFINE_float(
      'budget', None,
      'Seconds for all: a case that would take longer by its estimate is not '
      f'begun. Unset: {BUDGET:.0f}; with --all no limit.',
      lower_bound=0,
  )
  flags.DEFINE_bool(
      'reduced', False, 'A narrow network and small batches, to try this.'
  )
  flags.DEFINE_string(
      'source', None,
      'Folder of class folders to be fed from; unset: photographs of '
      'scikit-learn.',
  )
  flags.DEFINE_integer('images', 1024, 'Of these photographs.', lower_bound=4)
  paths.define('json', 'File to write the lines to, besides.')
  app.run(main)
