"""Trains the runs of a sweep, a file that lists variants of a run.

  python -m alexnet.sweep --config=configs/sweeps/lrn.py --workdir=DIR --seeds=3

A sweep file defines `get_config(data)`, the base, and `sweep()`, which yields
{'dotted.field': value} for each variant, optionally with a name before it and
the paper's result after it: ('no normalization', {...}, (1.4, 1.2)) is 1.4 and
1.2 points of top-1 and top-5 error worse than the first variant, the base.

--list prints the runs; --index=N trains one (for array jobs of a cluster).
Otherwise all are trained in turn: all variants of one seed, then of the next.
Finished runs are not repeated and interrupted ones are continued. Several
--config flags share one process and common runs; simultaneous jobs need a
separate workdir for each sweep.
"""

import pathlib
from collections.abc import Iterable

from absl import app, flags

from alexnet.analysis.paper.sweep_table import table
from alexnet.config.errors import BadStepError, ConfigError, DeviceMemoryError
from alexnet.config.sweep import FAILED, Sweep, parse_settings
from alexnet.inference import run_flags
from alexnet.metrics.console import Console
from input_pipeline import cli
from input_pipeline.errors import DataError
from input_pipeline.files import paths


def run(
    sweep: Sweep,
    workdir: pathlib.Path,
    indices: Iterable[int],
    console: Console,
) -> list[int] | None:
  """Trains or continues some runs of a sweep, one after the other.

  Args:
    sweep: the sweep.
    workdir: parent folder of the runs' folders.
    indices: indices of the runs to train.
    console: console for messages.

  Returns:
    Indices of the runs that diverged or could not be trained, which does not
    stop the others; None if a signal stopped the sweep.

  Raises:
    ConfigError, DataError: the base cannot be trained.
  """
  # JAX and TensorFlow, which --list does not need.
  from alexnet.training import trainer

  failed = []
  for index in indices:
    console.print(f'\n=== run {index}: {sweep.describe(index)}')
    folder = workdir / sweep.folder(index)
    (folder / FAILED).unlink(missing_ok=True)
    try:
      if trainer.create(sweep.config(index), folder, console).train() is None:
        return None
    except (
        BadStepError, ConfigError, DataError, DeviceMemoryError
    ) as error:
      diverged = isinstance(error, BadStepError)
      if not diverged and not sweep.variant(index).overrides:
        raise  # If the base fails, all variants would.
      console.print(f'run {index}: {cli.explain(error)}')
      folder.mkdir(parents=True, exist_ok=True)
      (folder / FAILED).write_text(f'{error}\n', encoding='utf-8')
      failed.append(index)
  return failed


def _run_all(sweeps, workdir, index, console):
  """Returns the failed runs by sweep; None if a signal stopped them."""
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
  console = Console()
  values = flags.FLAGS
  if values.seeds < 1:
    raise ConfigError(f'--seeds is {values.seeds}: expected at least 1')
  overrides = parse_settings(values['set'].value)
  sweeps = [Sweep(spec, overrides, values.seeds) for spec in values.config]
  if values.list:
    for sweep in sweeps:
      for index in range(len(sweep)):
        console.print(f'{index}: {sweep.describe(index)}')
    return 0
  if values.workdir is None:
    raise ConfigError('--workdir is not set: expected a folder for the runs')
  if values.index is not None:
    if len(sweeps) > 1:
      raise ConfigError('--index is of one sweep: give one --config with it')
    if not 0 <= values.index < len(sweeps[0]):
      raise ConfigError(
          f'--index is {values.index}: expected 0 to {len(sweeps[0]) - 1}, see '
          '--list'
      )
  workdir = values.workdir
  run_flags.start(argv, trains=True)
  failed = _run_all(sweeps, workdir, values.index, console)
  if failed is None:
    return cli.STOPPED
  for sweep in sweeps:
    text = table(sweep, workdir)
    (workdir / f'{sweep.name}.md').write_text(text + '\n', encoding='utf-8')
    console.print('\n' + text)
  for name, indices in failed.items():
    if indices:
      console.print(f'{name}: failed: {", ".join(map(str, indices))}')
  return 1 if any(failed.values()) else 0


def _define_flags():
  flags.DEFINE_multi_string(
      'config', None,
      'File of the sweep, FILE[:DATASET]. Repeat it for several sweeps.'
  )
  paths.define('workdir', 'Folder that will hold a folder for each run.')
  flags.DEFINE_multi_string(
      'set', [],
      'Set a field in all runs: field=value. Repeat it for several fields.'
  )
  flags.DEFINE_integer(
      'seeds', 1, 'Number of seeds to train each variant with.'
  )
  flags.DEFINE_boolean('list', False, 'List the runs and exit.')
  flags.DEFINE_integer('index', None, 'Train only the run with this number.')
  flags.mark_flag_as_required('config')


if __name__ == '__main__':
  _define_flags()
  cli.run(main)
