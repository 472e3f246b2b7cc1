"""Exact evaluation of networks: each example counts once.

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

# Number of images scored in one call.
_SCORED_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Predictions for every image of an evaluation set, in order.

  Attributes:
    log_probabilities: [images, classes] float32, logarithm of the mean
      probability over the views.
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
    stop: preemption.Stop | None = None,
) -> dict[str, float]:
  """Evaluates a network on the whole evaluation set.

  Args:
    eval_step: result of `eval_steps.make_eval_step` for these views.
    variables: variables of the network; faster if from `rounded`.
    pipeline: the data.
    mesh: mesh that eval_step was compiled for.
    batch_size: number of examples in a batch of centre crops.
    views: 'centre' or 'ten'; ten views are five if training does not mirror
      images.
    console: console for progress.
    stop: signal to stop, checked with each batch, and by a single process also
      while it waits for a batch.

  Returns:
    'top1' and 'top5', accuracies from 0 to 1; 'loss'; 'count', the number of
    examples; and 'views', the number of views of each. With fewer than six
    classes top5 is always 1.

  Raises:
    preemption.Stopped: a signal asked to stop before the last batch.
  """
  total = len(pipeline.evaluation)
  sums = collections.Counter()
  give_up = None if stop is None else stop.alone
  batches = _batches(pipeline, mesh, batch_size, views, give_up=give_up)

  def start():
    for batch in batches:
      yield eval_step(variables, batch)
      if stop is not None:
        stop.ask()

  with (console or Silence()).bar(f'evaluating, {views}', total) as bar:
    for result in _one_late(start()):
      _add(sums, result)
      bar.update(int(sums['count']) - bar.n)
      if stop is not None:
        stop.hear()
        if stop and sums['count'] < total:
          raise preemption.Stopped
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
    predict_step: result of `eval_steps.make_predict_step` for these views.
    variables: variables of the network; faster if from `rounded`.
    pipeline: the data.
    mesh: mesh that predict_step was compiled for.
    batch_size: number of examples in a batch of centre crops.
    views: 'centre' or 'ten', see `evaluate`, or 'dense'; only used to show
      progress and to make batches of ten views smaller.
    console: console for progress.
    image_size: side of the squares passed to predict_step, in pixels; None for
      the config's.

  Returns:
    The predictions, in the order of the evaluation set.
  """
  total, count = len(pipeline.evaluation), 0
  log_probabilities, labels = None, np.empty(total, np.int32)
  batches = _batches(pipeline, mesh, batch_size, views, image_size)
  with (console or Silence()).bar(f'evaluating, {views}', total) as bar:
    started = (predict_step(variables, batch) for batch in batches)
    for result in map(jax.device_get, _one_late(started)):
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
    # About as many crops as in a batch of centre crops, to limit memory use.
    batch_size = -(-batch_size // TEN)
  data = mesh.shape[mesh_lib.DATA]
  batch_size = -(-batch_size // data) * data
  batches = pipeline.evaluation_batches(batch_size, image_size)
  return sharding.put_ahead(batches, mesh, stop=give_up)


def _one_late(started: Iterator[Any]) -> Iterator[Any]:
  """Yields each item after the next one has been started.

  So the device computes while the host waits for a result.
  """
  before = None
  for one in started:
    if before is not None:
      yield before
    before = one
  if before is not None:
    yield before


def _add(sums, result):
  # Adding float32 sums of batches as Python floats keeps counts exact.
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
