"""Loads the network of a run from its workdir."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
from absl import logging

from alexnet import models
from alexnet.checkpointing import input_spec, manager
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError
from alexnet.inference.predictor import TrainedNetwork
from alexnet.models.parameters import by_path
from alexnet.runtime import mesh
from input_pipeline import datasets
from input_pipeline.errors import DataError
from input_pipeline.files import paths


def load(
    workdir: str | os.PathLike,
    *,
    step: int | str | None = None,
    overrides: dict[str, Any] | None = None,
) -> TrainedNetwork:
  """Loads the network of a run, finished or under way.

  Args:
    workdir: of the run.
    step: of the checkpoint; 'best' for that of the best evaluation; None or
      'newest' for the newest, or, with a warning, the newest that is not
      damaged.
    overrides: {dotted field: value} of the config: where the data of a run is
      now that has no `inputs.npz` yet; `model.num_classes`, if the run had it
      set to more than its data has, in a file.

  Raises:
    CheckpointError: no run there, no such checkpoint, or it is damaged, or of
      another network than its config.
    ConfigError: a field of the config has a value that cannot work, or JAX
      cannot start.
    DataError: a run without `inputs.npz`, whose data is not there either, or
      has other classes than the network has outputs.
  """
  workdir = paths.local(workdir, 'the workdir')
  config = config_of_run(workdir, overrides)
  models.check(config)
  if config.model.num_classes is None:
    raise CheckpointError(
        f'{workdir} does not say how many classes its network has: it is no '
        'workdir that a run has made'
    )
  mesh.devices()  # That there are any; Orbax's message would be another.
  model = models.create_model(config.model)
  wanted = models.variable_shapes(model, models.input_shape(config))
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  which = manager.NEWEST if step is None else step
  with open_network(workdir, which) as network:
    inputs = input_spec.load(workdir)
    if inputs is None:
      # The config alone does not tell what was asked for and what came of data.
      spare = (
          models.network_of(config).outputs_are_given
          or 'model.num_classes' in (overrides or {})
          or _asked_for_outputs(workdir)
      )
      inputs = _inputs_from_data(config, workdir, spare)
    variables = network.restore(wanted, lambda shapes: jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=device
        ),
        shapes,
    ))
  names = input_spec.output_names(
      inputs.class_names, config.model.num_classes
  )
  size, side = config.dataset.size, len(inputs.mean_image)
  if side != size:
    raise CheckpointError(
        f'{workdir} has a mean image of {side} pixels, but dataset.size is '
        f'{size}: its files are not of one run'
    )
  params = variables.pop('params')
  return TrainedNetwork(
      config, network.step, names, inputs, model, params, variables
  )


def config_of_run(
    workdir: pathlib.Path, overrides: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """Config of a run with a checkpoint, for using its network.

  Args:
    workdir: of the run.
    overrides: {dotted field: value} for what this machine has elsewhere.

  Raises:
    CheckpointError: no run or no checkpoint there.
  """
  config = workdir_lib.load_config(workdir)
  # The devices and cores of the machine of the run say nothing here.
  with config.ignore_type():
    config.mesh.data = config.mesh.tower = None
    config.dataset.processes = 0
    config.update_from_flattened_dict(overrides or {})
  if manager.newest_step(workdir) is None:
    raise CheckpointError(
        f'{workdir} has no checkpoint yet: train the run first'
    )
  return config


@dataclasses.dataclass(frozen=True)
class StoredNetwork:
  """The network of a verified checkpoint, before its variables are read.

  Attributes:
    workdir: of the run.
    step: of the checkpoint.
    store: the run's checkpoints.
  """

  workdir: pathlib.Path
  step: int
  store: manager.Checkpoints

  def restore(self, wanted: Any, place: Callable[[Any], Any]) -> Any:
    """Reads its variables, as all do who use a network and do not train it.

    Args:
      wanted: their shapes as the config says, `models.variable_shapes`.
      place: adds to a tree of shapes where the arrays are to live.

    Returns:
      {'params': tree of arrays, and the collections of the model state}.

    Raises:
      CheckpointError: a shape differs, or files are damaged.
    """
    shapes = self.store.variable_shapes(self.step)
    check_shapes(self.workdir, self.step, shapes, wanted)
    return self.store.restore_variables(self.step, place(shapes))


@contextlib.contextmanager
def open_network(
    workdir: pathlib.Path,
    step: int | str = manager.NEWEST,
    report: Callable[[str], None] = logging.warning,
) -> Iterator[StoredNetwork]:
  """Finds a run's checkpoint without writing anything.

  Args:
    workdir: of the run.
    step: see `manager.Checkpoints.find`.
    report: is told of newer ones that are damaged.
  """
  with contextlib.closing(
      manager.Checkpoints(workdir, read_only=True)
  ) as store:
    yield StoredNetwork(workdir, store.find(step, report), store)


def check_shapes(
    workdir: pathlib.Path, step: int, got: Any, wanted: Any
) -> None:
  """Compares the shapes of a checkpoint and a network.

  Args:
    workdir: of the run, for the message.
    step: of the checkpoint.
    got: tree of the shapes that its metadata tells.
    wanted: tree of those of the config's network.

  Raises:
    CheckpointError: a shape or dtype differs, or a parameter is too many.
  """
  flat = lambda tree: {
      name.removeprefix('params/'): leaf
      for name, leaf in by_path(tree).items()
  }
  got, wanted = flat(got), flat(wanted)
  describe = lambda leaf: f'{leaf.dtype} {leaf.shape}' if leaf else 'nothing'
  for name in sorted(got.keys() | wanted.keys()):
    ours, theirs = describe(wanted.get(name)), describe(got.get(name))
    if ours != theirs:
      raise CheckpointError(
          f'the checkpoint of step {step} in {workdir} has {theirs} for '
          f'{name}, its config wants {ours}: its files are not of one run'
      )


def _asked_for_outputs(workdir):
  """Whether a command of the run had --config.model.num_classes."""
  try:
    sessions = workdir_lib.read_sessions(workdir / workdir_lib.ENVIRONMENT)
  except (OSError, ValueError):
    return False
  return any(
      'model.num_classes' in str(argument)
      for session in sessions
      for argument in session.get('command', ())
  )


def _inputs_from_data(config, workdir, spare):
  """Of the run's data; `spare`: whether it may have more outputs than that."""
  from input_pipeline.pipeline import Pipeline  # With it comes TensorFlow.

  try:
    train, evaluation = datasets.create_sources(config.dataset, config.seed)
    found, outputs = len(train.class_names), config.model.num_classes
    if found > outputs or (found < outputs and not spare):
      raise DataError(
          f'{train.name} has {found} classes and the network {outputs} '
          'outputs, so these are not the images that it was trained on'
      )
    return input_spec.of_pipeline(Pipeline(config, train, evaluation))
  except DataError as error:
    raise DataError(
        f'{workdir} has no {input_spec.FILE}, as runs of older versions, so '
        f'its data is needed ({error}): continue the run where its data is, '
        'with the command that made it, which writes that file'
    ) from error
