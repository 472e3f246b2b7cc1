"""Evaluation with dense views, described in inference/fully_convolutional.py.

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
    scales: lengths of the shorter side in pixels, see `check_scales`.
    console: console on which each result is printed when it is complete.

  Returns:
    The result of the mean over all scales, see `evaluator.evaluate`.

  Raises:
    ConfigError: a scale is invalid.
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
  """Predicts the classes of the evaluation set from the squares of its images.

  Args:
    session: an open run.
    scales: sides of the squares in pixels, see `check_scales`.
    console: console for progress.

  Returns:
    The mean over the scales, and over all positions of a square and of its
    mirror image, if training mirrors images. `views` is the number of positions
    of all scales and mirror images.
  """
  return mean([_predict_at(session, scale, console) for scale in scales])


def mean(predictions: Sequence[Predictions]) -> Predictions:
  """Averages probabilities, with equal weights; adds up the views."""
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
