"""The steps of a run, one after the other: what training and a replay share."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from alexnet.checkpointing import manager
from alexnet.config.intervals import Timetable
from alexnet.runtime import sharding
from alexnet.runtime.gpu import device_memory
from alexnet.training import bad_steps, schedules
from alexnet.training.setup import Setup


class Started(NamedTuple):
  """A step whose metrics are still computed.

  Attributes:
    step: the update, counted from 0.
    metrics: {name: [] array}, see `train_step.make_train_step`.
    limit: the largest loss that is no spike.
  """

  step: int
  metrics: dict[str, jax.Array]
  limit: np.float32


class Steps:
  """Makes a run's steps.

  Attributes:
    state: `TrainState` on the mesh.
    progress: how far the run is.
    bad_steps: recognises bad ones.
  """

  def __init__(self, setup: Setup):
    """Begins at the newest checkpoint, or where the run starts.

    Args:
      setup: of the run.

    Raises:
      CheckpointError: checkpoints are damaged or do not fit.
    """
    self._setup = setup
    task = setup.task
    self._train_step = setup.train_step
    self.memory = device_memory.training(task.config, task.mesh)
    self._guarded = task.config.bad_steps.action == bad_steps.SKIP
    self.bad_steps = bad_steps.BadSteps(
        task.config, task.console, task.pipeline
    )
    self.go_to(manager.NEWEST)

  def go_to(self, which: int | str) -> None:
    """Goes to a checkpoint; CheckpointError if it cannot be used."""
    with self.memory.explained():
      self.state, self.progress = self._setup.recovery.open(which)

  def batches(
      self, stop: Callable[[], bool] = lambda: False
  ) -> Iterator[dict[str, jax.Array]]:
    """Endless batches from the next step on, on the run's devices.

    Args:
      stop: asked while a batch is waited for; ends that by `Stopped`.
    """
    progress, lit = self.progress, self._setup.timetable.lighting_steps
    stream = self._setup.task.pipeline.training_batches(
        progress.step + progress.left_out,
        lighting_steps=None if lit is None else lit + progress.left_out,
    )
    return sharding.put_ahead(stream, self._setup.task.mesh, stop=stop)

  def start(self, batch: dict[str, jax.Array]) -> Started:
    """Starts a step, and waits for nothing."""
    step = self.progress.step
    limit = self.bad_steps.limit(self.progress.usual_loss, step)
    arguments = self.state, batch, self.rates()
    if self._guarded:
      arguments += (limit,)
    self.state, metrics = self._train_step(*arguments)
    self.progress.step += 1
    return Started(step, metrics, limit)

  def finish(self, started: Started) -> tuple[dict[str, float], str | None]:
    """Waits for a step's metrics, and adds them up unless it is bad.

    Returns:
      The metrics, and why the step is bad, if it is.
    """
    values = {name: float(value) for name, value in started.metrics.items()}
    reason = self.bad_steps.reason(values, started.limit)
    if not reason:
      self.progress.add(started.step, values)
    return values, reason

  def rates(
      self,
      *,
      config: ml_collections.ConfigDict | None = None,
      timetable: Timetable | None = None,
  ) -> Any:
    """Learning rates of the next step, a tree like the parameters.

    Args:
      config: another one than the run's.
      timetable: likewise.
    """
    task, timetable = self._setup.task, timetable or self._setup.timetable
    return schedules.rates_at(
        config or task.config,
        self._setup.params,
        step=self.progress.step,
        total_steps=timetable.total_steps,
        steps_per_epoch=timetable.steps_per_epoch,
        plateau=self.progress.plateau,
        rules=task.rules,
    )

  def observe_error(self, error: float) -> bool:
    """Takes a validation error; whether the rate drops by the plateau rule."""
    schedule = self._setup.task.config.schedule
    return schedule.name == 'plateau' and self.progress.plateau.observe(
        error, schedule
    )
