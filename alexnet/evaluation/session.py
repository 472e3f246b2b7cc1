"""Evaluation of a run, finished or not, without writing anything."""

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
  """Variables of a checkpoint on the mesh, and the run's data.

  Attributes:
    task: config, network, data and devices of the run, with its data open.
    variables: {'params': tree of float32, and the collections of model state}.
    step: step of the checkpoint.
  """

  task: Task
  variables: Any
  step: int

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The run's whole config."""
    return self.task.config

  def evaluate(self, views: str) -> dict[str, float]:
    """Evaluates the network on the evaluation set, see `evaluator.evaluate`."""
    return self.task.evaluate(self.variables, views)

  def predict(self, views: str) -> Predictions:
    """Predicts the classes of the evaluation set, see `evaluator.predict`."""
    return self.task.predict(self.variables, views)


def open_run(
    workdir: pathlib.Path,
    console: Console,
    overrides: dict[str, Any] | None = None,
    step: int | str = manager.NEWEST,
) -> Session:
  """Opens a run to evaluate it.

  Args:
    workdir: folder of the run.
    console: console for messages.
    overrides: {dotted field: value}, see `loading.config_of_run`.
    step: the checkpoint, see `manager.Checkpoints.find`. If the newest is
      damaged, a warning is printed and the newest undamaged one is used.

  Raises:
    UserError: see `loading.config_of_run` and `Task`; or the checkpoint is
      damaged, or its network or data differs from the config's.
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
