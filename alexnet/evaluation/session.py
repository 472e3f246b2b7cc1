"""Opens a run, finished or under way, to evaluate it; writes nothing there."""

import contextlib
import dataclasses
import pathlib
from typing import Any

import ml_collections

from alexnet.checkpointing import manager
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError
from alexnet.evaluation.evaluator import Predictions
from alexnet.evaluation.task import Task
from alexnet.inference.loading import check_shapes
from alexnet.metrics.console import Console, tell_of_data
from alexnet.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Session:
  """The parameters of a checkpoint, on the mesh, beside the run's data.

  Attributes:
    task: what the run's config makes, with its data open.
    params: {layer: {'kernel', 'bias'}} float32.
    step: of the checkpoint.
  """

  task: Task
  params: Any
  step: int

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The run's whole config."""
    return self.task.config

  def evaluate(self, views: str) -> dict[str, float]:
    """The result on the evaluation set, see `evaluator.evaluate`."""
    return self.task.evaluate(self.params, views)

  def predict(self, views: str) -> Predictions:
    """What the network says of each image of the evaluation set."""
    return self.task.predict(self.params, views)


def config_of_run(
    workdir: pathlib.Path, overrides: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """The config to open a run by that has a checkpoint, to look at it.

  Args:
    workdir: of the run.
    overrides: {dotted field: value} for what this machine has elsewhere.

  Raises:
    CheckpointError: no run or no checkpoint there.
  """
  config = workdir_lib.load_config(workdir)
  # The devices of the machine that the run was made on say nothing here.
  with config.ignore_type():
    config.mesh.data = config.mesh.tower = None
    config.update_from_flattened_dict(overrides or {})
  if manager.newest_step(workdir) is None:
    raise CheckpointError(
        f'{workdir} has no checkpoint yet: train the run first'
    )
  return config


def open_run(
    workdir: pathlib.Path,
    console: Console,
    overrides: dict[str, Any] | None = None,
    step: int | str = manager.NEWEST,
) -> Session:
  """Opens a run as by `config_of_run`, for messages on `console`.

  Args:
    workdir: of the run.
    console: for messages.
    overrides: see `config_of_run`.
    step: of the checkpoint, see `manager.Checkpoints.find`. If the newest is
      damaged, it says so and takes the one before.

  Raises:
    UserError: as of `config_of_run` and `Task`; or the checkpoint is damaged,
      or of another network or other data than the config's.
  """
  task = Task(config_of_run(workdir, overrides), console)
  workdir_lib.check_config(workdir, task.config)
  tell_of_data(task.console, task.train, task.evaluation)
  task.open_data()
  with contextlib.closing(
      manager.Checkpoints(workdir, read_only=True)
  ) as store:
    step = store.find(step, task.warn)
    manager.check_data(
        workdir,
        store.trained_on(step),
        task.data_identity,
        task.data_names,
    )
    shapes = store.parameter_shapes(step)
    check_shapes(workdir, step, shapes, task.param_shapes)
    target = sharding.targets(shapes, task.mesh)
    return Session(task, store.restore_parameters(step, target), step)
