"""Evaluates runs again, finished or not.

  python -m alexnet.evaluate --workdir=runs/alexnet

evaluates the newest checkpoint of a run (with --step=best, the one of its best
evaluation) with the centre crop and with ten views (paper §4.1).

  python -m alexnet.evaluate --workdir=runs/alexnet --views=dense \
      --scales=256,288

evaluates it at all positions of the whole squares at each of these scales, and
with their mean (docs/dense.md).

  python -m alexnet.evaluate --workdir=runs/a --workdir=runs/b

evaluates several runs and the mean of their predictions.
"""

from absl import app, flags

from alexnet.inference import run_flags
from alexnet.metrics.console import VIEWS, Console, format_result
from alexnet.runtime import compilation_cache, heap, settings
from alexnet.runtime.gpu import accelerators
from input_pipeline import cli
from input_pipeline.files import paths

_DENSE = 'dense'


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.evaluate`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  settings.fix()
  accelerators.take_memory_as_needed()
  # JAX and TensorFlow, which --help does not need.
  from alexnet.checkpointing import manager
  from alexnet.evaluation import dense_views, ensemble, session
  from alexnet.inference import fully_convolutional

  heap.keep_freed()
  compilation_cache.use_cache()
  console = Console()
  values = flags.FLAGS
  overrides = run_flags.moved()
  if values.tower is not None:
    overrides['mesh.tower'] = values.tower
  workdirs = values.workdir
  scales = fully_convolutional.parse_scales(values.scales)
  weights = ensemble.parse_weights(values.weights, len(workdirs))
  step = manager.parse_step(values.step)
  if len(workdirs) > 1:
    ensemble.evaluate(
        workdirs, weights, values.views, console, overrides, scales, step
    )
    return
  run = session.open_run(workdirs[0], console, overrides, step)
  for views in values.views:
    if views == _DENSE:
      dense_views.evaluate(run, scales, console)
      continue
    console.print(format_result(views, run.evaluate(views)))


if __name__ == '__main__':
  paths.define_several(
      'workdir', None,
      'Folder of the run to evaluate. Repeat it to evaluate several runs.'
  )
  flags.DEFINE_list(
      'weights', None,
      'Weights of several runs, such as 0.7,0.3. Default: equal weights.'
  )
  flags.DEFINE_multi_enum(
      'views', list(VIEWS), (*VIEWS, _DENSE),
      'Views to evaluate with. Repeat it for several kinds of views.'
  )
  flags.DEFINE_string(
      'step', None,
      "Step of the checkpoint to evaluate, or 'best' for that of the best "
      'evaluation. Default: the newest.'
  )
  flags.DEFINE_list(
      'scales', None,
      'Sides of the squares for dense views, in pixels, such as 256,288. '
      'Default: as for other views.'
  )
  run_flags.define_moved()
  flags.DEFINE_integer('tower', None, 'Number of devices for the towers.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)
