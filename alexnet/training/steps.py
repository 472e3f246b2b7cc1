"""Steps of a run, for training and replay."""

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
  """A step that was started and may still be running.

  Attributes:
    step: the update, counted from 0.
    metrics: {name: [] array}, see `train_step.make_train_step`.
    limit: the largest loss that is not a spike.
  """

  step: int
  metrics: dict[str, jax.Array]
  limit: np.float32


class Steps:
  """Executes the steps of a run.

  Attributes:
    state: `TrainState` on the mesh.
    progress: progress of the run.
    bad_steps: detector of bad steps.
    memory: explains errors of the devices' memory, see device_memory.py.
  """

  def __init__(self, setup: Setup):
    """Restores the newest checkpoint, or creates the initial state.

    Args:
      setup: setup of the run.

    Raises:
      CheckpointError: checkpoints are damaged or do not fit the run.
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
    """Restores a checkpoint.

    Args:
      which: the checkpoint, see `resume.Recovery.open`.

    Raises:
      CheckpointError: the checkpoint is damaged or does not fit the run.
    """
    with self.memory.explained():
      self.state, self.progress = self._setup.recovery.open(which)

  def batches(
      self, stop: Callable[[], bool] = lambda: False
  ) -> Iterator[dict[str, jax.Array]]:
    """Yields batches without end, from the next step on, on the devices.

    Args:
      stop: called repeatedly while waiting for a batch; if it returns True,
        waiting ends with preemption.Stopped.
    """
    progress, lit = self.progress, self._setup.timetable.lighting_steps
    stream = self._setup.task.pipeline.training_batches(
        progress.step + progress.left_out,
        lighting_steps=None if lit is None else lit + progress.left_out,
    )
    return sharding.put_ahead(stream, self._setup.task.mesh, stop=stop)

  def start(self, batch: dict[str, jax.Array]) -> Started:
    """Starts a step without waiting for its results."""
    step = self.progress.step
    limit = self.bad_steps.limit(self.progress.usual_loss, step)
    arguments = self.state, batch, self.rates()
    if self._guarded:
      arguments += (limit,)
    self.state, metrics = self._train_step(*arguments)
    self.progress.step += 1
    return Started(step, metrics, limit)

  def finish(self, started: Started) -> tuple[dict[str, float], str | None]:
    """Waits for the metrics of a step; adds them to progress unless it is bad.

    Returns:
      (metrics, why the step is bad, or None).
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
    """Returns the learning rates of the next step, a tree like the parameters.

    Args:
      config: config to use instead of the run's.
      timetable: timetable to use instead of the run's.
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
    """Passes a validation error to the plateau rule, if the config uses it.

    Returns:
      Whether the learning rate drops now.
    """
    schedule = self._setup.task.config.schedule
    return schedule.name == 'plateau' and self.progress.plateau.observe(
        error, schedule
    )
