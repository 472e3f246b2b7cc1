"""Compiles the training step for a mesh and analyses it, without running it.

Devices are CPU threads that never start, and arrays are shapes. Collectives are
read from the optimized module of one device, after XLA has merged and removed
what it can.
"""

import collections
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from alexnet.models import create_model
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding as sharding_lib
from alexnet.training import optimizer, train_step

_BYTES = {'f32': 4, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'pred': 1}
_KINDS = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'collective-broadcast', 'ragged-all-to-all',
)
# Some backends start a collective with `-start` and overlap other work.
_COLLECTIVE = re.compile(
    rf'= (?P<shape>\(.*?\)|\S+) (?P<kind>{"|".join(_KINDS)})'
    r'(?P<start>-start)?\('
)
_LAYER = re.compile(r'\b(?:conv|fc)\d\b')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of the compiled step, as seen by each device.

  Attributes:
    kind: its name in HLO.
    axis: mesh axes along which its devices differ: 'data', 'tower' or
      'data+tower'.
    layer: layer whose input is gathered or whose gradient is reduced; 'logits';
      'loss' (with top-1); or 'gradients', of all layers in one operation.
    backward: whether it belongs to the backward pass.
    shapes: shape of each result.
    size: bytes of the complete arrays after gathering or before reducing.
    devices: number of devices that take part together.
  """

  kind: str
  axis: str
  layer: str
  backward: bool
  shapes: tuple[tuple[int, ...], ...]
  size: int
  devices: int

  @property
  def sent(self) -> float:
    """Least number of bytes that a device sends (on a ring)."""
    share = (self.devices - 1) / self.devices
    return self.size * share * (2 if self.kind == 'all-reduce' else 1)


@dataclasses.dataclass(frozen=True)
class Report:
  """One compiled step; all numbers are of one device.

  Attributes:
    data, tower: size of the mesh.
    parameters: bytes of the parameters; the velocity has as many.
    arguments: bytes of parameters, velocity and batch.
    temporaries: bytes of activations, gradients and other temporaries.
    flops: floating-point operations as counted by XLA.
    analytic_flops: floating-point operations of convolutions and matrix
      products, see `step_flops`.
    collectives: the collectives, in program order.
    before_xla: number of collectives of each kind before XLA's optimization.
  """

  data: int
  tower: int
  parameters: int
  arguments: int
  temporaries: int
  flops: float
  analytic_flops: float
  collectives: tuple[Collective, ...]
  before_xla: dict[str, int]


def compile_step(config: ml_collections.ConfigDict) -> Report:
  """Compiles the training step of a config for its mesh.

  Args:
    config: config of configs/alexnet.py, with model.num_classes, mesh.data and
      mesh.tower set.

  Raises:
    ConfigError: the mesh cannot be created, see `mesh.create_mesh`.
    ValueError: the module has unknown HLO.
  """
  mesh = mesh_lib.create_mesh(config)
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  crop = config.augmentation.crop_size
  state = jax.eval_shape(
      lambda key: train_step.create_state(model, rule, key, (crop, crop, 3)),
      jax.random.key(0),
  )
  step = train_step.make_train_step(
      model=model,
      optimizer=rule,
      mesh=mesh,
      state=state,
      images=lambda batch: batch['image'],
      seed=0,
      accumulation=config.accumulation,
  )
  over_data = NamedSharding(mesh, sharding_lib.BATCH)
  place = lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
  )
  count = config.batch_size
  batch = {
      'image': jax.ShapeDtypeStruct(
          (count, crop, crop, 3), jnp.float32, sharding=over_data
      ),
      'label': jax.ShapeDtypeStruct((count,), jnp.int32, sharding=over_data),
  }
  rates = jax.tree.map(
      lambda _: jax.ShapeDtypeStruct((), jnp.float32), state.params
  )
  lowered = step.lower(
      jax.tree.map(place, state, sharding_lib.shardings(state, mesh)),
      batch,
      rates,
  )
  compiled = lowered.compile()
  costs = compiled.cost_analysis()
  memory = compiled.memory_analysis()
  tower = mesh.shape[mesh_lib.TOWER]
  return Report(
      data=mesh.shape[mesh_lib.DATA],
      tower=tower,
      parameters=_local_bytes(state.params, mesh),
      arguments=memory.argument_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      flops=costs['flops'],
      analytic_flops=sum(step_flops(config).values())
      * count
      / (mesh.shape[mesh_lib.DATA] * tower),
      collectives=read_collectives(compiled.as_text(), tower),
      before_xla=_count_before_xla(lowered.as_text()),
  )


def _local_bytes(tree, mesh):
  shardings = sharding_lib.shardings(tree, mesh)
  sizes = jax.tree.map(
      lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape))
      * leaf.dtype.itemsize,
      tree,
      shardings,
  )
  return sum(jax.tree.leaves(sizes))


def _count_before_xla(text):
  names = re.findall(
      r'stablehlo\.(all_gather|all_reduce|reduce_scatter|all_to_all'
      r'|collective_\w+)"?\(',
      text,
  )
  return dict(collections.Counter(names))


def step_flops(config: ml_collections.ConfigDict) -> dict[str, float]:
  """Floating-point operations of each layer in a training step, per image.

  A convolution or matrix product with its two gradients takes three times its
  multiply-adds, of two operations each; the first layer has no input gradient.
  Products with padding are counted, all other operations are not.

  Args:
    config: see `compile_step`.
  """
  model = create_model(config.model)
  crop = config.augmentation.crop_size
  _, seen = jax.eval_shape(
      lambda key, x: model.init_with_output(
          key, x, capture_intermediates=True
      ),
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, crop, crop, 3), jnp.float32),
  )
  flops = {}
  for index, (layer, params) in enumerate(seen['params'].items()):
    (output,) = seen['intermediates'][layer]['__call__']
    positions = math.prod(output.shape[1:-1])
    multiply_adds = positions * math.prod(params['kernel'].shape)
    flops[layer] = 2.0 * multiply_adds * (2 if index == 0 else 3)
  return flops


def read_collectives(text: str, tower: int) -> tuple[Collective, ...]:
  """Parses the collectives of a compiled module, in program order.

  Collectives of a single device, as for an axis of size one, move nothing and
  are left out.

  Args:
    text: HLO of the module.
    tower: size of the mesh's last axis, to name the axes.

  Raises:
    ValueError: the HLO has an unknown form.
  """
  found = []
  for line in text.splitlines():
    match = _COLLECTIVE.search(line)
    if not match:
      continue
    groups = _groups(line)
    if groups.shape[1] == 1:
      continue
    kind, shapes = match['kind'], _shapes(match['shape'])
    operands = line[match.end():].split(')')[0].count('%')
    if match['start'] and len(shapes) == 2 * operands:
      shapes = shapes[operands:]  # The operands come first.
    size = sum(math.prod(shape) * width for shape, width in shapes)
    if kind == 'reduce-scatter':
      size *= groups.shape[1]
    name = re.search(r'op_name="([^"]*)"', line)
    name = name[1] if name else ''
    found.append(
        Collective(
            kind=kind,
            axis=_axis(groups, tower),
            layer=_layer(name, shapes),
            backward='transpose(' in name,
            shapes=tuple(shape for shape, _ in shapes),
            size=size,
            devices=groups.shape[1],
        )
    )
  return tuple(found)


def _shapes(text) -> list[tuple[tuple[int, ...], int]]:
  """[(shape, bytes of an element)] of an HLO shape or a tuple of them."""
  arrays = re.findall(r'(\w+)\[([\d,]*)\]', re.sub(r'/\*.*?\*/', '', text))
  unknown = {dtype for dtype, _ in arrays} - _BYTES.keys()
  if unknown or not arrays:
    raise ValueError(
        f'a collective of {text}: expected arrays of {list(_BYTES)}'
    )
  return [
      (tuple(int(side) for side in shape.split(',') if side), _BYTES[dtype])
      for dtype, shape in arrays
  ]


def _groups(line) -> np.ndarray:
  """[groups, devices of a group] indices in the mesh, row by row."""
  listed = re.search(r'replica_groups=\{(\{.*?\})\}', line)
  if listed:
    rows = re.findall(r'\{([\d,]+)\}', listed[1])
    return np.array([[int(n) for n in row.split(',')] for row in rows])
  # mesh['data'=4,'tower'=2] {'tower'}: groups along the axes named last.
  named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)
  if named:
    sizes = {
        name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])
    }
    along = re.findall(r"'(\w+)'", named[2])
    across = [name for name in sizes if name not in along]
    devices = np.arange(math.prod(sizes.values())).reshape([*sizes.values()])
    devices = devices.transpose([*map([*sizes].index, across + along)])
    return devices.reshape(-1, math.prod(sizes[name] for name in along))
  # [2,4]<=[4,2]T(1,0): count in shape (4, 2), transpose, then reshape.
  counted = re.search(
      r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line
  )
  if not counted:
    raise ValueError(f'cannot read the replica_groups of {line.strip()[:300]}')
  groups, shape, order = (
      [int(n) for n in part.split(',')] if part else None
      for part in counted.groups()
  )
  devices = np.arange(math.prod(shape)).reshape(shape)
  return devices.transpose(order).reshape(groups)


def _axis(groups, tower):
  places = {'data': groups // tower, 'tower': groups % tower}
  return '+'.join(
      axis for axis, place in places.items() if (place != place[:, :1]).any()
  )


def _layer(name, shapes):
  if all(shape == () for shape, _ in shapes):
    return 'loss'
  layers = set(_LAYER.findall(name))
  if len(shapes) > 1:
    return 'gradients'
  if len(layers) == 1:
    return layers.pop()
  return 'logits' if 'AlexNet' in name else 'unknown'
