"""Ensembles: averaged predictions of several runs (paper §6: 5 and 7 CNNs).

The command is `python -m alexnet.evaluate` with several --workdir.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from alexnet.checkpointing import manager
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.evaluation import dense_views, evaluator, session
from alexnet.evaluation.evaluator import Predictions
from alexnet.inference import fully_convolutional, loading
from alexnet.metrics.console import Console, format_result
from input_pipeline import datasets


class Mean:
  """Running weighted mean of probabilities.

  It is kept as a logarithm, so that a probability too small for float32 does
  not become 0, and its class keeps its rank and its loss.
  """

  def __init__(self):
    self._sum: np.ndarray | None = None
    self._labels: np.ndarray | None = None
    self._weight = 0.0
    self._views: list[int] = []

  def add(self, predictions: Predictions, weight: float) -> None:
    """Adds a run's predictions for the same images and classes.

    Args:
      predictions: predictions of the run; their log probabilities are
        overwritten and must not be used afterwards.
      weight: weight > 0; weights need not sum to 1.
    """
    weighted = predictions.log_probabilities
    weighted += np.float32(math.log(weight))
    if self._sum is None:
      self._sum, self._labels = weighted, predictions.labels
    else:
      np.logaddexp(self._sum, weighted, out=self._sum)
    self._weight += weight
    self._views.append(predictions.views)

  def predictions(self) -> Predictions:
    """Returns the mean; its number of views is the smallest of any run."""
    log_weight = np.float32(math.log(self._weight))
    return Predictions(
        self._sum - log_weight, self._labels, min(self._views)
    )


def parse_weights(given: Sequence[str] | None, runs: int) -> list[float]:
  """Parses --weights.

  Args:
    given: a number for each run; None for equal weights.
    runs: number of runs.

  Returns:
    Positive weights whose sum is 1.

  Raises:
    ConfigError: there is not a positive number for each run.
  """
  if given is None:
    return [1 / runs] * runs
  try:
    weights = [float(text) for text in given]
  except ValueError:
    weights = []
  if len(weights) != runs or not all(0 < w < math.inf for w in weights):
    raise ConfigError(
        f'--weights is {",".join(given)}: expected a positive number for each '
        f'of the {runs} --workdir, such as '
        + ','.join(['1'] * runs)
    )
  return [weight / sum(weights) for weight in weights]


def evaluate(
    workdirs: Sequence[pathlib.Path],
    weights: Sequence[float],
    views: Iterable[str],
    console: Console,
    overrides: dict[str, Any] | None = None,
    scales: Sequence[int] | None = None,
    step: int | str = manager.NEWEST,
) -> dict[str, dict[str, float]]:
  """Evaluates several runs, and the mean of their predictions.

  One run is open at a time. One array [images, classes] per kind of views is
  kept for all runs.

  Args:
    workdirs: folders of the runs.
    weights: weights of the runs, from `parse_weights`.
    views: some of 'centre', 'ten' and 'dense'.
    console: console on which each result is printed when it is complete.
    overrides: {dotted field: value} for all runs, see `session.open_run`.
    scales: scales of dense views, see `fully_convolutional.check_scales`.
    step: the checkpoint of each run, see `manager.Checkpoints.find`.

  Returns:
    {views: result of the ensemble}, see `evaluator.evaluate`. 'views' in a
    result is the smallest number of any run.

  Raises:
    CheckpointError: a folder has no run, or the runs do not have the same
      images and classes.
  """
  views = tuple(views)
  means = {name: Mean() for name in views}
  _check_sets([_Set.of(workdir, overrides) for workdir in workdirs])
  for workdir, weight in zip(workdirs, weights):
    opened = session.open_run(workdir, console, overrides, step)
    console.print(f'{workdir}, step {opened.step:,}:')
    for name in views:
      if name == 'dense':
        run_scales = fully_convolutional.check_scales(scales, opened.config)
        predictions = dense_views.predict(opened, run_scales, console)
      else:
        predictions = opened.predict(name)
      result = evaluator.score(predictions)
      console.print('  ' + format_result(name, result))
      means[name].add(predictions, weight)
    del opened, predictions  # Frees memory for the next run.
  equal = len(set(weights)) == 1
  console.print(
      f'ensemble of {len(workdirs)} runs'
      + ('' if equal else ', weights ' + ', '.join(f'{w:.3g}' for w in weights))
      + ':'
  )
  results = {}
  for name in views:
    results[name] = evaluator.score(means[name].predictions())
    console.print('  ' + format_result(name, results[name]))
  return results


@dataclasses.dataclass(frozen=True)
class _Set:
  """The evaluation set of a run."""

  workdir: pathlib.Path
  name: str
  identity: str
  classes: tuple[str, ...]
  outputs: int

  @classmethod
  def of(cls, workdir, overrides):
    config = loading.config_of_run(workdir, overrides)
    _, source = datasets.create_sources(config.dataset, config.seed)
    return cls(
        workdir,
        source.name,
        source.identity(),
        tuple(source.class_names),
        config.model.num_classes,
    )


def _check_sets(sets):
  """Checks that evaluation sets agree, before the first evaluation."""
  first = sets[0]
  for other in sets[1:]:
    together = f'{first.workdir} and {other.workdir} cannot be averaged'
    if first.classes != other.classes:
      raise CheckpointError(
          f'{together}: the first has {_some(first.classes)}, the second '
          f'{_some(other.classes)}. Expected the same classes in the same order'
      )
    if first.outputs != other.outputs:
      raise CheckpointError(
          f'{together}: the first has {first.outputs} outputs, the second '
          f'{other.outputs} (model.num_classes). Expected equal numbers'
      )
    if first.identity != other.identity:
      raise CheckpointError(
          f'{together}: the first is evaluated on {first.name}, the second on '
          f'{other.name}, which are not the same images. Where they are held '
          'out of the training images, train with the same '
          '--config.dataset.split_seed; otherwise --eval_dir or --data_dir '
          'give both the same set'
      )


def _some(classes):
  shown = ', '.join(classes[:5]) + (', ...' if classes[5:] else '')
  return f'{len(classes)} classes ({shown})'
