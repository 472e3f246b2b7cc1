"""Detection and handling of bad steps: non-finite values and loss spikes.

A config's `bad_steps` chooses the action: the run stops ('stop'), the step is
left out ('skip'), or the run returns to its newest checkpoint and continues
with the data after the bad batch ('rollback'; Chowdhery et al. 2022,
arXiv:2204.02311, §5.1). Whether a step is bad depends only on it and the steps
before it, so an interrupted run decides like an uninterrupted one.
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

if TYPE_CHECKING:  # Imports TensorFlow.
  from input_pipeline.pipeline import Pipeline

STOP, SKIP, ROLLBACK = 'stop', 'skip', 'rollback'
# Kind of the records in metrics.jsonl.
KIND = 'fault'

# Approximate number of steps in the mean of the usual loss.
_HORIZON = 50
# Steps needed before a loss is compared with the usual loss.
_WARM = 20
# Number of examples named on the console.
_SHOWN = 4


class RollBack(Exception):
  """Request to return to the newest checkpoint and leave out a bad batch.

  Attributes:
    batch: number of the bad batch in the stream of training batches.
    record: record of the bad step for metrics.jsonl.
  """

  def __init__(self, batch: int, record: dict):
    super().__init__(batch)
    self.batch = batch
    self.record = record


def is_behind(record: dict[str, Any], batch: int) -> bool:
  """Returns whether a record of metrics.jsonl is a fault before a batch.

  Args:
    record: any record from `writer.read_records`.
    batch: number of the batch in the stream of training batches.
  """
  number = record.get('batch')
  return record['kind'] == KIND and isinstance(number, int) and number < batch


@dataclasses.dataclass
class UsualLoss:
  """Exponential moving average of the losses.

  Attributes:
    mean: average of all losses but the newest.
    count: number of losses in `mean`.
    newest_step: update of the newest loss, counted from 0; -1 if there is none.
    newest: the newest loss.
  """

  mean: float = 0.0
  count: int = 0
  newest_step: int = -1
  newest: float = 0.0

  def add(self, step: int, loss: float) -> None:
    """Adds the loss of an update, counted from 0."""
    self.mean, self.count = self._all()
    self.newest_step, self.newest = step, loss

  def before(self, step: int) -> float | None:
    """Returns the usual loss for an update; None after too few updates.

    The loss of the update just before it does not count, since it is not known
    yet when the update is started.
    """
    known = self.newest_step <= step - 2
    mean, count = self._all() if known else (self.mean, self.count)
    return mean if count >= _WARM else None

  def _all(self):
    if self.newest_step < 0:
      return self.mean, self.count
    # A plain mean for the first _HORIZON losses.
    weight = 1 / min(self.count + 1, _HORIZON)
    return self.mean + weight * (self.newest - self.mean), self.count + 1


class BadSteps:
  """Detects the bad steps of a run and takes the configured action."""

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      console: Console,
      pipeline: 'Pipeline',
  ):
    """Creates the detector.

    Args:
      config: the whole config; reads bad_steps and schedule.name.
      console: console for messages.
      pipeline: the run's data, which names the examples of a batch.
    """
    self._config = config
    self._rule = config.bad_steps
    self._console = console
    self._pipeline = pipeline

  def limit(self, usual: UsualLoss, step: int) -> np.float32:
    """Returns the largest loss of an update that is not a spike.

    Args:
      usual: the usual loss so far.
      step: the update, counted from 0.

    Returns:
      [] float32; infinity without config.bad_steps.spike or a usual loss.
    """
    mean = None if self._rule.spike is None else usual.before(step)
    return np.float32(math.inf if mean is None else self._rule.spike * mean)

  def reason(
      self, values: dict[str, float], limit: np.float32
  ) -> str | None:
    """Describes why a step is bad; returns None for a good one.

    Args:
      values: 'loss' and 'gradient_norm' of the step.
      limit: result of `limit` when the step was started. `train_step` compares
        the same numbers.
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
    """Reports a bad step and raises an error unless the step is skipped.

    Args:
      writer: writer of the run, for a record of the step.
      progress: `Progress` of the run; a skipped step is counted there.
      step: the update, counted from 0.
      values: 'loss' and 'gradient_norm' of the step.
      reason: result of `reason`.

    Raises:
      BadStepError: the run has to stop.
      RollBack: the run has to return to its newest checkpoint.
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
    self._console.print('the step is left out: it has changed nothing')

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
