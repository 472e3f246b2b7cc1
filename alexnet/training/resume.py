"""Start of a run, and its checkpoints to resume from."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax

from alexnet.checkpointing import manager
from alexnet.checkpointing.pretrained import Pretrained
from alexnet.config.errors import UnsavedError
from alexnet.config.intervals import Timetable
from alexnet.evaluation.task import Task
from alexnet.runtime import sharding
from alexnet.training.progress import Progress
from alexnet.training.train_step import TrainState


class Recovery:
  """Checkpoints of a run, and its initial state."""

  def __init__(
      self,
      workdir: pathlib.Path,
      task: Task,
      timetable: Timetable,
      create_state: Callable[[jax.Array], TrainState],
      shapes: TrainState,
      other: Pretrained | None,
      *,
      training: bool,
  ):
    """Opens the checkpoints.

    Args:
      workdir: folder of the run.
      task: config, network, data and devices of the run.
      timetable: durations of the run, for attempts to save after a failure.
      create_state: function from a key to the state before the first step.
      shapes: shapes of that state.
      other: the other run that this run starts from, if any.
      training: whether the run is trained; otherwise nothing is written.
    """
    self._workdir = workdir
    self._task = task
    self._config = task.config
    self._create_state, self._shapes = create_state, shapes
    self._other = other
    self._warn = task.warn
    self._training = training
    # Steps before the next attempt to save after a failed one.
    self._first_delay = timetable.log_every or 10
    self._longest_delay = max(
        self._first_delay, timetable.checkpoint_every or self._first_delay
    )
    self._delay = self._first_delay
    self._retry_at: int | None = None
    self._checkpoints = manager.Checkpoints(
        workdir,
        self._config.keep_checkpoints,
        read_only=not training,
    )

  def open(self, which: int | str) -> tuple[TrainState, Progress]:
    """Restores a checkpoint, or creates the initial state if there is none.

    Args:
      which: the checkpoint, see `manager.Checkpoints.find`; ignored in
        training, which always continues from the newest one.

    Returns:
      (state, progress).

    Raises:
      CheckpointError: checkpoints are damaged or do not fit the run.
    """
    if not self._training:
      found = self._checkpoints.find(which, self._warn)
      return self._start() if found is None else self._restore(found)
    for path in self._checkpoints.set_aside_unfinished():
      self._warn(
          f'the checkpoint of step {path.stem} was not finished; it does not '
          f'count, and is {path} until the next one is complete'
      )
    return self.newest()

  def newest(self) -> tuple[TrainState, Progress]:
    """Restores the newest undamaged checkpoint of a run in training.

    Newer checkpoints, which are damaged, are set aside.

    Returns:
      (state, progress); the initial ones if there is no checkpoint.

    Raises:
      CheckpointError: all checkpoints are damaged, or do not fit the run.
    """
    step, damaged = self._checkpoints.newest_good()
    for number, reason in damaged.items():
      aside = self._checkpoints.set_aside(number)
      self._warn(
          f'{reason}. It is now {aside.name}, and step {step:,} is used instead'
      )
    return self._start() if step is None else self._restore(step)

  def _restore(self, step):
    saved, progress = self._checkpoints.restore(
        step, sharding.targets(self._shapes.as_saved(), self._task.mesh)
    )
    progress = Progress.from_dict(progress)
    manager.check_data(
        self._workdir,
        progress.data,
        self._task.data_identity,
        self._task.data_names,
    )
    return TrainState(**saved), progress

  def _start(self):
    state = sharding.initialize(
        self._create_state, self._task.mesh, self._config.seed
    )
    progress = Progress(data=self._task.data_identity)
    if self._other is not None:
      variables = self._other.load(state.variables, self._task.mesh)
      params = variables.pop('params')
      state = dataclasses.replace(
          state, params=params, model_state=variables
      )
      progress.pretrained = self._other.record()
    return state, progress

  def save(
      self, state: TrainState, progress: Progress, *, required: bool
  ) -> None:
    """Writes a checkpoint, unless there is one of this step.

    Args:
      state: state of the run.
      progress: progress of the run.
      required: whether to raise an error if writing fails. Otherwise a warning
        is printed, and `retry_due` says when to try again.

    Raises:
      UnsavedError: there is no room on disk, or the disk fails.
    """
    saved = self._checkpoints.complete_steps()
    if progress.step in saved:
      return
    best = progress.best_steps(self._config.keep_best, saved)
    try:
      self._checkpoints.save(
          progress.step,
          state.as_saved(),
          dataclasses.asdict(progress),
          best,
          self._warn,
      )
    except UnsavedError as error:
      before = f'step {max(saved):,}' if saved else 'the beginning'
      if required:
        raise UnsavedError(
            f'{error}. Free some, then run the same command again: it '
            f'continues from {before}'
        ) from error
      self._retry_at = progress.step + self._delay
      self._warn(
          f'{error}. Training goes on; the next attempt is at step '
          f'{self._retry_at:,} at the latest, and until then a restart '
          f'continues from {before}'
      )
      self._delay = min(2 * self._delay, self._longest_delay)
      return
    self._retry_at, self._delay = None, self._first_delay

  def retry_due(self, step: int) -> bool:
    """Returns whether to try again to save, after a failure."""
    return self._retry_at is not None and step >= self._retry_at

  def close(self) -> None:
    """Ends Orbax's threads."""
    self._checkpoints.close()
