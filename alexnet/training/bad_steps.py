"""Steps that are better not made: a loss or gradient that is no number, spikes.

A config's `bad_steps` says what follows: the run stops, the step is left out
('skip'), or the run goes back to its newest checkpoint and on with the data
behind the batch ('rollback'; Chowdhery et al. 2022, arXiv:2204.02311, §5.1).
Whether a step is bad depends on it and the steps before it alone, so that a run
that is interrupted decides as one that is not.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import ml_collections
import numpy as np

from alexnet.config.errors import BadStepError, NonFiniteLossError
from alexnet.metrics import writer as writer_lib
from alexnet.metrics.console import Console
from input_pipeline.errors import printable

if TYPE_CHECKING:  # With it comes TensorFlow.
  from input_pipeline.pipeline import Pipeline

STOP, SKIP, ROLLBACK = 'stop', 'skip', 'rollback'
# Of the records in metrics.jsonl.
KIND = 'fault'

# Steps that the usual loss is the mean of, more or less; and how many there
# have to be before another one is compared with it.
_HORIZON = 50
_WARM = 20
# Examples that the console names.
_SHOWN = 4


class RollBack(Exception):
  """The run is to go back, and on behind a batch.

  Attributes:
    batch: its number in the stream of training batches.
    record: what metrics.jsonl is to have about it.
  """

  def __init__(self, batch: int, record: dict):
    super().__init__(batch)
    self.batch = batch
    self.record = record


def is_behind(record: dict[str, Any], batch: int) -> bool:
  """Whether a record of metrics.jsonl is of a fault before a batch.

  Args:
    record: any that `writer.read_records` gives.
    batch: its number in the stream of training batches.
  """
  number = record.get('batch')
  return record['kind'] == KIND and isinstance(number, int) and number < batch


@dataclasses.dataclass
class UsualLoss:
  """Mean of the last losses, each weighing less than the one after it.

  Attributes:
    mean, count: of all losses but the newest, and their number.
    newest_step, newest: update (from 0) and loss of that one; -1: none.
  """

  mean: float = 0.0
  count: int = 0
  newest_step: int = -1
  newest: float = 0.0

  def add(self, step: int, loss: float) -> None:
    """Takes the loss of an update, counted from 0."""
    self.mean, self.count = self._all()
    self.newest_step, self.newest = step, loss

  def before(self, step: int) -> float | None:
    """What is usual for an update; None while there are too few before it.

    The update just before it does not count: while one is computed, the next
    is on its way already.
    """
    known = self.newest_step <= step - 2
    mean, count = self._all() if known else (self.mean, self.count)
    return mean if count >= _WARM else None

  def _all(self):
    if self.newest_step < 0:
      return self.mean, self.count
    # As a plain mean at first.
    weight = 1 / min(self.count + 1, _HORIZON)
    return self.mean + weight * (self.newest - self.mean), self.count + 1


class BadSteps:
  """Recognises bad steps and says what follows."""

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      console: Console,
      pipeline: 'Pipeline',
  ):
    """Takes a whole config, for messages a console, and what batches are of."""
    self._config = config
    self._rule = config.bad_steps
    self._console = console
    self._pipeline = pipeline

  def limit(self, usual: UsualLoss, step: int) -> np.float32:
    """The largest loss of an update, counted from 0, that is no spike."""
    mean = None if self._rule.spike is None else usual.before(step)
    return np.float32(math.inf if mean is None else self._rule.spike * mean)

  def reason(
      self, values: dict[str, float], limit: np.float32
  ) -> str | None:
    """Says why a step is bad, if it is.

    Args:
      values: 'loss' and 'gradient_norm' of the step.
      limit: from `limit`, when it was begun. `train_step` compares the same
        numbers.
    """
    for name, text in (('loss', 'the loss'), ('gradient_norm', 'the gradient')):
      if not math.isfinite(values[name]):
        return f'{text} is {values[name]}'
    if values['loss'] > limit:
      return (
          f'the loss is {values["loss"]:.4g}, more than {self._rule.spike:g} '
          f'times the usual {limit / self._rule.spike:.4g}'
      )
    return None

  def handle(
      self,
      writer: writer_lib.Writer,
      progress,
      step: int,
      values: dict[str, float],
      reason: str,
  ) -> None:
    """Tells of a bad step and, where the run is not just to go on, raises.

    Args:
      writer: of the run.
      progress: of the run; counts bad steps.
      step: the update, counted from 0.
      values: 'loss' and 'gradient_norm' of it.
      reason: from `reason`.

    Raises:
      BadStepError: the run is to stop.
      RollBack: the run is to go back to its newest checkpoint.
    """
    batch, action = step + progress.left_out, self._rule.action
    examples = self._pipeline.training_examples(batch)
    record = {
        'bad_step': step + 1,
        'action': action,
        'reason': reason,
        'batch': batch,
        'epoch': examples[0].epoch,
        'first_place': examples[0].place,
        'indices': [example.index for example in examples],
        'examples': [example.name for example in examples],
    }
    names = ', '.join(printable(e.name) for e in examples[:_SHOWN])
    self._console.print(
        f'bad step {step + 1:,}: {reason}. Its batch is number {batch:,}, from '
        f'place {examples[0].place:,} of epoch {examples[0].epoch:,} on: '
        f'{names}{", ..." if examples[_SHOWN:] else ""} (all in '
        f"{writer_lib.FILE}, kind '{KIND}')"
    )
    count, what = 0, ''
    if action == SKIP:
      progress.skipped_in_a_row += 1
      count, what = progress.skipped_in_a_row, 'steps in a row are bad'
    elif action == ROLLBACK:
      count, what = progress.rollbacks + 1, 'times the run had to go back'
    if action == STOP or count > self._rule.limit:
      writer.write(KIND, step, {**record, 'action': STOP})
      raise self._error(step, values, reason, f'{count} {what}', count)
    if action == ROLLBACK:
      raise RollBack(batch, record)
    writer.write(KIND, step, record)
    self._console.print('the step is left out: nothing has changed by it')

  def _error(self, step, values, reason, counted, count):
    kind = BadStepError
    if not math.isfinite(values['loss']):
      kind = NonFiniteLossError
    rates = '--config.schedule.learning_rate'
    if self._config.schedule.name == 'definition':
      rates = 'epsW and epsB in the parameter file'
    if count:
      reason += f', and {counted} (bad_steps.limit is {self._rule.limit})'
    return kind(
        f'{reason} near step {step + 1}: training has diverged. Lower {rates}, '
        'and start in a new workdir'
        + ('' if count else '; or set --config.bad_steps.action to skip or '
           'rollback, and run the same command again')
    )
