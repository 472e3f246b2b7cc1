"""Progress of a run: its state on the host, saved in each checkpoint."""

import dataclasses
from collections.abc import Collection
from typing import Any

from alexnet.config.errors import CheckpointError
from alexnet.training import bad_steps, schedules
from input_pipeline.files import untrusted

# Fields that are themselves dataclasses.
_PARTS = {'plateau': schedules.Plateau, 'usual_loss': bad_steps.UsualLoss}


@dataclasses.dataclass
class Progress:
  """Progress of a run.

  Attributes:
    step: number of updates made.
    data: identity of the training and the evaluation set.
    seconds: time spent in training steps.
    evaluated_step: step of the last evaluation.
    plateau: state of the plateau rule.
    loss, top1: sums over the good steps since the last line of the log.
    steps: number of steps in these sums.
    train_error: top-1 error of the last line of the log, on training batches.
    pretrained: `Pretrained.record` of the run it has started from, if any.
    evaluations: (step, top-1) of the evaluations whose checkpoints are kept.
    left_out: number of training batches left out by rollbacks; the next batch
      is number step + left_out of the stream.
    rollbacks: number of rollbacks.
    skipped_in_a_row: number of bad steps just before this one.
    usual_loss: average of recent losses, which detects spikes.
  """

  step: int = 0
  data: str = ''
  seconds: float = 0.0
  evaluated_step: int = 0
  plateau: schedules.Plateau = dataclasses.field(
      default_factory=schedules.Plateau
  )
  loss: float = 0.0
  top1: float = 0.0
  steps: int = 0
  train_error: float = 1.0
  pretrained: dict[str, Any] | None = None
  evaluations: list[tuple[int, float]] = dataclasses.field(default_factory=list)
  left_out: int = 0
  rollbacks: int = 0
  skipped_in_a_row: int = 0
  usual_loss: bad_steps.UsualLoss = dataclasses.field(
      default_factory=bad_steps.UsualLoss
  )

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> 'Progress':
    """Creates the progress from the result of `dataclasses.asdict`.

    Raises:
      CheckpointError: a field is missing, unknown or of another type.
    """
    values = {'usual_loss': {}, **values}
    try:
      parts = {
          name: kind(**_typed(kind, untrusted.take(values, name, dict)))
          for name, kind in _PARTS.items()
      }
      return cls(**{**_typed(cls, values), **parts})
    except ValueError as error:
      raise CheckpointError(
          f'the progress in the checkpoint is not of this version of the '
          f'program ({error}): use the one that made it, or another workdir'
      ) from error

  def add(self, step: int, values: dict[str, float]) -> None:
    """Adds the metrics of a good step to the sums.

    Args:
      step: the update, counted from 0.
      values: 'loss' and 'top1' of the step.
    """
    self.usual_loss.add(step, values['loss'])
    self.loss += values['loss']
    self.top1 += values['top1']
    self.steps += 1

  def clear_sums(self) -> None:
    """Resets the sums after a line of the log."""
    self.loss = self.top1 = 0.0
    self.steps = 0

  def best_steps(self, keep: int, saved: Collection[int]) -> list[int]:
    """Returns the steps of the best evaluations that have a checkpoint.

    The present step counts, as its checkpoint is about to be written.
    Evaluations of steps without a checkpoint are dropped.

    Args:
      keep: largest number of steps to return.
      saved: steps of the existing checkpoints.
    """
    there = {*saved, self.step}
    self.evaluations = [one for one in self.evaluations if one[0] in there]
    # For equal accuracies, the earlier step comes first.
    ranked = sorted(self.evaluations, key=lambda one: (-one[1], one[0]))
    return [step for step, _ in ranked[:keep]]

  def note_evaluation(self, top1: float, keep: int) -> bool:
    """Adds an evaluation of the present step.

    Args:
      top1: top-1 accuracy.
      keep: number of best evaluations.

    Returns:
      Whether it is one of the best.
    """
    better = sum(other >= top1 for _, other in self.evaluations)
    self.evaluations.append((self.step, top1))
    return better < keep


def _typed(kind, values):
  """Returns the fields of a dataclass from JSON, after checking their types."""
  fields = {field.name: field for field in dataclasses.fields(kind)}
  if unknown := values.keys() - fields.keys():
    raise untrusted.UnreadableError(
        f'it has a field {untrusted.shown(min(unknown))}'
    )
  for name, value in values.items():
    default = fields[name].default
    if isinstance(default, (int, float, str)):
      untrusted.take(values, name, type(default))
    elif default is None and value is not None:
      untrusted.take(values, name, dict if name == 'pretrained' else float)
  return {**values, **_evaluations(values)}


def _evaluations(values):
  """Returns {'evaluations': [(step, top-1)]}; {} without such a field."""
  if 'evaluations' not in values:
    return {}
  pairs = untrusted.take(values, 'evaluations', list)
  for pair in pairs:
    if not isinstance(pair, list) or len(pair) != 2 or not all(
        isinstance(number, int | float) for number in pair
    ):
      raise untrusted.UnreadableError('its evaluations are no pairs of numbers')
  return {'evaluations': [(int(step), float(top1)) for step, top1 in pairs]}
