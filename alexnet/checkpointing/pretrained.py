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

# {'params': {layer: tree}, and the same for each collection of model state}.
Variables = dict[str, dict[str, Any]]


class Pretrained:
  """The layers that a run takes from another run's newest checkpoint.

  Attributes:
    workdir: of the other run.
    step: of its checkpoint.
    carried: names of the layers that are taken over.
    new: names of those that are not.
  """

  def __init__(self, config: ml_collections.ConfigDict, shapes: Variables):
    """Opens the other run and compares its layers with those of this one.

    Args:
      config: the `pretrained` part of a config, with `workdir` set.
      shapes: this run's variables, as arrays or shapes.

    Raises:
      ConfigError: a layer that is named is not there or has another shape, or
        no layer fits.
      CheckpointError: no run there, or all its checkpoints are damaged.
    """
    self.workdir = paths.local(config.workdir, 'pretrained.workdir')
    if manager.newest_step(self.workdir) is None:
      raise CheckpointError(
          f'pretrained.workdir {self.workdir} has no checkpoint: expected the '
          'workdir of a run that has saved one'
      )
    self._store = manager.Checkpoints(self.workdir, read_only=True)
    self.step = self._store.find()
    ours = _by_layer(shapes)
    theirs = _by_layer(self._store.variable_shapes(self.step))
    self.carried = self._choose(tuple(config.layers), ours, theirs)
    self.new = tuple(sorted(set(ours) - set(self.carried)))

  def _choose(self, named, ours, theirs):
    for layer in named:
      for whose, layers in (('this network', ours), (self.workdir, theirs)):
        if layer not in layers:
          raise ConfigError(
              f"pretrained.layers names '{layer}', which {whose} has not got: "
              f'it has {", ".join(sorted(layers))}'
          )
      if ours[layer] != theirs[layer]:
        raise ConfigError(
            f"pretrained.layers names '{layer}', whose shapes differ: "
            f'{ours[layer]} in this network, {theirs[layer]} in '
            f'{self.workdir}. Leave it out, or make the layers equal'
        )
    if named:
      return tuple(sorted(set(named)))
    common = sorted(set(ours) & set(theirs))
    fitting = tuple(
        layer for layer in common if ours[layer] == theirs[layer]
    )
    if not fitting:
      differing = '; '.join(
          f'{layer} {ours[layer]} here, {theirs[layer]} there'
          for layer in common
      )
      raise ConfigError(
          f'nothing of {self.workdir} fits this network: '
          f'{differing or "no layer has the same name"}. Set '
          '--config.model to a network that shares layers with it'
      )
    return fitting

  def load(self, variables: Variables, mesh: Mesh) -> Variables:
    """Reads the layers that are carried over.

    Args:
      variables: this run's initial ones, on the mesh.
      mesh: any; not necessarily that of the other run.

    Returns:
      The variables to start from, on the mesh.
    """
    wanted = {
        name: {layer: tree[layer] for layer in self.carried if layer in tree}
        for name, tree in variables.items()
    }
    loaded = self._store.restore_variables(
        self.step, sharding.targets(wanted, mesh)
    )
    self._store.close()
    return {name: {**variables[name], **loaded[name]} for name in variables}

  def record(self) -> dict[str, Any]:
    """Record of the layers and their origin, for the run's files."""
    return {
        'workdir': str(self.workdir),
        'step': self.step,
        'carried': list(self.carried),
        'new': list(self.new),
    }


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError if layers are given without a workdir.

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


def _by_layer(variables):
  """Groups shapes by layer: {layer: {path: shape}}."""
  layers = {}
  for collection, tree in variables.items():
    for path, leaf in jax.tree.leaves_with_path(tree):
      path = jax.tree_util.keystr(path, simple=True, separator='/')
      layer, _, name = path.partition('/')
      if collection != 'params':
        name = f'{collection}: {name}'
      layers.setdefault(layer, {})[name] = leaf.shape
  return layers
