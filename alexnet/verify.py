"""A determinism report: replays steps of a run, and compares bit by bit.

  python -m alexnet.verify --workdir=runs/alexnet

replays the steps from the second newest checkpoint to the newest one, if both
exist, and compares losses with metrics.jsonl and all parameters and velocities
with the newest checkpoint. Otherwise it replays the same steps twice from the
newest checkpoint, which shows whether this machine is deterministic. It also
lists how this machine and session differ from the run's. It writes nothing to
the workdir.

Exit status: 0 if all is equal to the bit; 1 if something differs or cannot be
compared.
"""

from typing import TYPE_CHECKING

from absl import app, flags

from alexnet.inference import run_flags
from alexnet.runtime import compilation_cache, heap, settings
from alexnet.runtime.gpu import accelerators
from input_pipeline import cli
from input_pipeline.files import paths

if TYPE_CHECKING:
  from alexnet.training.replay import Report


def lines(report: 'Report') -> list[str]:
  """Formats a report as lines of text."""
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
  settings.fix()
  accelerators.take_memory_as_needed()
  # JAX and TensorFlow, which --help does not need.
  from alexnet.metrics.console import Console
  from alexnet.training import replay

  heap.keep_freed()
  compilation_cache.use_cache()
  values = flags.FLAGS
  given = {'mesh.data': values.data, 'mesh.tower': values.tower}
  console = Console()
  report = replay.verify(
      values.workdir,
      console,
      checkpoint=values.checkpoint,
      steps=values.steps,
      overrides=run_flags.moved()
      | {k: v for k, v in given.items() if v is not None},
  )
  for line in lines(report):
    console.print(line)
  return 1 if report.differences else 0


if __name__ == '__main__':
  paths.define('workdir', 'Folder of the run; nothing is written there.')
  flags.DEFINE_integer(
      'checkpoint', None,
      'Step of the checkpoint to begin at. Default: the second newest, or the '
      'newest if there is no other.'
  )
  flags.DEFINE_integer(
      'steps', None,
      'Number of steps to replay. Default: up to the next checkpoint, or if '
      "there is none 10, even beyond the run's end. Steps that do not end at a "
      'checkpoint are replayed twice.',
      lower_bound=1,
  )
  run_flags.define_moved()
  flags.DEFINE_integer(
      'data', None, "Number of replicas. Default: as in the run's config."
  )
  flags.DEFINE_integer(
      'tower', None,
      "Number of devices for the towers. Default: as in the run's config."
  )
  flags.mark_flag_as_required('workdir')
  cli.run(main)
