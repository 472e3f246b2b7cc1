"""Networks by name.

The file of a network has a `NETWORK`, see `Network`, which makes its module.
Called with images, [batch, height, width, channels], and for training also with
`dropout_keys`, the module gives logits, [batch, classes]. It has

* `layer_names`, of the layers whose outputs it keeps, see `layers.keep`;
* `head`, the path of the layer that gives the logits;
* `dtype` and `tower_axis`, see `alexnet.AlexNet`; a network of one tower, as
  `config.model.towers` says, need not look at the latter;
* `data_axis`, if it needs numbers of the whole batch, see `on_mesh`;
* `everywhere` and `stride`, if it can be computed at every place of an image of
  any size, see `everywhere`.
"""

import dataclasses
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

# For the types of those who use a model without knowing linen.
Module = nn.Module
Config = ml_collections.ConfigDict


def _crop(config):
  side = config.augmentation.crop_size
  return side, side, 3


@dataclasses.dataclass(frozen=True)
class Network:
  """What a network's file must provide.

  Attributes:
    create: makes the module of `config.model`.
    checks: {dotted field: what it may be} of the fields that its configs have
      beside those of all configs, or that may be something else in them; None
      for one that they have not got.
    conflicts: yields what cannot be together in a config.
    complete: fills in what other files say of the network.
    outputs_are_given: whether other files say how many outputs there are.
    parameter_rules: how each parameter is trained, as a tree of
      `schedules.Rule`; None where the config says it.
    input_shape: (height, width, channels) of what the module reads.
  """

  create: Callable[[Config], Module]
  checks: Mapping[str, checks.Check | None]
  conflicts: Callable[[Config], Iterable[str]] = lambda config: ()
  complete: Callable[[Config], None] = lambda config: None
  outputs_are_given: bool = False
  parameter_rules: Callable[[Config], Any] = lambda config: None
  input_shape: Callable[[Config], tuple[int, int, int]] = _crop


def network_of(config: Config) -> Network:
  """The network that a whole config names."""
  return _network(config.model.name)


def _network(name):
  return importlib.import_module(_MODULES[name]).NETWORK


def fields(config: Config) -> dict[str, checks.Check]:
  """Checks of the fields that a config must have.

  Args:
    config: the whole config; `model.name` says of which network.

  Raises:
    ConfigError: there is no such network.
  """
  # First the name, by which it is known which fields there have to be.
  name = {'model.name': checks.choice(*_MODULES)}
  validation.check(config, name)
  rows = name | validation.COMMON | network_of(config).checks
  return {field: row for field, row in rows.items() if row is not None}


def check(config: Config) -> None:
  """Checks every field of a config, and conflicts between them.

  Args:
    config: the whole config, as from configs/ or a workdir.

  Raises:
    ConfigError: names the field, what it is and what is wanted.
  """
  validation.check(config, fields(config))
  for conflicts in (validation.conflicts, network_of(config).conflicts):
    for message in conflicts(config):
      raise ConfigError(message)


def create_model(config: Config) -> Module:
  """Builds the module that `config.model` describes.

  Args:
    config: the `model` part of a config that `check` has seen, with
      `num_classes` set; its fields are explained in configs/alexnet.py and
      configs/cuda_convnet.py.

  Returns:
    An unbound linen module from [batch, height, width, 3] images to
    [batch, num_classes] logits.

  Raises:
    ConfigError: no network has so many outputs.
  """
  return _network(config.name).create(config)


def input_shape(config: Config) -> tuple[int, int, int]:
  """(height, width, channels) of the network's input, for a whole config."""
  return network_of(config).input_shape(config)


def variable_shapes(model: Module, shape: tuple[int, int, int]) -> Any:
  """Shapes of a network's variables.

  Args:
    model: from `create_model`.
    shape: of its input, from `input_shape`.

  Returns:
    {'params': tree of `jax.ShapeDtypeStruct`}, and in the same way the other
    collections that the network has, such as 'batch_stats'.

  Raises:
    ConfigError: there are more parameters than anything here could hold.
  """
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  validation.check_size(number(shapes['params']))
  return shapes


def number(params: Any) -> int:
  """Number of parameters in a tree of arrays or shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def on_mesh(model: Module) -> Module:
  """The network that each device of a mesh computes in `jax.shard_map`.

  A module has `tower_axis`, the mesh axis that features are split over. One
  that needs numbers of the whole batch, as batch normalization does, also has
  `data_axis`, that examples are split over. Outside they are None.
  """
  axes = {'tower_axis': TOWER, 'data_axis': DATA}
  return model.clone(**{
      name: axis for name, axis in axes.items() if hasattr(model, name)
  })


def everywhere(model: Module) -> Module:
  """The same network with its fully connected layers as convolutions.

  Returns:
    A module from [batch, height, width, 3] images of any size from that of
    training on to [batch, places down, places across, classes] logits, with the
    parameters of `model`.

  Raises:
    ConfigError: the network has no such form, as those of definition files.
  """
  if not hasattr(model, 'everywhere'):
    raise ConfigError(
        'dense views need a network of configs/alexnet.py, not one of a '
        'definition file: use --views=ten'
    )
  return model.clone(everywhere=True)
