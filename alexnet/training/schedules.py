"""The learning rate of each parameter at each step, a pure function."""

import dataclasses
import math
from typing import Protocol

import ml_collections
import numpy as np

from alexnet.config.errors import ConfigError

KINDS = ('kernel', 'bias')
# By how much a batch that is `ratio` times the recipe's multiplies its rates.
# Krizhevsky 2014 (arXiv:1404.5997) derives the root from the variance of the
# gradient and finds the other better; Goyal et al. 2017 (arXiv:1706.02677).
BATCH_SCALINGS = {
    'none': lambda ratio: 1.0,
    'linear': lambda ratio: ratio,
    'sqrt': math.sqrt,
}
# {layer: {'kernel': rate, 'bias': rate}}; a layer may have more kernels.
Rates = dict[str, dict[str, float]]


class Bounds(Protocol):
  """What weights are kept in, see `optimizer.within_bounds`."""

  low: float
  high: float
  norm: float


class Rule(Protocol):
  """How one parameter is trained, where its network says so itself.

  Attributes:
    decay: of its weights.
    bounds: that they are kept in after each update, if any.
  """

  decay: float
  bounds: Bounds | None

  def rate_at(self, progress: float, normal: float) -> float:
    """The rate, at a share of the run and for a draw of a standard normal."""


# {layer: {parameter: rule}}
Rules = dict[str, dict[str, Rule]]


@dataclasses.dataclass
class Plateau:
  """State of the paper's rule: lower the rate when the error stops improving.

  It lives on the host, in the checkpoint's `progress`.

  Attributes:
    best_error: lowest validation error so far; None before the first.
    since_best: evaluations since the last drop or improvement.
    drops: how often the rate has been lowered.
  """

  best_error: float | None = None
  since_best: int = 0
  drops: int = 0

  def observe(
      self, error: float, schedule: ml_collections.ConfigDict
  ) -> bool:
    """Takes one more validation error; returns whether the rate drops now."""
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


def check_schedule(
    schedule: ml_collections.ConfigDict,
    layers: tuple[str, ...],
    rules: Rules | None = None,
) -> None:
  """Raises ConfigError if the `schedule` part of a config cannot be followed.

  Args:
    schedule: that part of a config.
    layers: names of the layers that have parameters.
    rules: of a network from a definition, None for others.
  """
  names = ('constant', 'plateau', 'steps', 'geometric')
  if rules is not None:
    names += ('definition',)
  if schedule.name not in names:
    raise ConfigError(
        f"schedule.name is '{schedule.name}', wanted one of {names}"
    )
  if schedule.learning_rate <= 0:
    raise ConfigError(
        f'schedule.learning_rate is {schedule.learning_rate}: wanted > 0'
    )
  if schedule.batch_scaling not in BATCH_SCALINGS:
    raise ConfigError(
        f"schedule.batch_scaling is '{schedule.batch_scaling}', wanted one of "
        f'{tuple(BATCH_SCALINGS)}'
    )
  if schedule.reference_batch_size < 1:
    raise ConfigError(
        'schedule.reference_batch_size is '
        f'{schedule.reference_batch_size}: wanted at least 1 example, the '
        'batch_size that schedule.learning_rate was chosen for'
    )
  if not 0 <= schedule.warmup_epochs < math.inf:
    raise ConfigError(
        f'schedule.warmup_epochs is {schedule.warmup_epochs}: wanted a number '
        'of epochs >= 0; 0 for no warm-up'
    )
  if schedule.name == 'plateau' and schedule.plateau.patience < 1:
    raise ConfigError(
        f'schedule.plateau.patience is {schedule.plateau.patience}: wanted '
        'at least 1 evaluation'
    )
  if schedule.name == 'geometric' and not schedule.geometric.factors:
    raise ConfigError('schedule.geometric.factors is empty: wanted one a stage')
  for step in schedule.steps:
    if (
        not isinstance(step, (tuple, list))
        or len(step) != 4
        or step[1] not in (*layers, 'all')
        or step[2] not in (*KINDS, 'both')
        or step[3] < 0
    ):
      raise ConfigError(
          f"schedule.steps has {step}: wanted (epoch, layer or 'all', 'kernel' "
          f"or 'bias' or 'both', rate >= 0) with a layer of {layers}"
      )


def check_rate_factors(
    factors: tuple[tuple[str, float], ...], layers: tuple[str, ...]
) -> None:
  """Raises ConfigError if `optimizer.layer_rate_factors` cannot be followed.

  Args:
    factors: that field of a config.
    layers: names of the layers that have parameters.
  """
  for entry in factors:
    if (
        not isinstance(entry, (tuple, list))
        or len(entry) != 2
        or entry[0] not in layers
        or not isinstance(entry[1], (int, float))
        or not 0 <= entry[1] < math.inf
    ):
      raise ConfigError(
          f'optimizer.layer_rate_factors has {entry!r}: wanted (layer, factor '
          f">= 0), such as ('conv1', 0.1), with a layer of {layers}"
      )
  named = [layer for layer, _ in factors]
  if len(set(named)) < len(named):
    raise ConfigError(
        f'optimizer.layer_rate_factors is {factors!r}: wanted each layer once'
    )


def rates_at(
    config: ml_collections.ConfigDict,
    layers: tuple[str, ...],
    *,
    step: int,
    total_steps: int,
    steps_per_epoch: float,
    plateau: Plateau,
    rules: Rules | None = None,
) -> Rates:
  """The learning rates of one step: a pure function, computed on the host.

  Args:
    config: the whole config; reads schedule, optimizer, batch_size and seed.
    layers: names of the layers that have parameters.
    step: updates made so far.
    total_steps: updates of the whole run, for the geometric stages.
    steps_per_epoch: to turn steps into epochs.
    plateau: the plateau rule's state; used by that schedule only.
    rules: of each parameter, of a network from a definition.

  Returns:
    The rate of each layer's kernel and bias.
  """
  schedule = config.schedule
  kinds = {layer: rules[layer] if rules else KINDS for layer in layers}
  kernel = schedule.learning_rate
  bias_factor = config.optimizer.bias_rate_multiplier
  if schedule.name == 'geometric':
    factors = schedule.geometric.factors
    # A stage's last update is at its end, as in the authors' `dexp`.
    stage = -(-step * len(factors) // max(1, total_steps)) - 1
    stage = min(max(stage, 0), len(factors) - 1)
    bias = kernel * bias_factor  # The stages are of the kernels only.
    kernel *= factors[stage]
    if 2 * step > total_steps:
      bias *= schedule.geometric.bias_factor_half_way
  else:
    if schedule.name == 'plateau':
      kernel *= schedule.plateau.factor**plateau.drops
    bias = kernel * bias_factor
  if schedule.name == 'definition':
    rates = _rates_of_rules(rules, step, total_steps, config.seed)
  else:
    rates = {
        layer: {kind: bias if kind == 'bias' else kernel for kind in of_layer}
        for layer, of_layer in kinds.items()
    }
  if schedule.name in ('steps', 'geometric', 'definition'):
    epoch = step / steps_per_epoch
    for start, layer, kind, rate in sorted(schedule.steps, key=lambda s: s[0]):
      if epoch >= start:
        for name in layers if layer == 'all' else (layer,):
          for k in kinds[name]:
            # A layer that reads several others has kernel, kernel1, ...
            if kind == 'both' or k.startswith(kind):
              rates[name][k] = rate
  factors = dict.fromkeys(
      layers, _factor(schedule, config.batch_size, step, steps_per_epoch)
  )
  for layer, factor in config.optimizer.layer_rate_factors:
    factors[layer] *= factor
  return {
      layer: {kind: factors[layer] * rate for kind, rate in of_layer.items()}
      for layer, of_layer in rates.items()
  }


def _factor(schedule, batch_size, step, steps_per_epoch):
  """Of all rates: for the size of the batch, and while warming up."""
  ratio = batch_size / schedule.reference_batch_size
  factor = BATCH_SCALINGS[schedule.batch_scaling](ratio)
  warmup_steps = schedule.warmup_epochs * steps_per_epoch
  if step + 1 < warmup_steps:
    # Not from 0, which would freeze the first step's velocity.
    factor *= (step + 1) / warmup_steps
  return factor


def _rates_of_rules(rules, step, total_steps, seed):
  progress = step / max(1, total_steps)
  normal = np.random.default_rng((seed % 2**63, step)).standard_normal
  return {
      layer: {
          name: rule.rate_at(progress, normal())
          for name, rule in of_layer.items()
      }
      for layer, of_layer in rules.items()
  }
