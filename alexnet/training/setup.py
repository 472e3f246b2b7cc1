"""Setup of a run before its first step: checks, then construction."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from alexnet import models
from alexnet.checkpointing import continuing, lock, manager, pretrained
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError
from alexnet.config.intervals import Timetable
from alexnet.evaluation.task import Task
from alexnet.metrics import console as console_lib
from alexnet.runtime import environment, multihost
from alexnet.training import bad_steps, optimizer, schedules, train_step
from alexnet.training.resume import Recovery


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run that is ready to be trained or replayed.

  Attributes:
    workdir: folder of the run.
    task: config, network, data and devices of the run.
    timetable: durations of the run, in steps.
    train_step: the compiled step, see `train_step.make_train_step`.
    params: shapes of the parameters.
    recovery: checkpoints of the run, and its initial state.
    starts_elsewhere: whether the initial parameters are those of another run.
    before: config of the previous session; None for a new run.
    lock: lock of the workdir; None in processes that do not write there.
  """

  workdir: pathlib.Path
  task: Task
  timetable: Timetable
  train_step: Callable[..., Any]
  params: Any
  recovery: Recovery
  starts_elsewhere: bool
  before: ml_collections.ConfigDict | None
  lock: lock.Lock | None


def create(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    console: console_lib.Console,
    *,
    training: bool = True,
) -> Setup:
  """Checks a run, announces it on the console, and builds what it needs.

  Args:
    config: the whole config, as from configs/.
    workdir: folder of the run, created if necessary.
    console: console for messages.
    training: whether the run is to be trained. Otherwise nothing is announced,
      written or locked, and another run that it has started from need not
      exist.

  Raises:
    UserError: the user can correct something; the message says what to do.
  """
  config = continuing.keep_earlier_background(workdir, config)
  task = Task(config, console)
  config = task.config
  before = continuing.check_config(workdir, config)
  update_rule = optimizer.create_optimizer(config.optimizer, task.rules)
  timetable = Timetable.of(config, len(task.train))
  create_state = _state_creator(
      task.model, update_rule, models.input_shape(config)
  )
  shapes = jax.eval_shape(create_state, jax.random.key(0))
  schedules.check_paths(config, shapes.params)
  pretrained.check(config.pretrained)
  other, taken = None, None
  newest = multihost.of_first(manager.newest_step(workdir))
  if training and newest is None and config.pretrained.workdir is not None:
    other = pretrained.Pretrained(config.pretrained, shapes.variables)
  if training:
    console_lib.announce(
        task.console, config, workdir, mesh=task.mesh,
        parameters=task.parameters, timetable=timetable, train=task.train,
        evaluation=task.evaluation,
    )
  task.open_data()
  if training:
    taken = _make_workdir(workdir, task)
  return Setup(
      workdir=workdir,
      task=task,
      timetable=timetable,
      train_step=train_step.make_train_step(
          model=task.model,
          optimizer=update_rule,
          mesh=task.mesh,
          state=shapes,
          images=task.views.training,
          seed=config.seed,
          accumulation=config.accumulation,
          guarded=config.bad_steps.action == bad_steps.SKIP,
          deterministic=config.deterministic,
      ),
      params=shapes.params,
      recovery=Recovery(
          workdir, task, timetable, create_state, shapes, other,
          training=training,
      ),
      starts_elsewhere=other is not None,
      before=before,
      lock=taken,
  )


@functools.lru_cache(maxsize=4)  # See train_step._compiled.
def _state_creator(model, optimizer, shape):
  return functools.partial(
      train_step.create_state, model, optimizer, shape=shape
  )


def take_lock(workdir: pathlib.Path, task: Task) -> lock.Lock | None:
  """Locks a workdir against other jobs.

  Returns:
    The lock; None except in the first process, the only one that writes there.

  Raises:
    WorkdirInUseError: another job has locked the workdir.
  """
  return lock.take(workdir, task.warn) if multihost.is_first() else None


def _make_workdir(workdir, task):
  """Creates and locks the folder, and writes config and environment to it."""
  taken = None
  if multihost.is_first():
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      taken = take_lock(workdir, task)
      workdir_lib.save_config(workdir, task.config)
      now = environment.describe(
          task.mesh, task.config.model, task.compile_options
      )
      _warn_of_settings(workdir, task, now)
      workdir_lib.save_environment(workdir, now)
    except OSError as error:
      raise CheckpointError(
          f'cannot write to workdir {workdir} ({error.strerror}): set '
          '--workdir to a folder on a disk with room'
      ) from error
  multihost.wait_for_all('workdir')
  return taken


def _warn_of_settings(workdir, task, now):
  """Warns if JAX's settings differ from those of the run's last session."""
  # A new run has no environment.json.
  with contextlib.suppress(OSError, ValueError, IndexError):
    for difference in continuing.environment_differences(
        workdir, now, ('compile_options.', 'jax_settings.', 'xla_flags')
    ):
      if 'xla_gpu_shard_autotuning' in difference:
        continue  # Does not change results.
      task.warn(
          f'{difference}: the steps from here on are not those that the run '
          'would have made'
      )
