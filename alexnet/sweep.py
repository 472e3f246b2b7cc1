"""Sweeps: a file that lists variants of a run, and the command that makes them.

  python -m alexnet.sweep --config=configs/sweeps/lrn.py --workdir=DIR --seeds=3

A sweep file has `get_config(data)`, the base, and `sweep()`, which yields for
each variant {'dotted.field': value}, or a name before it, or also what the
paper says of it: ('no normalization', {...}, (1.4, 1.2)), in points of top-1
and top-5 error that it is worse than the first variant, the base.

--list prints the runs, --index=N makes one (for the array jobs of a cluster);
without it they are made in turn, a seed of all variants after the other. A
finished run is not repeated and a half-finished one is continued. Several
--config share a process and the runs that they have in common; jobs at the same
time want a workdir for each sweep.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections
from absl import app, flags

from alexnet import cli, compilation, host_memory, metrics
from alexnet.errors import BadStepError, ConfigError
from alexnet.workdir import load_results
from input_pipeline.errors import DataError

Overrides = dict[str, Any]

# In the folder of a run that has diverged, or that cannot be made.
_FAILED = 'failed.txt'


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of a sweep's table.

  Attributes:
    name: for people and for folders.
    overrides: {'dotted.field': value}.
    paper: points of top-1 and top-5 error that the paper, or the log of its
      code, has it worse than the base; None where it says nothing.
  """

  name: str
  overrides: Overrides
  paper: tuple[float, float | None] | None = None


class Sweep:
  """The runs that a sweep file describes: every variant with every seed.

  Attributes:
    name: of the file.
    variants: the first is the base.
    seeds: number of seeds.
  """

  def __init__(
      self, spec: str, settings: Overrides | None = None, seeds: int = 1
  ):
    """Loads a sweep file.

    Args:
      spec: FILE or FILE:DATASET, as for a config.
      settings: {'dotted.field': value} for all runs; a variant's come after.
      seeds: number of seeds, from the config's on.

    Raises:
      ConfigError: not a sweep file, or it yields fields that no config has.
    """
    file, _, data = spec.partition(':')
    path = pathlib.Path(file)
    module = _load(path)
    self.name = f'{path.stem}-{data}' if data else path.stem
    self.seeds = seeds
    self._get_config: Callable[..., ml_collections.ConfigDict] = (
        module.get_config
    )
    self._data = (data,) if data else ()
    self._settings = settings or {}
    self.variants = [_variant(item) for item in module.sweep()]
    if not self.variants:
      raise ConfigError(f'sweep() of {file} yields no run')

  def __len__(self) -> int:
    """Number of runs."""
    return len(self.variants) * self.seeds

  def variant(self, index: int) -> Variant:
    """Of one run; all variants come with the first seed, then the second."""
    return self.variants[index % len(self.variants)]

  def config(self, index: int) -> ml_collections.ConfigDict:
    """The config of one run."""
    config = self._get_config(*self._data).lock()
    variant = self.variant(index)
    for overrides in (self._settings, variant.overrides):
      try:
        config.update_from_flattened_dict(overrides)
      except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f'run {index} of sweep {self.name} sets {overrides}, which does '
            f'not fit the config: {error}'
        ) from error
    # Seeds differ in everything but the images they are evaluated on.
    if config.dataset.split_seed is None:
      config.dataset.split_seed = config.seed
    config.seed += index // len(self.variants)
    return config

  def folder(self, index: int) -> str:
    """Folder of one run in the workdir: equal for equal runs of two sweeps."""
    config = self.config(index)
    # Bases have other names in other sweeps, and are the same run.
    is_base = config == self.config(index - index % len(self.variants))
    name = 'base' if is_base else self.variant(index).name
    name += f',seed={config.seed}'
    safe = ''.join(c if c.isalnum() or c in '=.,-_' else '_' for c in name)
    text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return f'{safe[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'

  def describe(self, index: int) -> str:
    """One run, for people."""
    variant = self.variant(index)
    seed = f'seed {self.config(index).seed}'
    return f'{self.name}: {variant.name}, {seed}: {variant.overrides}'


def _variant(item):
  if isinstance(item, dict):
    item = (_name_of(item), item)
  return Variant(*item)


def _name_of(overrides):
  return ', '.join(
      f'{field.rsplit(".", 1)[-1]}={value}'
      for field, value in overrides.items()
  ) or 'base'


def _load(path):
  if not path.is_file():
    raise ConfigError(
        f'{path} is not a file: wanted one such as '
        'configs/sweeps/learning_rate.py'
    )
  # Sweeps import the config they vary as `configs.NAME`.
  root = str(pathlib.Path(__file__).parent.parent)
  if root not in sys.path:
    sys.path.insert(0, root)
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  for name in ('get_config', 'sweep'):
    if not hasattr(module, name):
      raise ConfigError(
          f'{path} has no {name}(): see configs/sweeps/learning_rate.py'
      )
  return module


def parse_settings(texts: Iterable[str]) -> Overrides:
  """Reads 'dotted.field=value'; what is not a Python literal is a string."""
  settings = {}
  for text in texts:
    field, equals, value = text.partition('=')
    if not field or not equals:
      raise ConfigError(f"--set is '{text}': wanted field=value")
    try:
      settings[field] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      settings[field] = value
  return settings


# --- The table ---


def table(sweep: Sweep, workdir: pathlib.Path) -> str:
  """What the runs have come to, in Markdown, a line a variant.

  Errors are in percent, mean ± standard deviation over the seeds that are
  finished; differences to the base are in points, ± their standard error.
  With ten views where all finished runs have them, else of the centre crop.
  """
  rows = [
      [
          load_results(workdir / sweep.folder(index)) or {}
          for index in range(number, len(sweep), len(sweep.variants))
      ]
      for number in range(len(sweep.variants))
  ]
  finished = [r for results in rows for r in results if r]
  views = 'ten' if finished and all('ten' in r for r in finished) else 'centre'
  name = 'ten views' if views == 'ten' else 'centre crop'
  lines = [[
      f'{sweep.name} ({name})', 'n', 'top-1 error', 'top-5 error', 'loss',
      'worse than the base by', 'in the paper',
  ]]
  of = lambda results, key: [r[views][key] for r in results if r]
  for variant, results in zip(sweep.variants, rows):
    first = variant is sweep.variants[0]
    errors = {
        key: ([100 * (1 - x) for x in of(results, key)],
              [100 * (1 - x) for x in of(rows[0], key)])
        for key in ('top1', 'top5')
    }
    lines.append([
        variant.name,
        _count(sweep, workdir, sweep.variants.index(variant), results),
        *(mean_and_deviation(errors[key][0], '.2f') for key in errors),
        mean_and_deviation(of(results, 'loss'), '.4f'),
        '' if first else ' / '.join(_gap(*errors[key]) for key in errors),
        '' if variant.paper is None else ' / '.join(
            '?' if points is None else f'{points:+.1f}'
            for points in variant.paper
        ),
    ])
  return markdown(lines)


def _count(sweep, workdir, number, results):
  finished = sum(map(bool, results))
  failed = sum(
      (workdir / sweep.folder(index) / _FAILED).exists()
      for index in range(number, len(sweep), len(sweep.variants))
  )
  return f'{finished} ({failed} failed)' if failed else str(finished)


def mean_and_deviation(values: Sequence[float], form: str) -> str:
  """'mean ± standard deviation', the latter of several values only."""
  if not values:
    return '--'
  mean = format(statistics.mean(values), form)
  if len(values) == 1:
    return mean
  return f'{mean} ± {format(statistics.stdev(values), form)}'


def _gap(values, base):
  if not values or not base:
    return '--'
  gap = f'{statistics.mean(values) - statistics.mean(base):+.2f}'
  if min(len(values), len(base)) == 1:
    return gap
  error = math.hypot(*(
      statistics.stdev(x) / math.sqrt(len(x)) for x in (values, base)
  ))
  return f'{gap} ± {error:.2f}'


def markdown(lines: Sequence[Sequence[str]]) -> str:
  """A table of cells; the first line is its head."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  rows = [
      '| ' + ' | '.join(c.ljust(w) for c, w in zip(line, widths)) + ' |'
      for line in lines
  ]
  rows.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(rows)


# --- Running ---


def run(
    sweep: Sweep,
    workdir: pathlib.Path,
    indices: Iterable[int],
    console: metrics.Console,
) -> list[int] | None:
  """Makes, or continues, some of the runs, one after the other.

  Args:
    sweep: the sweep.
    workdir: for the folders of the runs.
    indices: of the runs to make.
    console: for messages.

  Returns:
    The runs that have diverged or cannot be made, which does not stop the
    others; None if a signal has stopped the sweep.

  Raises:
    ConfigError, DataError: the base cannot be made.
  """
  from alexnet import train  # JAX and TensorFlow, which --list does not need.

  failed = []
  for index in indices:
    console.print(f'\n=== run {index}: {sweep.describe(index)}')
    folder = workdir / sweep.folder(index)
    (folder / _FAILED).unlink(missing_ok=True)
    try:
      if train.Run(sweep.config(index), folder, console).train() is None:
        return None
    except (BadStepError, ConfigError, DataError) as error:
      diverged = isinstance(error, BadStepError)
      if not diverged and not sweep.variant(index).overrides:
        raise  # Not even the base can be made, so nothing can.
      console.print(f'run {index}: {error}')
      folder.mkdir(parents=True, exist_ok=True)
      (folder / _FAILED).write_text(f'{error}\n')
      failed.append(index)
  return failed


def _run_all(sweeps, workdir, index, console):
  """The failed runs by sweep; None if a signal has stopped them."""
  failed = {}
  # A seed of all sweeps before the next one, so that tables fill evenly.
  for seed in range(sweeps[0].seeds):
    for sweep in sweeps:
      count = len(sweep.variants)
      indices = range(seed * count, (seed + 1) * count)
      if index is not None:
        indices = [i for i in indices if i == index]
      of_sweep = run(sweep, workdir, indices, console)
      if of_sweep is None:
        return None
      failed.setdefault(sweep.name, []).extend(of_sweep)
  return failed


def main(argv: list[str]) -> int:
  """Entry point of `python -m alexnet.sweep`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  console = metrics.Console()
  values = flags.FLAGS
  if values.seeds < 1:
    raise ConfigError(f'--seeds is {values.seeds}: wanted at least 1')
  settings = parse_settings(values['set'].value)
  sweeps = [Sweep(spec, settings, values.seeds) for spec in values.config]
  if values.list:
    for sweep in sweeps:
      for index in range(len(sweep)):
        console.print(f'{index}: {sweep.describe(index)}')
    return 0
  if values.workdir is None:
    raise ConfigError('--workdir is not set: wanted a folder for the runs')
  if values.index is not None:
    if len(sweeps) > 1:
      raise ConfigError('--index is of one sweep: give one --config with it')
    if not 0 <= values.index < len(sweeps[0]):
      raise ConfigError(
          f'--index is {values.index}: wanted 0 to {len(sweeps[0]) - 1}, see '
          '--list'
      )
  workdir = pathlib.Path(values.workdir)
  host_memory.keep_freed()
  compilation.use_cache()  # Many runs are of the same network and batch.
  failed = _run_all(sweeps, workdir, values.index, console)
  if failed is None:
    return cli.STOPPED
  for sweep in sweeps:
    text = table(sweep, workdir)
    (workdir / f'{sweep.name}.md').write_text(text + '\n')
    console.print('\n' + text)
  for name, indices in failed.items():
    if indices:
      console.print(f'{name}: failed: {", ".join(map(str, indices))}')
  return 1 if any(failed.values()) else 0


def _define_flags():
  flags.DEFINE_multi_string(
      'config', None, 'File of the sweep, FILE[:DATASET]; may be repeated.'
  )
  flags.DEFINE_string('workdir', None, 'Folder for the folders of the runs.')
  flags.DEFINE_multi_string(
      'set', [], 'field=value for all runs; may be repeated.'
  )
  flags.DEFINE_integer('seeds', 1, 'Seeds to make every variant with.')
  flags.DEFINE_boolean('list', False, 'Print the runs and stop.')
  flags.DEFINE_integer('index', None, 'Make this run only.')
  flags.mark_flag_as_required('config')


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
