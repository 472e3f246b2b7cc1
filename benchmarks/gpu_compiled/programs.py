"""Compiles a run's programs for a mesh of GPUs, with shapes for arrays."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alexnet.evaluation import eval_steps
from alexnet.inference.views import Views
from alexnet.models import create_model
from alexnet.models.inference_params import rounded
from alexnet.runtime import sharding
from alexnet.runtime.mesh import DATA, TOWER
from alexnet.training import optimizer, train_step
from benchmarks.gpu_compiled import devices
from configs import alexnet, alexnet_2012

PROGRAMS = ('training', 'evaluation', 'prediction')
RECIPES = {'paper': alexnet, '2012': alexnet_2012}
DTYPES = ('float32', 'bfloat16')
CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Case:
  """A program to compile.

  Attributes:
    program: one of PROGRAMS; evaluation and prediction use ten views.
    recipe: one of RECIPES.
    dtype: one of DTYPES.
    data, tower: size of the mesh.
    device: one of devices.NAMES.
    batch: images per replica; evaluation and prediction use ten views of each.
  """

  program: str
  recipe: str
  dtype: str
  data: int
  tower: int
  device: str
  batch: int = 128

  @property
  def name(self) -> str:
    """Name of the case, for tables and messages."""
    return (
        f'{self.program} {self.recipe} {self.dtype} {self.data}x{self.tower} '
        f'{self.device}'
    )


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    lowered: StableHLO, as JAX passes it to XLA.
    compiled: HLO, as optimized and scheduled by XLA.
    temporaries: bytes of temporaries during a call, on one device.
    state: number of arrays that a call consumes.
    parameters: bytes of the parameters on a device.
  """

  lowered: str
  compiled: str
  temporaries: int
  state: int
  parameters: int


def compile_program(case: Case) -> Program:
  """Compiles a case, see `Program`."""
  config = RECIPES[case.recipe].get_config('imagenet2012')
  config.model.num_classes = CLASSES
  config.model.dtype = case.dtype
  mesh = Mesh(
      np.reshape(
          devices.gpus(case.device, case.data * case.tower),
          (case.data, case.tower),
      ),
      (DATA, TOWER),
      axis_types=(AxisType.Explicit,) * 2,
  )
  build = _training if case.program == 'training' else _evaluation
  step, arguments = build(config, mesh, case)
  state = arguments[0]
  lowered = step.lower(*arguments)
  compiled = lowered.compile()
  return Program(
      lowered.as_text(),
      compiled.as_text(),
      compiled.memory_analysis().temp_size_in_bytes,
      len(jax.tree.leaves(state)) if case.program == 'training' else 0,
      _local_bytes(getattr(state, 'params', state)),
  )


def _local_bytes(tree):
  return sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(tree)
  )


def _training(config, mesh, case):
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  crop = config.augmentation.crop_size
  create = functools.partial(
      train_step.create_state, model, rule, shape=(crop, crop, 3)
  )
  state = jax.eval_shape(create, jax.random.key(0))
  step = train_step.make_train_step(
      model=model, optimizer=rule, mesh=mesh, state=state, seed=0,
      images=lambda batch: _views(batch, config).training(batch),
  )
  count = case.batch * case.data
  batch = _batch(config, mesh, count, crop) | _over_data(mesh, {
      'offset': ((count, 2), jnp.int32),
      'flip': ((count,), jnp.bool_),
      'shift': ((count, 3), jnp.float32),
      'divisor': ((count,), jnp.float32),
  })
  rates = jax.tree.map(
      lambda _: jax.ShapeDtypeStruct((), jnp.float32), state.params
  )
  return step, (sharding.targets(state, mesh), batch, rates)


def _evaluation(config, mesh, case):
  model = create_model(config.model)
  crop, size = config.augmentation.crop_size, config.dataset.size
  variables = jax.eval_shape(
      model.init, jax.random.key(0), jnp.zeros((1, crop, crop, 3))
  )
  make = {
      'evaluation': eval_steps.make_eval_step,
      'prediction': eval_steps.make_predict_step,
  }[case.program]
  step = make(
      model=model, mesh=mesh, variables=variables,
      images=lambda batch: _views(batch, config).ten(batch),
  )
  variables = jax.eval_shape(
      lambda x: rounded(x, model.dtype), sharding.targets(variables, mesh)
  )
  batch = _batch(config, mesh, case.batch * case.data, size)
  return step, (variables, batch)


def _views(batch, config):
  """Views whose mean image is part of the batch, and so an argument."""
  return Views(
      batch['mean_image'], config.augmentation.mean_crop,
      mirror=config.augmentation.flip, crop=config.augmentation.crop_size,
  )


def _batch(config, mesh, count, side):
  size, data = config.dataset.size, mesh.shape[DATA]
  return _over_data(mesh, {
      'image': ((count, side, side, 3), jnp.uint8),
      'label': ((count,), jnp.int32),
      'weight': ((count,), jnp.float32),
      # One per replica.
      'mean_image': ((data * size, size, 3), jnp.float32),
  })


def _over_data(mesh, arrays) -> dict[str, Any]:
  of = NamedSharding(mesh, PartitionSpec(DATA))
  return {
      name: jax.ShapeDtypeStruct(shape, dtype, sharding=of)
      for name, (shape, dtype) in arrays.items()
  }

