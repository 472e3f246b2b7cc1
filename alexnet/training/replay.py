"""Steps of a run made again, to say whether they come out the same.

See verify.py, the command.
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

# Of a run: their images can be counted in 64 bits, whatever a record says.
_MOST_BATCHES = 2**40
# Where there is no checkpoint to end at.
_STEPS = 10
# Differences that are listed.
_SHOWN = 5


@dataclasses.dataclass
class Report:
  """What came of a replay.

  Attributes:
    workdir: of the run.
    first: step of the checkpoint that it began at.
    last: step that it ended at.
    reference: what the parameters were compared with.
    losses: number of the losses that were compared with metrics.jsonl.
    differences: what differs, the first in time first; empty if all is equal.
    environment: in what this session is not the run's.
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
  """Replays steps of a run; writes nothing there.

  Args:
    workdir: of the run.
    console: for messages.
    checkpoint: step of the one to begin at; None: the second newest, or the
      newest if there is one only.
    steps: to replay; None: up to the next checkpoint, or 10, even beyond the
      run's end.
    overrides: {dotted field: value} of the config, for what this machine has
      elsewhere.

  Raises:
    CheckpointError: no such checkpoint, or one is damaged, or metrics.jsonl
      does not say where the run went back.
    ConfigError: steps beyond the run's end.
    UserError: as of `setup.create`.
  """
  first, last, saved = _range(workdir, checkpoint, steps)
  config = workdir_lib.load_config(workdir)
  with config.ignore_type():
    config.update_from_flattened_dict(overrides or {})
  setup = setup_lib.create(config, workdir, console, training=False)
  run = Steps(setup)
  total, twice = setup.timetable.total_steps, last != saved
  # Two replays can be compared beyond it, as there is data without end.
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
      if repr(before) != repr(after):  # A bad loss may be no number.
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
  """(first, last step, step of the checkpoint to compare with or None)."""
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
  """Makes steps, from a checkpoint on.

  Args:
    run: is left at the last step.
    first: step of the checkpoint.
    last: step to end at.
    records: of metrics.jsonl: when losses were summed up, what the
      evaluations found, by which the plateau rule goes, and from which steps on
      the run left batches out, as it had gone back there.

  Yields:
    (step, its loss, the mean that a line of the log has at this step or None).
  """
  run.go_to(first)
  # As the log has them after a line at this very step.
  logged = {r['step'] for r in records if r['kind'] == 'train'}
  errors = {
      r['step']: 1 - r['top1'] for r in records
      if r['kind'] == 'eval_centre' and isinstance(r.get('top1'), (int, float))
  }
  progress, gaps = run.progress, _gaps(records)
  batches = run.batches()
  try:
    for step in range(first + 1, last + 1):
      # One that the checkpoint knows of is no larger than it has.
      if (gap := gaps.get(step - 1, 0)) > progress.left_out:
        progress.left_out = gap
        batches.close()
        batches = run.batches()
      with run.memory.explained():
        values, _ = run.finish(run.start(next(batches)))
      loss, mean = values['loss'], None
      if step in logged:
        # Without bad ones; the run may have had others.
        mean = progress.loss / progress.steps if progress.steps else math.nan
        progress.clear_sums()
      yield step, loss, mean
      if step in errors and step < last:
        run.observe_error(errors[step])
  finally:
    batches.close()


def _gaps(records):
  """{step that the run went back to: batches left out from there on}."""
  return {
      r['step']: r['batch'] + 1 - r['step'] for r in records
      if r['kind'] == bad_steps.KIND and r.get('action') == bad_steps.ROLLBACK
      and isinstance(r.get('batch'), int) and 0 <= r['batch'] < _MOST_BATCHES
  }


def _compare_losses(report, records, replayed):
  """Adds what differs from metrics.jsonl; returns all that was replayed."""
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
  """Says where two states differ, leaf by leaf."""
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
  """Says how far two arrays of floats are apart; None: equal to the bit.

  Args:
    wanted: any.
    got: of the same shape and dtype.
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
  """Numbers that count floats in their order: neighbours differ by 1."""
  width = 8 * bits.dtype.itemsize
  wide = bits.astype(np.int64)
  sign = wide >> (width - 1) & 1
  return np.where(sign, -(wide & ((1 << (width - 1)) - 1)), wide)


def _environment(workdir, task) -> list[str]:
  """In what this session differs from the run's last one."""
  now = environment_lib.describe(
      task.mesh, task.config.model, task.compile_options
  )
  try:
    return continuing.environment_differences(workdir, now)
  except (OSError, ValueError, IndexError):
    return [f'{workdir_lib.ENVIRONMENT} cannot be read, nothing to compare']
