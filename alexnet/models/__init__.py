"""Networks by name.

Each network file defines a `NETWORK` (see `Network`), which builds its module.
The module maps images [batch, height, width, channels] to logits
[batch, classes]; in training it also takes `dropout_keys`. Its attributes are

* `layer_names`: the layers whose outputs it keeps, see `layers.keep`;
* `head`: path of the layer that computes the logits;
* `dtype` and `tower_axis`, see `alexnet.AlexNet`; a network with one tower
  (`config.model.towers`) may ignore `tower_axis`;
* `precision`, if it supports that field, see `alexnet.AlexNet`;
* `data_axis`, if it needs statistics of the whole batch, see `on_mesh`;
* `everywhere` and `stride`, if it can be applied at every position of an image
  of any size, see `everywhere`.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from alexnet.config import validation
from alexnet.config.errors import ConfigError
from alexnet.runtime.mesh import DATA, TOWER
from input_pipeline.config import checks

# Imported when a config asks for them.
_MODULES = {
    'alexnet': 'alexnet.models.alexnet_config',
    'cuda_convnet': 'alexnet.cuda_convnet.config',
}

# Type aliases, so that callers need not import linen.
Module = nn.Module
Config = ml_collections.ConfigDict


def _crop(config):
  side = config.augmentation.crop_size
  return side, side, config.dataset.channels


@dataclasses.dataclass(frozen=True)
class Network:
  """Definition of a network: how to build it and how to check its config.

  Attributes:
    create: builds the module from `config.model`.
    checks: {dotted field: check} for fields added to or different from those of
      all configs; None removes a common field.
    conflicts: yields a message for each conflict between fields.
    complete: fills in fields of the config that other files define.
    outputs_are_given: whether other files define the number of outputs.
    parameter_rules: returns how each parameter is trained, as a tree of
      `schedules.Rule`; None if the config defines it.
    input_shape: returns (height, width, channels) of the module's input.
  """

  create: Callable[[Config], Module]
  checks: Mapping[str, checks.Check | None]
  conflicts: Callable[[Config], Iterable[str]] = lambda config: ()
  complete: Callable[[Config], None] = lambda config: None
  outputs_are_given: bool = False
  parameter_rules: Callable[[Config], Any] = lambda config: None
  input_shape: Callable[[Config], tuple[int, int, int]] = _crop


def network_of(config: Config) -> Network:
  """Returns the network that a whole config names."""
  return _network(config.model.name)


def _network(name):
  return importlib.import_module(_MODULES[name]).NETWORK


def fields(config: Config) -> dict[str, checks.Check]:
  """Returns the checks of the fields that a config must have.

  Args:
    config: the whole config; `model.name` selects the network.

  Raises:
    ConfigError: there is no such network.
  """
  # The name comes first, since it determines the other fields.
  name = {'model.name': checks.choice(*_MODULES)}
  validation.check(config, name)
  rows = name | validation.COMMON | network_of(config).checks
  return {field: row for field, row in rows.items() if row is not None}


def check(config: Config) -> None:
  """Checks every field of a config, and conflicts between them.

  Args:
    config: the whole config, from configs/ or a workdir.

  Raises:
    ConfigError: names the field, its value and the expected one.
  """
  validation.check(config, fields(config))
  for conflicts in (validation.conflicts, network_of(config).conflicts):
    for message in conflicts(config):
      raise ConfigError(message)


def create_model(config: Config) -> Module:
  """Builds the module that `config.model` describes.

  Args:
    config: the `model` part of a config checked by `check`, with `num_classes`
      set. configs/alexnet.py and configs/cuda_convnet.py explain its fields.

  Returns:
    An unbound linen module from [batch, height, width, 3] images to
    [batch, num_classes] logits.

  Raises:
    ConfigError: the network cannot have this number of outputs.
  """
  return _network(config.name).create(config)


def input_shape(config: Config) -> tuple[int, int, int]:
  """Returns (height, width, channels) of the input, for a whole config."""
  return network_of(config).input_shape(config)


def variable_shapes(model: Module, shape: tuple[int, int, int]) -> Any:
  """Returns the shapes of a network's variables.

  Args:
    model: module from `create_model`.
    shape: input shape, from `input_shape`.

  Returns:
    {collection: tree of `jax.ShapeDtypeStruct`}: 'params' and any other
    collections of the network, such as 'batch_stats'.

  Raises:
    ConfigError: the network has too many parameters to be stored.
  """
  shapes = _variable_shapes(model, shape)
  validation.check_size(number(shapes['params']))
  return jax.tree.map(lambda leaf: leaf, shapes)


@functools.lru_cache(maxsize=4)
def _variable_shapes(model, shape):
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), image)


def number(params: Any) -> int:
  """Returns the number of parameters in a tree of arrays or shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def on_mesh(model: Module) -> Module:
  """Returns the module that each device of a mesh runs in `jax.shard_map`.

  Sets `tower_axis`, the mesh axis that features are split over, and, for
  modules that need statistics of the whole batch (batch normalization),
  `data_axis`, the axis that examples are split over. Both are None elsewhere.
  """
  axes = {'tower_axis': TOWER, 'data_axis': DATA}
  return model.clone(**{
      name: axis for name, axis in axes.items() if hasattr(model, name)
  })


def everywhere(model: Module) -> Module:
  """Returns the network with its fully connected layers as convolutions.

  Returns:
    A module that uses the parameters of `model` and maps
    [batch, height, width, 3] images, at least as large as those of training, to
    [batch, places down, places across, classes] logits.

  Raises:
    ConfigError: the network has no such form, as those of definition files.
  """
  if not hasattr(model, 'everywhere'):
    raise ConfigError(
        'dense views need a network of configs/alexnet.py, not one of a '
        'definition file: use --views=ten'
    )
  return model.clone(everywhere=True)
