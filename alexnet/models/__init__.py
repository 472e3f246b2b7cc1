"""Networks by name: the one place that knows which there are.

The module of a network has

* `CHECKS`, {dotted field: what it may be} of the fields that its configs have
  beside those of all configs, or that may be something else in them; None for
  one that they have not got;
* `conflicts(config)`, which yields what cannot be together in them;
* `complete(config)`, which fills in what other files say of the network;
* `create(config.model)`, a linen module;
* `parameter_rules(config)`, how each parameter is trained, or None, where the
  config says it;
* `OUTPUTS_ARE_GIVEN`, whether other files say how many outputs there are.
"""

import importlib
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from alexnet.config import checks, validation
from alexnet.config.errors import ConfigError
from alexnet.runtime.mesh import DATA, TOWER

# Imported when a config asks for them.
_MODULES = {
    'alexnet': 'alexnet.models.alexnet_config',
    'cuda_convnet': 'alexnet.cuda_convnet.config',
}

# For the types of those who use a model without knowing linen.
Module = nn.Module


def module_of(config: ml_collections.ConfigDict) -> ModuleType:
  """The module of the network that a whole config names, see above."""
  return importlib.import_module(_MODULES[config.model.name])


def fields(config: ml_collections.ConfigDict) -> dict[str, checks.Check]:
  """What each field may be that a config has to have.

  Args:
    config: the whole config; `model.name` says of which network.

  Raises:
    ConfigError: there is no such network.
  """
  # First the name, by which it is known which fields there have to be.
  name = {'model.name': checks.choice(*_MODULES)}
  validation.check(config, name)
  rows = name | validation.COMMON | module_of(config).CHECKS
  return {field: row for field, row in rows.items() if row is not None}


def check(config: ml_collections.ConfigDict) -> None:
  """Looks at every field of a config, and whether they fit each other.

  Args:
    config: the whole config, as from configs/ or a workdir.

  Raises:
    ConfigError: names the field, what it is and what is wanted.
  """
  validation.check(config, fields(config))
  for conflicts in (validation.conflicts, module_of(config).conflicts):
    for message in conflicts(config):
      raise ConfigError(message)


def create_model(config: ml_collections.ConfigDict) -> Module:
  """Builds the module that `config.model` describes.

  Args:
    config: the `model` part of a config, with `num_classes` set; its fields are
      explained in configs/alexnet.py and configs/cuda_convnet.py.

  Returns:
    An unbound linen module from [batch, height, width, 3] images to
    [batch, num_classes] logits.

  Raises:
    ConfigError: a field has a value that no network can be built from.
  """
  if config.name not in _MODULES:
    raise ConfigError(
        f"model.name is '{config.name}', wanted "
        + ' or '.join(map(repr, _MODULES))
        + ': set --config.model.name=alexnet'
    )
  return importlib.import_module(_MODULES[config.name]).create(config)


def variable_shapes(model: Module, crop: int) -> Any:
  """Shapes of a network's variables, before there are any.

  Args:
    model: from `create_model`.
    crop: side of its input, in pixels.

  Returns:
    {'params': tree of `jax.ShapeDtypeStruct`}, and in the same way the other
    collections that the network has, such as 'batch_stats'.

  Raises:
    ConfigError: there are more parameters than anything here could hold.
  """
  image = jax.ShapeDtypeStruct((1, crop, crop, 3), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  validation.check_size(number(shapes['params']))
  return shapes


def number(params: Any) -> int:
  """How many numbers a tree of parameters, or of their shapes, has."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def on_mesh(model: Module) -> Module:
  """A network as each device of a mesh computes it, inside `jax.shard_map`.

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
    ConfigError: a network of a definition file, whose layers may be of kinds
      that have no such form.
  """
  if not hasattr(model, 'everywhere'):
    raise ConfigError(
        'dense views need a network of configs/alexnet.py, this one is of a '
        'definition file: use --views=ten'
    )
  return model.clone(everywhere=True)
