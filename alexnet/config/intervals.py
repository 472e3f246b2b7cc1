"""Converts durations and intervals of a config to steps.

Durations in a config are 'N epochs', 'N steps', 'N examples', or 'never'.
"""

import dataclasses
import math
from typing import Any

import ml_collections

from alexnet.config.errors import ConfigError

WANTED = (
    "a positive number and a unit, such as '90 epochs', '300 steps' or '1000 "
    "examples'"
)
_UNITS = ('epoch', 'step', 'example')
# More than any run, and few enough for exact step counts.
_MOST = 1e12


@dataclasses.dataclass(frozen=True)
class Timetable:
  """The durations of a config, in steps.

  Attributes:
    total_steps: steps of the whole run.
    steps_per_epoch: steps per epoch of the training set; may be fractional.
    evaluate_every, checkpoint_every, log_every: intervals; None for never.
    lighting_steps: number of steps with the config's PCA lighting; None for
      all.
  """

  total_steps: int
  steps_per_epoch: float
  evaluate_every: int | None
  checkpoint_every: int | None
  log_every: int | None
  lighting_steps: int | None

  @classmethod
  def of(cls, config: ml_collections.ConfigDict, examples: int) -> 'Timetable':
    """Creates the timetable of a config for a number of training examples."""

    def steps(field):
      return to_steps(
          field,
          config[field],
          batch_size=config.batch_size,
          examples=examples,
      )

    steps_per_epoch = examples / config.batch_size
    until = config.augmentation.lighting_until_epoch
    return cls(
        total_steps=steps('duration'),
        steps_per_epoch=steps_per_epoch,
        evaluate_every=steps('evaluate_every'),
        checkpoint_every=steps('checkpoint_every'),
        log_every=steps('log_every'),
        lighting_steps=(
            None if until is None else math.ceil(until * steps_per_epoch)
        ),
    )


def is_due(step: int, every: int | None) -> bool:
  """Returns whether an action with interval `every` is due after `step`."""
  return every is not None and step > 0 and step % every == 0


def is_valid(duration: Any) -> bool:
  """Returns whether the text is a duration other than 'never'."""
  return _parse(duration) is not None


def _parse(duration):
  """Returns (number, unit), or None."""
  words = duration.split() if isinstance(duration, str) else ()
  if len(words) != 2 or words[1].removesuffix('s') not in _UNITS:
    return None
  try:
    number = float(words[0])
  except ValueError:
    return None
  # The comparison also refuses NaN.
  return (number, words[1].removesuffix('s')) if 0 < number <= _MOST else None


def to_steps(
    field: str, duration: str, *, batch_size: int, examples: int
) -> int | None:
  """Converts a duration to steps.

  Args:
    field: name of the config's field, for error messages.
    duration: a number and a unit, such as '0.5 epochs' or '300 steps'.
    batch_size: number of examples in a step.
    examples: number of examples in an epoch.

  Returns:
    Number of steps, rounded up and at least 1; None for 'never'.

  Raises:
    ConfigError: the text is not a duration, or not positive.
  """
  if duration == 'never':
    return None
  parsed = _parse(duration)
  if parsed is None:
    raise ConfigError(
        f"{field} is '{duration}': expected {WANTED}, or 'never'"
    )
  number, unit = parsed
  examples_per = {'epoch': examples, 'step': batch_size, 'example': 1}[unit]
  # The tolerance avoids rounding up for a floating-point error, as in 0.1 * 3.
  return max(1, math.ceil(number * examples_per / batch_size - 1e-9))
