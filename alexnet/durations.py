"""Durations in a config: 'N epochs', 'N steps', 'N examples', or 'never'."""

import math

from alexnet.errors import ConfigError


def to_steps(
    field: str, duration: str, *, batch_size: int, examples: int
) -> int | None:
  """Turns a duration into steps.

  Args:
    field: name of the config's field, for error messages.
    duration: a number and a unit, such as '0.5 epochs' or '300 steps'.
    batch_size: examples in a step.
    examples: examples in an epoch.

  Returns:
    Whole steps, rounded up and at least 1; None for 'never'.

  Raises:
    ConfigError: not a duration, or not more than zero.
  """
  if duration == 'never':
    return None
  words = str(duration).split()
  try:
    number, unit = float(words[0]), words[1].rstrip('s')
    examples_per = {'epoch': examples, 'step': batch_size, 'example': 1}[unit]
    if len(words) != 2 or not 0 < number < math.inf:
      raise ValueError
  except (IndexError, KeyError, ValueError):
    raise ConfigError(
        f"{field} is '{duration}': wanted a positive number and a unit, such "
        "as '90 epochs', '300 steps' or '1000 examples', or 'never'"
    ) from None
  # A tolerance, so that 3 epochs of 0.1 are not rounded up by their last bit.
  return max(1, math.ceil(number * examples_per / batch_size - 1e-9))
