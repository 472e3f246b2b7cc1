"""What a run knows besides its arrays; saved in each checkpoint."""

import dataclasses
from collections.abc import Collection
from typing import Any

from alexnet import faults, optimizer
from alexnet.errors import CheckpointError


@dataclasses.dataclass
class Progress:
  """How far a run is.

  Attributes:
    step: updates made.
    data: identity of the training and the evaluation set.
    seconds: spent in training steps.
    evaluated_step: of the last evaluation.
    plateau: the plateau rule's state.
    loss, top1, steps: sums since the last line of the log, and their number.
    train_error: of the last line of the log.
    pretrained: `Pretrained.record` of the run it has started from, if any.
    evaluations: (step, top-1) of those whose checkpoints are kept.
    left_out: training batches that were left behind by going back: the next
      one is number step + left_out of the stream.
    rollbacks: how often that was.
    skipped_in_a_row: bad steps just before this one.
    usual_loss: what a loss is compared with.
  """

  step: int = 0
  data: str = ''
  seconds: float = 0.0
  evaluated_step: int = 0
  plateau: optimizer.Plateau = dataclasses.field(
      default_factory=optimizer.Plateau
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
  usual_loss: faults.UsualLoss = dataclasses.field(
      default_factory=faults.UsualLoss
  )

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> 'Progress':
    """Reads what `dataclasses.asdict` gave."""
    try:
      plateau = optimizer.Plateau(**values['plateau'])
      usual_loss = faults.UsualLoss(**values.get('usual_loss', {}))
      return cls(**{**values, 'plateau': plateau, 'usual_loss': usual_loss})
    except (KeyError, TypeError) as error:
      raise CheckpointError(
          f'the progress in the checkpoint is of another version ({error}): '
          'use the version of this program that made it'
      ) from error

  def best_steps(self, keep: int, saved: Collection[int]) -> list[int]:
    """Steps of the best evaluations whose checkpoints there are, or will be.

    Forgets the evaluations of other steps.

    Args:
      keep: how many, at most.
      saved: steps of the checkpoints that there are.
    """
    there = {*saved, self.step}
    self.evaluations = [one for one in self.evaluations if one[0] in there]
    # Of equals the first.
    ranked = sorted(self.evaluations, key=lambda one: (-one[1], one[0]))
    return [step for step, _ in ranked[:keep]]

  def note_evaluation(self, top1: float, keep: int) -> bool:
    """Adds an evaluation of this step; returns if it is one of the best."""
    better = sum(other >= top1 for _, other in self.evaluations)
    self.evaluations.append((self.step, top1))
    return better < keep
