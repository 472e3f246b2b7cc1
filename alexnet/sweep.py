"""Sweeps: a file that lists the runs, and the command that makes them.

  python -m alexnet.sweep --config=configs/sweeps/learning_rate.py --workdir=DIR

A sweep file has `get_config(data)`, the base, and `sweep()`, which yields one
{'dotted.field': value} for each run. --list prints the runs, --index=N makes
one (for the array jobs of a cluster); without it they are made in turn. A
finished run is not repeated and a half-finished one is continued.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app, flags

from alexnet import cli, metrics
from alexnet.errors import ConfigError, NonFiniteLossError
from alexnet.workdir import load_results

Overrides = dict[str, Any]


class Sweep:
  """The runs that a sweep file describes.

  Attributes:
    overrides: of each run, in order.
  """

  def __init__(self, spec: str):
    """Loads a sweep file.

    Args:
      spec: FILE or FILE:DATASET, as for a config.

    Raises:
      ConfigError: not a sweep file, or it yields fields that no config has.
    """
    file, _, data = spec.partition(':')
    module = _load(pathlib.Path(file))
    self._get_config: Callable[..., ml_collections.ConfigDict] = (
        module.get_config
    )
    self._data = (data,) if data else ()
    self.overrides: list[Overrides] = list(module.sweep())
    if not self.overrides:
      raise ConfigError(f'sweep() of {file} yields no run')

  def config(self, index: int) -> ml_collections.ConfigDict:
    """The config of one run."""
    config = self._get_config(*self._data).lock()
    try:
      config.update_from_flattened_dict(self.overrides[index])
    except (KeyError, AttributeError, TypeError, ValueError) as error:
      raise ConfigError(
          f'run {index} of the sweep sets {self.overrides[index]}, which does '
          f'not fit the config: {error}'
      ) from error
    return config

  def name(self, index: int) -> str:
    """Folder of one run below the sweep's: its number and what it sets."""
    parts = (
        f'{field.rsplit(".", 1)[-1]}={value}'
        for field, value in self.overrides[index].items()
    )
    text = ','.join(parts)
    safe = ''.join(c if c.isalnum() or c in '=.,-_' else '_' for c in text)
    return f'{index:03d}-{safe[:100]}'


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


def table(sweep: Sweep, workdir: pathlib.Path) -> str:
  """What the runs have come to, a line each; '--' where there is no result."""
  fields = list(dict.fromkeys(f for o in sweep.overrides for f in o))
  rows = [['run', *fields, 'top-1', 'top-5', 'ten views top-1', 'steps']]
  for index, overrides in enumerate(sweep.overrides):
    results = load_results(workdir / sweep.name(index)) or {}
    rows.append([
        str(index),
        *(str(overrides.get(field, '')) for field in fields),
        _percent(results, 'centre', 'top1'),
        _percent(results, 'centre', 'top5'),
        _percent(results, 'ten', 'top1'),
        str(results.get('step', '--')),
    ])
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join(cell.rjust(width) for cell, width in zip(row, widths))
      for row in rows
  )


def _percent(results, views, name):
  return f'{results[views][name]:.2%}' if views in results else '--'


def run(
    sweep: Sweep,
    workdir: pathlib.Path,
    indices: list[int],
    console: metrics.Console,
) -> list[int] | None:
  """Makes, or continues, some of the runs, one after the other.

  Returns:
    The runs that have diverged, which does not stop the others; None if a
    signal has stopped the sweep.
  """
  from alexnet import train  # JAX and TensorFlow, which --list does not need.

  diverged = []
  for index in indices:
    console.print(f'\n=== run {index}: {sweep.overrides[index]}')
    folder = workdir / sweep.name(index)
    try:
      if train.Run(sweep.config(index), folder, console).train() is None:
        return None
    except NonFiniteLossError as error:
      console.print(f'run {index}: {error}')
      diverged.append(index)
  return diverged


def main(argv: list[str]) -> int:
  """Entry point of `python -m alexnet.sweep`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  console = metrics.Console()
  values = flags.FLAGS
  sweep = Sweep(values.config)
  count = len(sweep.overrides)
  if values.list:
    for index, overrides in enumerate(sweep.overrides):
      console.print(f'{index}: {overrides}')
    return 0
  if values.workdir is None:
    raise ConfigError('--workdir is not set: wanted a folder for the runs')
  indices = list(range(count))
  if values.index is not None:
    if not 0 <= values.index < count:
      raise ConfigError(
          f'--index is {values.index}: wanted 0 to {count - 1}, see --list'
      )
    indices = [values.index]
  workdir = pathlib.Path(values.workdir)
  diverged = run(sweep, workdir, indices, console)
  if diverged is None:
    return 0
  console.print('\n' + table(sweep, workdir))
  if diverged:
    console.print(f'diverged: {", ".join(map(str, diverged))}')
  return 1 if diverged else 0


if __name__ == '__main__':
  flags.DEFINE_string('config', None, 'File of the sweep, FILE[:DATASET].')
  flags.DEFINE_string('workdir', None, 'Folder for the folders of the runs.')
  flags.DEFINE_boolean('list', False, 'Print the runs and stop.')
  flags.DEFINE_integer('index', None, 'Make this run only.')
  flags.mark_flag_as_required('config')
  cli.run(main)
