"""Trains the runs of a sweep, a file that lists variants of a run.

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
  """Trains, or continues, some of the runs one after the other.

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
        raise  # Not even the base can be made, so nothing can.
      console.print(f'run {index}: {cli.explain(error)}')
      folder.mkdir(parents=True, exist_ok=True)
      (folder / FAILED).write_text(f'{error}\n', encoding='utf-8')
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
      'config', None, 'File of the sweep, FILE[:DATASET]; may be repeated.'
  )
  paths.define('workdir', 'Folder for the folders of the runs.')
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
