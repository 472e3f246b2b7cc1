"""When a run evaluates, saves, writes a line of its log, and ends: in steps."""

import dataclasses
import math

import ml_collections

from alexnet import durations
from alexnet.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Timetable:
  """The durations of a config, in steps.

  Attributes:
    total_steps: of the whole run.
    steps_per_epoch: of the training set; not a whole number.
    evaluate_every, checkpoint_every, log_every: steps between two; None: never.
    lighting_steps: steps with PCA lighting, if the config has any; None: all.
  """

  total_steps: int
  steps_per_epoch: float
  evaluate_every: int | None
  checkpoint_every: int | None
  log_every: int | None
  lighting_steps: int | None

  @classmethod
  def of(cls, config: ml_collections.ConfigDict, examples: int) -> 'Timetable':
    """Reads a whole config, for a training set of so many examples.

    Raises:
      ConfigError: a duration that cannot be read, or that never lets happen
        what another field waits for.
    """

    def steps(field):
      return durations.to_steps(
          field,
          config[field],
          batch_size=config.batch_size,
          examples=examples,
      )

    total_steps = steps('duration')
    if total_steps is None:
      raise ConfigError("duration is 'never': wanted when the run is to end")
    steps_per_epoch = examples / config.batch_size
    until = config.augmentation.lighting_until_epoch
    found = cls(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        evaluate_every=steps('evaluate_every'),
        checkpoint_every=steps('checkpoint_every'),
        log_every=steps('log_every'),
        lighting_steps=(
            None if until is None else math.ceil(until * steps_per_epoch)
        ),
    )
    goal = config.until_train_error
    if goal is not None and (not 0 <= goal < 1 or found.log_every is None):
      raise ConfigError(
          f'until_train_error is {goal} and log_every is '
          f"'{config.log_every}': wanted an error from 0 up to, but not "
          'including, 1, and lines of the log to have it'
      )
    if config.schedule.name == 'plateau' and found.evaluate_every is None:
      raise ConfigError(
          "schedule.name is 'plateau', which reads the validation error, but "
          "evaluate_every is 'never': set --config.evaluate_every='1 epochs'"
      )
    return found


def is_due(step: int, every: int | None) -> bool:
  """Whether what is done `every` so many steps is to be done after `step`."""
  return every is not None and step > 0 and step % every == 0
