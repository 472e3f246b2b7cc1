"""Opens a run for evaluation, finished or not, without writing anything."""

import dataclasses
import pathlib
from typing import Any

import ml_collections

from alexnet.checkpointing import continuing, manager
from alexnet.evaluation.evaluator import Predictions
from alexnet.evaluation.task import Task
from alexnet.inference import loading
from alexnet.metrics.console import Console, tell_of_data
from alexnet.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Session:
  """The parameters of a checkpoint on the mesh, and the run's data.

  Attributes:
    task: what the run's config makes, with its data open.
    variables: {'params': tree of float32, and the collections of model state}.
    step: of the checkpoint.
  """

  task: Task
  variables: Any
  step: int

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The run's whole config."""
    return self.task.config

  def evaluate(self, views: str) -> dict[str, float]:
    """The result on the evaluation set, see `evaluator.evaluate`."""
    return self.task.evaluate(self.variables, views)

  def predict(self, views: str) -> Predictions:
    """Predictions for each image of the evaluation set."""
    return self.task.predict(self.variables, views)


def open_run(
    workdir: pathlib.Path,
    console: Console,
    overrides: dict[str, Any] | None = None,
    step: int | str = manager.NEWEST,
) -> Session:
  """Opens a run to evaluate it.

  Args:
    workdir: of the run.
    console: for messages.
    overrides: see `loading.config_of_run`.
    step: of the checkpoint, see `manager.Checkpoints.find`. If the newest is
      damaged, it says so and takes the one before.

  Raises:
    UserError: as of `loading.config_of_run` and `Task`; or the checkpoint is
      damaged,
      or of another network or other data than the config's.
  """
  task = Task(loading.config_of_run(workdir, overrides), console)
  continuing.check_config(workdir, task.config)
  tell_of_data(task.console, task.train, task.evaluation)
  task.open_data()
  with loading.open_network(workdir, step, task.warn) as network:
    manager.check_data(
        workdir,
        network.store.trained_on(network.step),
        task.data_identity,
        task.data_names,
    )
    variables = network.restore(
        task.shapes, lambda shapes: sharding.targets(shapes, task.mesh)
    )
  return Session(task, variables, network.step)
