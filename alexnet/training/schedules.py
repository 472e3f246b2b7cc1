"""Learning rates of each parameter, as a pure function of the step.

A schedule is a function in SCHEDULES from a `Moment` to {path: rate}.
`rates_at` multiplies its result by the factors of layers, batch size and
warmup.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import ml_collections
import numpy as np

from alexnet.config.errors import ConfigError
from alexnet.models.parameters import (
  BIASES,
  by_path,
  last_match,
  map_with_path,
  matches,
)

# Factors of the learning rates for a batch `ratio` times the size of the
# recipe's. Krizhevsky 2014 (arXiv:1404.5997) derives the square root from the
# variance of the gradient and finds linear scaling better; for the latter see
# also Goyal et al. 2017 (arXiv:1706.02677).
BATCH_SCALINGS = {
    'none': lambda ratio: 1.0,
    'linear': lambda ratio: ratio,
    'sqrt': math.sqrt,
}


class Bounds(Protocol):
  """Bounds of weights, see `optimizer.within_bounds`."""

  low: float
  high: float
  norm: float


class Rule(Protocol):
  """Training rule of one parameter of a network from a definition file.

  Attributes:
    decay: weight decay.
    bounds: bounds of the weights after each update, if any.
  """

  decay: float
  bounds: Bounds | None

  def rate_at(self, progress: float, normal: float) -> float:
    """Returns the learning rate.

    Args:
      progress: completed share of the run, 0 to 1.
      normal: sample from a standard normal distribution.
    """


# Same structure as the parameters: {layer: {parameter: rule}}.
Rules = dict[str, Any]


@dataclasses.dataclass
class Plateau:
  """State of the paper's rule: lower the rate when the error stops improving.

  It is kept on the host and saved in the checkpoint's `progress`.

  Attributes:
    best_error: lowest validation error so far; None before the first.
    since_best: number of evaluations since the last drop or improvement.
    drops: number of drops of the rate so far.
  """

  best_error: float | None = None
  since_best: int = 0
  drops: int = 0

  def observe(
      self, error: float, schedule: ml_collections.ConfigDict
  ) -> bool:
    """Updates the state with a validation error.

    Args:
      error: top-1 error from 0 to 1.
      schedule: the `schedule` part of a config; reads plateau.

    Returns:
      Whether the rate drops now.
    """
    if self.best_error is None or error < self.best_error:
      self.best_error, self.since_best = error, 0
      return False
    self.since_best += 1
    rule = schedule.plateau
    if self.since_best < rule.patience or self.drops >= rule.max_drops:
      return False
    self.since_best = 0
    self.drops += 1
    return True


@dataclasses.dataclass(frozen=True)
class Moment:
  """Inputs of a schedule before a step.

  Attributes:
    config: the whole config.
    paths: paths of the parameters, such as 'conv1/kernel'.
    step: number of updates made so far.
    total_steps: number of updates of the whole run.
    steps_per_epoch: steps per epoch of the training set; may be fractional.
    plateau: state of the plateau rule.
    rules: rules of a network from a definition file; None for other networks.
  """

  config: ml_collections.ConfigDict
  paths: tuple[str, ...]
  step: int
  total_steps: int
  steps_per_epoch: float
  plateau: Plateau
  rules: Rules | None

  def rates(
      self, rate: float, of_biases: float | None = None
  ) -> dict[str, float]:
    """Returns {path: rate} with one rate for biases and one for the others.

    Args:
      rate: rate of parameters other than biases.
      of_biases: rate of biases; None for `rate` times
        config.optimizer.bias_rate_multiplier.
    """
    if of_biases is None:
      of_biases = rate * self.config.optimizer.bias_rate_multiplier
    return {
        path: of_biases if matches(BIASES, path) else rate
        for path in self.paths
    }


def _constant(at):
  return at.rates(at.config.schedule.learning_rate)


def _plateau(at):
  schedule = at.config.schedule
  drops = at.plateau.drops
  return at.rates(schedule.learning_rate * schedule.plateau.factor**drops)


def _steps(at):
  return _changed_by_steps(at, _constant(at))


def _geometric(at):
  schedule, optimizer = at.config.schedule, at.config.optimizer
  factors = schedule.geometric.factors
  # A stage's last update is at its end, as in the authors' `dexp`.
  stage = -(-at.step * len(factors) // max(1, at.total_steps)) - 1
  stage = min(max(stage, 0), len(factors) - 1)
  rate = schedule.learning_rate
  of_biases = rate * optimizer.bias_rate_multiplier  # Biases have no stages.
  if 2 * at.step > at.total_steps:
    of_biases *= schedule.geometric.bias_factor_half_way
  return _changed_by_steps(at, at.rates(rate * factors[stage], of_biases))


def _definition(at):
  progress = at.step / max(1, at.total_steps)
  seed = at.config.seed % 2**63, at.step
  normal = np.random.default_rng(seed).standard_normal
  return _changed_by_steps(at, {
      path: rule.rate_at(progress, normal())
      for path, rule in by_path(at.rules).items()
  })


def _changed_by_steps(at, rates):
  """Returns the rates with the changes of `schedule.steps` up to this epoch."""
  steps = sorted(at.config.schedule.steps, key=lambda step: step[0])
  for start, *where, rate in steps:
    if at.step / at.steps_per_epoch >= start:
      rates |= dict.fromkeys(_paths_of(*where, at.paths), rate)
  return rates


def _paths_of(layer, kind, paths):
  """Returns the paths that match a layer and kind of `schedule.steps`."""
  layer = '*' if layer == 'all' else layer
  # A layer that reads several others has kernel, kernel1, ...
  kind = '*' if kind == 'both' else f'*/{kind}*'
  return [
      path for path in paths if matches(layer, path) and matches(kind, path)
  ]


SCHEDULES: dict[str, Callable[[Moment], dict[str, float]]] = {
    'constant': _constant,
    'plateau': _plateau,
    'steps': _steps,
    'geometric': _geometric,
    'definition': _definition,
}


def check_paths(config: ml_collections.ConfigDict, params: Any) -> None:
  """Raises ConfigError if a field names parameters that do not exist.

  Args:
    config: the whole config.
    params: nested dictionaries whose keys are the names of the parameters.
  """
  paths = tuple(by_path(params))
  optimizer, layers = config.optimizer, ', '.join(sorted(params))
  for field in ('layer_rate_factors', 'layer_decay_factors'):
    for entry in optimizer.get(field, ()):
      if not any(matches(entry[0], path) for path in paths):
        raise ConfigError(
            f'optimizer.{field} has {entry!r}: expected (layer, factor), or '
            "for a layer the path of parameters, such as 'LAYER/bias', with "
            f'one of {layers}'
        )
  for entry in config.schedule.steps:
    if not _paths_of(*entry[1:3], paths):
      raise ConfigError(
          f'schedule.steps has {entry!r}: expected (epoch, layer or path of '
          "parameters or 'all', 'kernel' or 'bias' or 'both', rate) with a "
          f'layer of {layers}'
      )


def rates_at(
    config: ml_collections.ConfigDict,
    params: Any,
    *,
    step: int,
    total_steps: int,
    steps_per_epoch: float,
    plateau: Plateau,
    rules: Rules | None = None,
) -> Any:
  """Computes the learning rates of one step, on the host.

  Args:
    config: the whole config; reads schedule, optimizer, batch_size and seed.
    params: nested dictionaries whose keys are the names of the parameters.
    step: number of updates made so far.
    total_steps: number of updates of the whole run, for the schedules
      'geometric' and 'definition'.
    steps_per_epoch: steps per epoch of the training set; may be fractional.
    plateau: state of the plateau rule; only used by that schedule.
    rules: rules of the parameters, for the schedule 'definition'.

  Returns:
    The rate of each parameter, in nested dictionaries like `params`.
  """
  at = Moment(
      config, tuple(by_path(params)), step, total_steps, steps_per_epoch,
      plateau, rules,
  )
  rates = SCHEDULES[config.schedule.name](at)
  of_all = _factor(at)

  def rate(path, _):
    _, factor = last_match(config.optimizer.layer_rate_factors, path) or (0, 1)
    return of_all * factor * rates[path]

  return map_with_path(rate, params)


def _factor(at):
  """Returns the factor of all rates for batch size and warmup."""
  schedule = at.config.schedule
  ratio = at.config.batch_size / schedule.reference_batch_size
  factor = BATCH_SCALINGS[schedule.batch_scaling](ratio)
  warmup_steps = schedule.warmup_epochs * at.steps_per_epoch
  if at.step + 1 < warmup_steps:
    # Starts above 0, since a rate of 0 would freeze the velocity.
    factor *= (at.step + 1) / warmup_steps
  return factor
