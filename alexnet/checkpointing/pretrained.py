"""Fine-tuning: a run that starts from the parameters of another one (paper §6).

What has to fit is looked at before anything is written; arrays are read once
the mesh has a place for them.
"""

from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from alexnet.checkpointing import manager
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.runtime import sharding
from input_pipeline.files import paths

# {layer: arrays in dictionaries}.
Params = dict[str, Any]


class Pretrained:
  """The layers that a run takes over from another run's newest checkpoint.

  Attributes:
    workdir: of the other run.
    step: of its checkpoint.
    carried: names of the layers that are taken over.
    new: names of those that are not.
  """

  def __init__(self, config: ml_collections.ConfigDict, shapes: Params):
    """Finds the other run and compares its layers with those of this one.

    Args:
      config: the `pretrained` part of a config, with `workdir` set.
      shapes: this run's parameters, {layer: {'kernel', 'bias'}}, as arrays or
        shapes.

    Raises:
      ConfigError: a layer that is named is not there or has another shape, or
        no layer fits.
      CheckpointError: no run there, or all its checkpoints are damaged.
    """
    self.workdir = paths.local(config.workdir, 'pretrained.workdir')
    if manager.newest_step(self.workdir) is None:
      raise CheckpointError(
          f'pretrained.workdir {self.workdir} has no checkpoint: wanted the '
          'workdir of a run that has saved one'
      )
    self._store = manager.Checkpoints(self.workdir, read_only=True)
    self.step = self._store.find()
    theirs = self._store.parameter_shapes(self.step)
    self.carried = self._choose(tuple(config.layers), shapes, theirs)
    self.new = tuple(sorted(set(shapes) - set(self.carried)))

  def _choose(self, named, ours, theirs):
    for layer in named:
      for whose, params in (('this network', ours), (self.workdir, theirs)):
        if layer not in params:
          raise ConfigError(
              f"pretrained.layers names '{layer}', which {whose} has not got: "
              f'it has {", ".join(sorted(params))}'
          )
      if _shapes_of(ours[layer]) != _shapes_of(theirs[layer]):
        raise ConfigError(
            f"pretrained.layers names '{layer}', whose shapes differ: "
            f'{_shapes_of(ours[layer])} in this network, '
            f'{_shapes_of(theirs[layer])} in {self.workdir}. Leave it out, or '
            'make the layers equal'
        )
    if named:
      return tuple(sorted(set(named)))
    common = sorted(set(ours) & set(theirs))
    fitting = tuple(
        layer
        for layer in common
        if _shapes_of(ours[layer]) == _shapes_of(theirs[layer])
    )
    if not fitting:
      differing = '; '.join(
          f'{layer} {_shapes_of(ours[layer])} here, '
          f'{_shapes_of(theirs[layer])} there'
          for layer in common
      )
      raise ConfigError(
          f'nothing of {self.workdir} fits this network: '
          f'{differing or "no layer has the same name"}. Set '
          '--config.model to a network that shares layers with it'
      )
    return fitting

  def load(self, params: Params, mesh: Mesh) -> Params:
    """Reads the layers that are carried over.

    Args:
      params: this run's initial parameters, on the mesh.
      mesh: any; not necessarily that of the other run.

    Returns:
      The parameters to start from, on the mesh.
    """
    wanted = {layer: params[layer] for layer in self.carried}
    loaded = self._store.restore_parameters(
        self.step, sharding.targets(wanted, mesh)
    )
    self._store.close()
    return {**params, **loaded}

  def record(self) -> dict[str, Any]:
    """What was taken from where, for the run's files."""
    return {
        'workdir': str(self.workdir),
        'step': self.step,
        'carried': list(self.carried),
        'new': list(self.new),
    }


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError if layers are to be taken, but not said from where.

  Args:
    config: the `pretrained` part of a config.
  """
  if config.layers and config.workdir is None:
    raise ConfigError(
        f'pretrained.layers is {config.layers}, but no run to take them from '
        'is given: set --config.pretrained.workdir to its workdir'
    )


def describe(record: dict[str, Any]) -> str:
  """One line about a `Pretrained.record`."""
  new = ', '.join(record['new']) or 'none'
  return (
      f'{", ".join(record["carried"])} from {record["workdir"]}, step '
      f'{record["step"]:,}; new: {new}'
  )


def _shapes_of(layer):
  return jax.tree.map(lambda leaf: leaf.shape, layer)
