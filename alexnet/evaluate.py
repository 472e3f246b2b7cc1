"""Exact evaluation: every example of the evaluation set counts once.

  python -m alexnet.evaluate --workdir=runs/alexnet

evaluates the newest checkpoint of a run again, with the centre crop and with
ten views (paper §4.1).
"""

import collections
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags
from jax.sharding import Mesh

from alexnet import cli, metrics, partitioning
from input_pipeline.pipeline import Pipeline

VIEWS = ('centre', 'ten')
TEN = 10


class Interrupted(Exception):
  """The evaluation was asked to stop."""


def evaluate(
    eval_step: Callable[[Any, Any], dict[str, jax.Array]],
    params: Any,
    pipeline: Pipeline,
    *,
    mesh: Mesh,
    batch_size: int,
    views: str,
    console: metrics.Console | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
  """Evaluates parameters on the whole evaluation set.

  Args:
    eval_step: from `train_step.make_eval_step`, for these views.
    params: the parameters.
    pipeline: the data.
    mesh: that eval_step was made for.
    batch_size: examples in a batch of centre crops.
    views: 'centre' or 'ten'; the latter are five where training does not
      mirror images.
    console: where to show progress.
    stop: asked between batches.

  Returns:
    'top1' and 'top5' accuracy from 0 to 1, 'loss', 'count', the number of
    examples, and 'views', the number of views of each. With fewer than six
    classes top5 is always 1.

  Raises:
    Interrupted: stop() was true.
  """
  if views == 'ten':
    # About as many crops at once as without the views, to fit the memory.
    data = mesh.shape[partitioning.DATA]
    batch_size = -(-batch_size // TEN // data) * data
  total = len(pipeline.evaluation)
  sums = collections.Counter()
  batches = pipeline.evaluation_batches(batch_size)
  for batch in partitioning.put_ahead(batches, mesh):
    if stop():
      raise Interrupted
    result = eval_step(params, batch)
    # Batch sums are float32, but added up as Python floats: exact counts.
    for name, value in jax.device_get(result).items():
      sums[name] += float(value)
    if console:
      console.progress(
          f'evaluating, {views} {"view" if views == "centre" else "views"}: '
          f'{sums["count"]:,.0f} of {total:,} images',
          transient=True,
      )
  count = sums['count']
  assert count == total, f'{count} of {total} examples were evaluated'
  return {
      **{name: sums[name] / count for name in ('loss', 'top1', 'top5')},
      'count': int(count),
      'views': round(sums['views'] / count),
  }


def format_result(views: str, result: dict[str, float]) -> str:
  """One line about a result of `evaluate`, in percent."""
  name = {'centre': 'centre crop', 'ten': 'ten views'}[views]
  note = f'{result["count"]:,} images'
  if views == 'ten' and result['views'] < TEN:
    note += ', without mirror images: training has none'
  return (
      f'{name:12s} top-1 {result["top1"]:7.2%}   top-5 {result["top5"]:7.2%}   '
      f'loss {result["loss"]:.4f}   ({note})'
  )


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.evaluate`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  from alexnet import train  # It imports this module.

  console = metrics.Console()
  values = flags.FLAGS
  given = {
      'dataset.train_dir': values.train_dir,
      'dataset.eval_dir': values.eval_dir,
      'dataset.dir': values.data_dir,
      'mesh.tower': values.tower,
  }
  overrides = {k: v for k, v in given.items() if v is not None}
  run = train.open_run(pathlib.Path(values.workdir), console, overrides)
  for views in values.views:
    console.print(format_result(views, run.evaluate(views)))


if __name__ == '__main__':
  # Here, because main.py has a flag of the same name and imports this module.
  flags.DEFINE_string('workdir', None, 'Folder of the run to evaluate.')
  flags.DEFINE_multi_enum(
      'views', list(VIEWS), VIEWS, 'Views to evaluate with; may be repeated.'
  )
  flags.DEFINE_string('train_dir', None, 'Where the training folder is now.')
  flags.DEFINE_string('eval_dir', None, 'Where the evaluation folder is now.')
  flags.DEFINE_string(
      'data_dir', None, 'Where prepared data or TensorFlow Datasets are now.'
  )
  flags.DEFINE_integer(partitioning.TOWER, None, 'Devices for the towers.')
  flags.mark_flag_as_required('workdir')
  cli.run(main)
