"""A determinism report: replays steps of a run, and compares bit by bit.

  python -m alexnet.verify --workdir=runs/alexnet

replays the steps from the second newest checkpoint to the newest one, if both
are there, and compares losses with metrics.jsonl and all parameters and
velocities with the newest checkpoint. Otherwise it replays the same steps
twice, from the newest checkpoint, which says whether this machine is
deterministic. It tells, too, in what this machine and this session differ from
the run's. Nothing is written to the workdir.

Exit status: 0 if all is equal to the bit; 1 if something differs, or cannot be
compared.
"""

import pathlib
from typing import TYPE_CHECKING

from absl import app, flags

from alexnet.runtime import compilation_cache, heap
from input_pipeline import cli

if TYPE_CHECKING:
  from alexnet.training.replay import Report


def lines(report: 'Report') -> list[str]:
  """The report, for a person."""
  text = [
      f'steps    {report.first} to {report.last} of {report.workdir}, '
      f'compared with {report.reference}',
      f'losses   {report.losses} line(s) of metrics.jsonl compared',
  ]
  text += [f'machine  {line}' for line in report.environment] or [
      'machine  as in the last session of environment.json'
  ]
  text += [f'differs  {line}' for line in report.differences]
  text.append(
      'result   '
      + ('DIFFERENT' if report.differences else 'equal to the bit')
  )
  return text


def main(argv: list[str]) -> int:
  """Entry point of `python -m alexnet.verify`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  # JAX and TensorFlow, which --help does not need.
  from alexnet.metrics.console import Console
  from alexnet.training import replay

  heap.keep_freed()
  compilation_cache.use_cache()
  values = flags.FLAGS
  given = {
      'dataset.train_dir': values.train_dir,
      'dataset.eval_dir': values.eval_dir,
      'dataset.dir': values.data_dir,
      'mesh.data': values.data,
      'mesh.tower': values.tower,
  }
  console = Console()
  report = replay.verify(
      pathlib.Path(values.workdir).expanduser(),
      console,
      checkpoint=values.checkpoint,
      steps=values.steps,
      overrides={k: v for k, v in given.items() if v is not None},
  )
  for line in lines(report):
    console.print(line)
  return 1 if report.differences else 0


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run; it is only read.')
  flags.DEFINE_integer(
      'checkpoint', None,
      'Step of the checkpoint to begin at; unset: the second newest, or the '
      'newest if there is no other.'
  )
  flags.DEFINE_integer(
      'steps', None,
      'Steps to replay; unset: up to the next checkpoint, or 10, even beyond '
      "the run's end, if there is none. Where they do not end at a checkpoint "
      'they are replayed twice.',
      lower_bound=1,
  )
  flags.DEFINE_string('train_dir', None, 'Where the training folder is now.')
  flags.DEFINE_string('eval_dir', None, 'Where the evaluation folder is now.')
  flags.DEFINE_string(
      'data_dir', None, 'Where prepared data or TensorFlow Datasets are now.'
  )
  flags.DEFINE_integer('data', None, "Replicas; unset: as in the run's config.")
  flags.DEFINE_integer(
      'tower', None, "Devices for the towers; unset: as in the run's config."
  )
  flags.mark_flag_as_required('workdir')
  cli.run(main)
