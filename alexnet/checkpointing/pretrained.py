"""Fine-tuning, in which a run starts from another run's parameters (paper §6).

Shapes are compared before the run writes any file; arrays are read later, when
the run's own variables are on the mesh.
"""

from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from alexnet.checkpointing import manager
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.runtime import sharding
from input_pipeline.files import paths

# {collection: {layer: tree}}, of 'params' and each collection of model state.
Variables = dict[str, dict[str, Any]]


class Pretrained:
  """The layers that a run takes from another run's newest checkpoint.

  Attributes:
    workdir: workdir of the other run.
    step: step of the other run's checkpoint.
    carried: names of the layers that are taken from it, sorted.
    new: names of this network's other layers, sorted.
  """

  def __init__(self, config: ml_collections.ConfigDict, shapes: Variables):
    """Opens the other run and compares its layers with those of this one.

    Args:
      config: the `pretrained` part of a config, with `workdir` set.
      shapes: this run's variables, as arrays or `jax.ShapeDtypeStruct`.

    Raises:
      ConfigError: a layer of `config.layers` does not exist or has other
        shapes, or no layer fits.
      CheckpointError: the workdir has no checkpoint, or all are damaged.
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
              f"pretrained.layers names '{layer}', which {whose} lacks: "
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
    """Reads the carried layers, and closes the other run.

    Args:
      variables: this run's initial variables, on the mesh.
      mesh: this run's mesh; the other run's may differ.

    Returns:
      The variables with the carried layers replaced, on the mesh.
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
    """Returns the layers and their origin as values of JSON."""
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
  """Returns a line of text about a `Pretrained.record`."""
  new = ', '.join(record['new']) or 'none'
  return (
      f'{", ".join(record["carried"])} from {record["workdir"]}, step '
      f'{record["step"]:,}; new: {new}'
  )


def _by_layer(variables):
  """Returns the shapes by layer, {layer: {path: shape}}."""
  layers = {}
  for collection, tree in variables.items():
    for path, leaf in jax.tree.leaves_with_path(tree):
      path = jax.tree_util.keystr(path, simple=True, separator='/')
      layer, _, name = path.partition('/')
      if collection != 'params':
        name = f'{collection}: {name}'
      layers.setdefault(layer, {})[name] = leaf.shape
  return layers
