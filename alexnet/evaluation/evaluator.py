"""Evaluates networks exactly: each example counts once.

The command is `python -m alexnet.evaluate`.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet.metrics.console import TEN, Console, Silence
from alexnet.ops import losses
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import preemption, sharding
from input_pipeline.pipeline import Pipeline

# Images whose predictions are scored in one go.
_SCORED_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Predictions for every image of an evaluation set, in order.

  Attributes:
    log_probabilities: [images, classes] float32, of the mean of the views.
    labels: [images] int32.
    views: number of views of each image.
  """

  log_probabilities: np.ndarray
  labels: np.ndarray
  views: int


def evaluate(
    eval_step: Callable[[Any, Any], dict[str, jax.Array]],
    variables: Any,
    pipeline: Pipeline,
    *,
    mesh: Mesh,
    batch_size: int,
    views: str,
    console: Console | None = None,
    stop: Callable[[], bool] = lambda: False,
    give_up: Callable[[], bool] | None = None,
) -> dict[str, float]:
  """Evaluates a network on the whole evaluation set.

  Args:
    eval_step: from `eval_steps.make_eval_step`, for these views.
    variables: of the network, best from `rounded`.
    pipeline: the data.
    mesh: that eval_step was made for.
    batch_size: examples in a batch of centre crops.
    views: 'centre' or 'ten'; the latter are five where training does not
      mirror images.
    console: where to show progress.
    stop: asked between batches, by all processes of a run.
    give_up: asked while a batch is waited for, by each for itself.

  Returns:
    'top1' and 'top5' accuracy from 0 to 1, 'loss', 'count', the number of
    examples, and 'views', the number of views of each. With fewer than six
    classes top5 is always 1.

  Raises:
    preemption.Stopped: stop() or give_up() was true.
  """
  total = len(pipeline.evaluation)
  sums = collections.Counter()
  batches = _batches(pipeline, mesh, batch_size, views, give_up=give_up)
  with (console or Silence()).bar(f'evaluating, {views}', total) as bar:
    for batch in batches:
      if stop():
        raise preemption.Stopped
      _add(sums, eval_step(variables, batch))
      bar.update(int(sums['count']) - bar.n)
  return _means(sums, total)


def predict(
    predict_step: Callable[[Any, Any], dict[str, jax.Array]],
    variables: Any,
    pipeline: Pipeline,
    *,
    mesh: Mesh,
    batch_size: int,
    views: str,
    console: Console | None = None,
    image_size: int | None = None,
) -> Predictions:
  """Predicts the classes of the whole evaluation set.

  Args:
    predict_step: from `eval_steps.make_predict_step`, for these views.
    variables: of the network, best from `rounded`.
    pipeline: the data.
    mesh: that predict_step was made for.
    batch_size: examples in a batch of centre crops.
    views: 'centre' or 'ten', see `evaluate`, or 'dense'; only for progress,
      and for the size of the batches of ten views.
    console: where to show progress.
    image_size: side of the squares that predict_step is given, in pixels; None:
      the config's.

  Returns:
    The predictions, whatever the mesh and the batch size.
  """
  total, count = len(pipeline.evaluation), 0
  log_probabilities, labels = None, np.empty(total, np.int32)
  batches = _batches(pipeline, mesh, batch_size, views, image_size)
  with (console or Silence()).bar(f'evaluating, {views}', total) as bar:
    for batch in batches:
      result = jax.device_get(predict_step(variables, batch))
      real = result['weight'] > 0
      if log_probabilities is None:
        classes = result['log_probabilities'].shape[1]
        log_probabilities = np.empty((total, classes), np.float32)
      new = slice(count, count + int(real.sum()))
      log_probabilities[new] = result['log_probabilities'][real]
      labels[new] = result['label'][real]
      bar.update(new.stop - count)
      count = new.stop
  _check_count(count, total)
  return Predictions(log_probabilities, labels, int(result['views'][0]))


def score(predictions: Predictions) -> dict[str, float]:
  """Scores existing predictions, as `evaluate` does."""
  total = len(predictions.labels)
  sums = collections.Counter()
  add_up = jax.jit(losses.score)
  for start in range(0, total, _SCORED_AT_ONCE):
    part = slice(start, start + _SCORED_AT_ONCE)
    labels = predictions.labels[part]
    weight = np.ones(len(labels), np.float32)
    _add(sums, add_up(predictions.log_probabilities[part], labels, weight))
  sums['views'] = predictions.views * total
  return _means(sums, total)


def _batches(
    pipeline, mesh, batch_size, views, image_size=None, give_up=None
) -> Iterator[Any]:
  if views == 'ten':
    # About as many crops at once as without the views, to fit the memory.
    batch_size = -(-batch_size // TEN)
  data = mesh.shape[mesh_lib.DATA]
  batch_size = -(-batch_size // data) * data
  batches = pipeline.evaluation_batches(batch_size, image_size)
  if give_up:
    batches = preemption.until(give_up, batches)
  return sharding.put_ahead(batches, mesh)


def _add(sums, result):
  # Batch sums are float32, but added up as Python floats: exact counts.
  for name, value in jax.device_get(result).items():
    sums[name] += float(value)


def _means(sums, total):
  count = sums['count']
  _check_count(count, total)
  return {
      **{name: sums[name] / count for name in ('loss', 'top1', 'top5')},
      'count': int(count),
      'views': round(sums['views'] / count),
  }


def _check_count(count, total):
  assert count == total, f'{count} of {total} examples were evaluated'
