"""A run before its first step: what is checked and built, in which order."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import optax

from alexnet.checkpointing import lock, manager, pretrained
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError
from alexnet.config.intervals import Timetable
from alexnet.evaluation.task import Task
from alexnet.metrics import console as console_lib
from alexnet.runtime import environment, multihost
from alexnet.training import bad_steps, optimizer, schedules, train_step
from alexnet.training.train_step import TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run that has been checked, and of which nothing is written yet.

  Attributes:
    task: its network, data and devices; the data is not open yet.
    workdir: its folder.
    timetable: when it evaluates, saves and ends.
    optimizer: the update rule.
    create_state: makes the state before the first step from a key.
    shapes: of that state.
    layers: names of the layers that have parameters.
    pretrained: the run that it starts from, if it starts from another one.
    before: the config of the session before; None for a new run.
  """

  task: Task
  workdir: pathlib.Path
  timetable: Timetable
  optimizer: optax.GradientTransformationExtraArgs
  create_state: Callable[[jax.Array], TrainState]
  shapes: TrainState
  layers: tuple[str, ...]
  pretrained: pretrained.Pretrained | None
  before: ml_collections.ConfigDict | None

  def make_train_step(self) -> Callable[..., Any]:
    """Compiles the step, when the task's data is open."""
    task = self.task
    return train_step.make_train_step(
        model=task.model,
        optimizer=self.optimizer,
        mesh=task.mesh,
        state=self.shapes,
        images=task.views.training,
        seed=task.config.seed,
        accumulation=task.config.accumulation,
        guarded=task.config.bad_steps.action == bad_steps.SKIP,
    )

  def announce(self) -> None:
    """Says what the run is going to do."""
    console_lib.announce(
        self.task.console,
        self.task.config,
        self.workdir,
        mesh=self.task.mesh,
        parameters=self.task.parameters,
        timetable=self.timetable,
        train=self.task.train,
        evaluation=self.task.evaluation,
    )

  def make_workdir(self) -> lock.Lock | None:
    """Makes the folder, with the config and what it runs on, and locks it.

    Returns:
      The lock, in the first process of a run.

    Raises:
      CheckpointError: the folder cannot be written.
      WorkdirInUseError: another job has it.
    """
    taken = None
    if multihost.is_first():
      try:
        self.workdir.mkdir(parents=True, exist_ok=True)
        taken = self.take_lock()
        workdir_lib.save_config(self.workdir, self.task.config)
        now = environment.describe(self.task.mesh)
        self._warn_of_settings(now)
        workdir_lib.save_environment(self.workdir, now)
      except OSError as error:
        raise CheckpointError(
            f'cannot write to workdir {self.workdir} ({error.strerror}): set '
            '--workdir to a folder on a disk with room'
        ) from error
    multihost.wait_for_all('workdir')
    return taken

  def _warn_of_settings(self, now):
    """Of a process with other settings of JAX than the last one had."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # A new run.
      for difference in workdir_lib.environment_differences(
          self.workdir, now, ('jax_settings.', 'xla_flags')
      ):
        self.task.warn(
            f'{difference}: the steps from here on are not those that the run '
            'would have made'
        )

  def take_lock(self) -> lock.Lock | None:
    """Keeps other jobs from the workdir; by the first process, which writes."""
    if not multihost.is_first():
      return None
    return lock.take(self.workdir, self.task.warn)


def set_up(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    console: console_lib.Console,
    *,
    training: bool,
) -> Setup:
  """Checks a run; reads no image and writes nothing.

  Args:
    config: as from configs/.
    workdir: folder of the run; it need not be there.
    console: for messages.
    training: whether the run is to go on, so that another run that it starts
      from has to be there.

  Raises:
    UserError: something the user can mend; says what to do.
  """
  config = workdir_lib.keep_earlier_background(workdir, config)
  task = Task(config, console)
  config = task.config
  before = workdir_lib.check_config(workdir, config)
  update_rule = optimizer.create_optimizer(config.optimizer, task.rules)
  timetable = Timetable.of(config, len(task.train))
  create_state = functools.partial(
      train_step.create_state,
      task.model,
      update_rule,
      crop=config.augmentation.crop_size,
  )
  shapes = jax.eval_shape(create_state, jax.random.key(0))
  layers = optimizer.layer_names(shapes.params)
  schedules.check_schedule(config.schedule, layers, task.rules)
  schedules.check_rate_factors(config.optimizer.layer_rate_factors, layers)
  pretrained.check(config.pretrained)
  bad_steps.check(config.bad_steps)
  other = None
  newest = multihost.of_first(manager.newest_step(workdir))
  if training and newest is None and config.pretrained.workdir is not None:
    other = pretrained.Pretrained(config.pretrained, shapes.params)
  return Setup(
      task, workdir, timetable, update_rule, create_state, shapes, layers,
      other, before,
  )
