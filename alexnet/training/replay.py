"""Replay of a run's steps, to verify that they give the same numbers.

The command is alexnet/verify.py.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from alexnet.checkpointing import continuing, manager
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.runtime import environment as environment_lib
from alexnet.training import bad_steps
from alexnet.training import setup as setup_lib
from alexnet.training.steps import Steps

# Largest batch number accepted from a record; its images fit in 64-bit counts.
_MOST_BATCHES = 2**40
# Default number of steps without a later checkpoint.
_STEPS = 10
# Largest number of differences listed.
_SHOWN = 5


@dataclasses.dataclass
class Report:
  """Result of a replay.

  Attributes:
    workdir: folder of the run.
    first: step of the checkpoint at which the replay began.
    last: step at which it ended.
    reference: description of what the parameters were compared with.
    losses: number of losses compared with metrics.jsonl.
    differences: descriptions of the differences: losses in order of time, then
      arrays of the state; empty if everything is equal.
    environment: differences between this session's environment and the run's.
  """

  workdir: pathlib.Path
  first: int
  last: int
  reference: str
  losses: int = 0
  differences: list[str] = dataclasses.field(default_factory=list)
  environment: list[str] = dataclasses.field(default_factory=list)


def verify(
    workdir: pathlib.Path,
    console: Console,
    *,
    checkpoint: int | None = None,
    steps: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> Report:
  """Replays steps of a run and compares the results; writes nothing.

  The state after the last step is compared with the checkpoint of that step,
  or with a second replay if there is none.

  Args:
    workdir: folder of the run.
    console: console for messages.
    checkpoint: step of the checkpoint to begin at; None for the second newest,
      or for the newest if there is only one.
    steps: number of steps to replay; None for the steps up to the next
      checkpoint, or without one for 10, even beyond the run's end.
    overrides: {dotted field: value} to change in the run's config, such as
      paths that differ on this machine.

  Raises:
    CheckpointError: there is no such checkpoint, one is damaged, or
      metrics.jsonl does not say where the run went back.
    ConfigError: `steps` leads beyond the run's end.
    UserError: see `setup.create`.
  """
  first, last, saved = _range(workdir, checkpoint, steps)
  config = workdir_lib.load_config(workdir)
  with config.ignore_type():
    config.update_from_flattened_dict(overrides or {})
  setup = setup_lib.create(config, workdir, console, training=False)
  run = Steps(setup)
  total, twice = setup.timetable.total_steps, last != saved
  # Two replays can be compared beyond the end, since the data is endless.
  if last > total and not (twice and steps is None):
    raise ConfigError(
        f'--steps would end at step {last}, the run ends at '
        f'{total}: expected at most {total - first}, or '
        '--checkpoint of an earlier one'
    )
  reference = 'a second replay' if twice else f'the checkpoint of step {last}'
  report = Report(workdir, first, last, reference)
  report.environment = _environment(workdir, setup.task)
  records = read_records(workdir / 'metrics.jsonl')
  console.print(f'replaying {last - first} step(s) from step {first}')
  losses = _compare_losses(report, records, _replay(run, first, last, records))
  ours = run.state
  if twice:
    again = [result[:2] for result in _replay(run, first, last, records)]
    for before, after in zip(losses, again):
      if repr(before) != repr(after):  # NaN != NaN, but their reprs are equal.
        report.differences.append(
            f'step {after[0]}: the loss was {before[1]!r} in the first replay, '
            f'is {after[1]!r} in the second'
        )
        break
  else:
    left_out = run.progress.left_out
    run.go_to(last)
    if left_out != run.progress.left_out:
      raise CheckpointError(
          f'{workdir} went back between the checkpoints of steps {first} and '
          f'{last} (bad_steps.action), and metrics.jsonl does not say to which '
          f'step: it cannot be compared. --checkpoint={last} begins behind that'
      )
  report.differences += _compare_states(run.state, ours)
  setup.recovery.close()
  return report


def _range(workdir, checkpoint, steps):
  """Returns (first step, last step, step of the checkpoint at the end or None).

  Checks that there is a checkpoint to begin at.
  """
  complete = manager.complete_steps(workdir)
  if not complete:
    raise CheckpointError(
        f'{workdir} has no checkpoint yet: train the run first'
    )
  if checkpoint is None:
    checkpoint = complete[-2:][0]
  elif checkpoint not in complete:
    raise CheckpointError(
        f'{workdir} has no checkpoint of step {checkpoint}: it has '
        + ', '.join(map(str, complete))
    )
  later = [step for step in complete if step > checkpoint]
  if steps is None:
    last = later[0] if later else checkpoint + _STEPS
  else:
    last = checkpoint + steps
  return checkpoint, last, last if last in later else None


def _replay(
    run: Steps, first: int, last: int, records: list[dict[str, Any]]
) -> Iterator[tuple[int, float, float | None]]:
  """Replays steps from a checkpoint.

  Args:
    run: steps of the run; afterwards it is at the last step.
    first: step of the checkpoint.
    last: step to end at.
    records: records of metrics.jsonl. They give the steps of the log's lines,
      the errors of evaluations, for the plateau rule, and the steps from which
      the run left out batches after a rollback.

  Yields:
    (step, its loss, the mean loss for the log's line at this step; None if it
    has no line).
  """
  run.go_to(first)
  logged = {r['step'] for r in records if r['kind'] == 'train'}
  errors = {
      r['step']: 1 - r['top1'] for r in records
      if r['kind'] == 'eval_centre' and isinstance(r.get('top1'), (int, float))
  }
  progress, gaps = run.progress, _gaps(records)
  batches = run.batches()
  try:
    for step in range(first + 1, last + 1):
      # Gaps that the checkpoint includes are not larger than its left_out.
      if (gap := gaps.get(step - 1, 0)) > progress.left_out:
        progress.left_out = gap
        batches.close()
        batches = run.batches()
      with run.memory.explained():
        values, _ = run.finish(run.start(next(batches)))
      loss, mean = values['loss'], None
      if step in logged:
        # NaN if all steps since the last line were bad.
        mean = progress.loss / progress.steps if progress.steps else math.nan
        progress.clear_sums()
      yield step, loss, mean
      if step in errors and step < last:
        run.observe_error(errors[step])
  finally:
    batches.close()


def _gaps(records):
  """Returns {step that the run went back to: batches left out from there}."""
  return {
      r['step']: r['batch'] + 1 - r['step'] for r in records
      if r['kind'] == bad_steps.KIND and r.get('action') == bad_steps.ROLLBACK
      and isinstance(r.get('batch'), int) and 0 <= r['batch'] < _MOST_BATCHES
  }


def _compare_losses(report, records, replayed):
  """Compares losses with metrics.jsonl; returns the replayed (step, loss)."""
  recorded = {
      r['step']: r.get('loss') for r in records if r['kind'] == 'train'
  }
  losses, differing = [], []
  for step, loss, mean in replayed:
    losses.append((step, loss))
    if mean is None:
      continue
    report.losses += 1
    if mean != recorded[step]:
      differing.append(
          f'step {step}: the loss is {recorded[step]!r} in metrics.jsonl, '
          f'{mean!r} now'
      )
  report.differences += _some(differing)
  return losses


def _some(differing):
  if len(differing) > _SHOWN:
    return [*differing[:_SHOWN], f'and {len(differing) - _SHOWN} more']
  return differing


def _compare_states(wanted, got) -> list[str]:
  """Describes the differences of two states, one line per leaf."""
  differing = []
  leaves = zip(
      jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(got)
  )
  for (path, one), other in leaves:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if text := describe_difference(np.asarray(one), np.asarray(other)):
      differing.append(f'{name}: {text}')
  return _some(differing)


def describe_difference(wanted: np.ndarray, got: np.ndarray) -> str | None:
  """Describes how two arrays of floats differ; None if all bits are equal.

  Args:
    wanted: the expected array.
    got: another array of the same shape and dtype.
  """
  bits = np.dtype(f'u{wanted.dtype.itemsize}')
  ours = np.ascontiguousarray(got).reshape(-1).view(bits)
  theirs = np.ascontiguousarray(wanted).reshape(-1).view(bits)
  differs = ours != theirs
  if not differs.any():
    return None
  first = int(np.argmax(differs))
  place = tuple(map(int, np.unravel_index(first, wanted.shape)))
  steps = np.abs(_ordered(ours[differs]) - _ordered(theirs[differs]))
  apart = np.abs(
      wanted.reshape(-1)[differs].astype(np.float64)
      - got.reshape(-1)[differs].astype(np.float64)
  )
  return (
      f'{int(differs.sum()):,} of {wanted.size:,} numbers, by at most '
      f'{apart.max():.3g} ({int(steps.max()):,} units in the last place); the '
      f'first at {place}, {wanted[place]!s} was expected, {got[place]!s} is got'
  )


def _ordered(bits):
  """Maps bits of floats to int64 in the same order; neighbours differ by 1."""
  width = 8 * bits.dtype.itemsize
  wide = bits.astype(np.int64)
  sign = wide >> (width - 1) & 1
  return np.where(sign, -(wide & ((1 << (width - 1)) - 1)), wide)


def _environment(workdir, task) -> list[str]:
  """Lists differences between this session and the run's last one."""
  now = environment_lib.describe(
      task.mesh, task.config.model, task.compile_options
  )
  try:
    return continuing.environment_differences(workdir, now)
  except (OSError, ValueError, IndexError):
    return [f'{workdir_lib.ENVIRONMENT} cannot be read, nothing to compare']
