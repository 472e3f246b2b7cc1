"""Dense views of an evaluation set.

What they are is in inference/fully_convolutional.py.

The command is `python -m alexnet.evaluate --views=dense`.
"""

import functools
from collections.abc import Sequence

import numpy as np

from alexnet import models
from alexnet.evaluation import eval_steps, evaluator
from alexnet.evaluation.evaluator import Predictions
from alexnet.evaluation.session import Session
from alexnet.inference.fully_convolutional import batch_size_for, check_scales
from alexnet.metrics.console import Console, format_result
from alexnet.models.inference_params import rounded


def evaluate(
    session: Session, scales: Sequence[int] | None, console: Console
) -> dict[str, float]:
  """Evaluates a run at each scale and with their mean, and shows the results.

  Args:
    session: an open run.
    scales: see `check_scales`.
    console: where results are shown as soon as they are there.

  Returns:
    The result of all scales, see `evaluator.evaluate`.
  """
  parts = []
  scales = check_scales(scales, session.config)
  for scale in scales:
    parts.append(_predict_at(session, scale, console))
    result = evaluator.score(parts[-1])
    line = format_result('dense', result)
    console.print(f'{line}, {scale} pixels')
  if len(scales) > 1:
    result = evaluator.score(mean(parts))
    line = format_result('dense', result)
    console.print(f'{line}, mean of {len(scales)} scales')
  return result


def predict(
    session: Session, scales: Sequence[int], console: Console | None = None
) -> Predictions:
  """Predictions for the evaluation set, of the squares of other views.

  Args:
    session: an open run.
    scales: sides of the squares, see `check_scales`.
    console: where to show progress.

  Returns:
    The mean over the scales of the mean over all places of a square and of its
    mirror image, if training has any; `views` is the number of all of these.
  """
  return mean([_predict_at(session, scale, console) for scale in scales])


def mean(predictions: Sequence[Predictions]) -> Predictions:
  """The mean of the probabilities; the views add up."""
  total = functools.reduce(
      np.logaddexp, [one.log_probabilities for one in predictions]
  )
  return Predictions(
      total - np.float32(np.log(len(predictions))),
      predictions[0].labels,
      sum(one.views for one in predictions),
  )


def _predict_at(session, scale, console):
  task = session.task
  step = eval_steps.make_predict_step(
      model=models.everywhere(task.model),
      mesh=task.mesh,
      variables=task.shapes,
      images=task.views.dense,
      deterministic=task.config.deterministic,
  )
  return evaluator.predict(
      step,
      rounded(session.variables, task.model.dtype),
      task.pipeline,
      mesh=task.mesh,
      batch_size=batch_size_for(task.config, scale**2),
      views='dense',
      console=console,
      image_size=scale,
  )
