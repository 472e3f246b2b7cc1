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
  """Loads the network of a finished or running run.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint; 'best' for the best evaluation's; None or
      'newest' for the newest, or, with a warning, the newest undamaged one.
    overrides: {dotted field: value} of the config. Needed for the data's
      folders if they have moved and the run has no `inputs.npz` yet, and for
      `model.num_classes` if a config file set it to more than the data's
      classes.

  Raises:
    CheckpointError: there is no run, no such checkpoint, or the checkpoint is
      damaged or does not match the run's config.
    ConfigError: a field of the config has an invalid value, or JAX cannot
      start.
    DataError: a run without `inputs.npz` whose data is missing, or has other
      classes than the network has outputs.
  """
  workdir = paths.local(workdir, 'the workdir')
  config = config_of_run(workdir, overrides)
  models.check(config)
  if config.model.num_classes is None:
    raise CheckpointError(
        f'{workdir} does not say how many classes its network has: it is not '
        'the workdir of a run'
    )
  mesh.devices()  # Fails with a clearer message than Orbax without devices.
  model = models.create_model(config.model)
  wanted = models.variable_shapes(model, models.input_shape(config))
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  which = manager.NEWEST if step is None else step
  with open_network(workdir, which) as network:
    inputs = input_spec.load(workdir)
    if inputs is None:
      # The config alone does not tell a requested number from the data's.
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
  channels, found = config.dataset.channels, inputs.mean_image.shape[-1]
  if found != channels:
    raise CheckpointError(
        f'{workdir} has a mean image of {found} channel(s), but '
        f'dataset.channels is {channels}: its files are not of one run'
    )
  params = variables.pop('params')
  return TrainedNetwork(
      config, network.step, names, inputs, model, params, variables
  )


def config_of_run(
    workdir: pathlib.Path, overrides: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """Loads the config of a run with a checkpoint, for using its network.

  Args:
    workdir: folder of the run.
    overrides: {dotted field: value} for paths that differ on this machine.

  Raises:
    CheckpointError: the folder has no run or no checkpoint.
  """
  config = workdir_lib.load_config(workdir)
  # The run's devices and cores may not exist on this machine.
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
    workdir: folder of the run.
    step: step of the checkpoint.
    store: the run's checkpoints.
  """

  workdir: pathlib.Path
  step: int
  store: manager.Checkpoints

  def restore(self, wanted: Any, place: Callable[[Any], Any]) -> Any:
    """Reads the network's variables, without the optimizer's state.

    Args:
      wanted: tree of expected shapes, see `models.variable_shapes`.
      place: adds to a tree of shapes the placement of its arrays.

    Returns:
      {'params': tree of arrays, and the collections of the model's state}.

    Raises:
      CheckpointError: a shape differs, or a file is damaged.
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
    workdir: folder of the run.
    step: the checkpoint, see `manager.Checkpoints.find`.
    report: called with a message about newer, damaged checkpoints.

  Yields:
    The network; its checkpoints are closed when the context ends.

  Raises:
    CheckpointError: there is no such checkpoint, or it is damaged.
  """
  with contextlib.closing(
      manager.Checkpoints(workdir, read_only=True)
  ) as store:
    yield StoredNetwork(workdir, store.find(step, report), store)


def check_shapes(
    workdir: pathlib.Path, step: int, got: Any, wanted: Any
) -> None:
  """Compares the shapes of a checkpoint with those of a network.

  Args:
    workdir: folder of the run, for the message.
    step: step of the checkpoint.
    got: tree of shapes in the checkpoint's metadata.
    wanted: tree of shapes of the config's network.

  Raises:
    CheckpointError: a shape or dtype differs, or there are extra parameters.
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
  """Returns whether the run's command line set --config.model.num_classes."""
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
  """Creates inputs from the run's data.

  Args:
    config: the run's whole config.
    workdir: folder of the run, for the message.
    spare: whether the network may have more outputs than there are classes.
  """
  from input_pipeline.pipeline import Pipeline  # Imports TensorFlow.

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
