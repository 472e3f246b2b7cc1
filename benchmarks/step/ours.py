"""This project's step, as a competitor of `benchmarks.train_step`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from alexnet.evaluation import eval_steps
from alexnet.models import create_model
from alexnet.models.inference_params import rounded
from alexnet.ops import convolution, dense, normalization, pooling
from alexnet.runtime import compilation, compilation_cache, heap, sharding
from alexnet.runtime import mesh as mesh_lib
from alexnet.training import optimizer, train_step
from benchmarks.step import network


@dataclasses.dataclass(frozen=True)
class Step:
  """A step with its inputs, which can be repeated.

  Attributes:
    start: starts the step without waiting; returns what to wait for.
    lower: lowers the jitted step with its arguments.
  """

  start: Callable[[], Any]
  lower: Callable[[], jax.stages.Lowered]


def _rates(params, case):
  return {
      layer: {
          kind: np.float32(case.rate * (2 if kind == 'bias' else 1))
          for kind in kinds
      }
      for layer, kinds in params.items()
  }


def _training(case, towers):
  """(step, state, batch, rates) of the project's training step."""
  config = network.config_of(case)
  config.mesh.data, config.mesh.tower = 1, towers
  mesh = mesh_lib.create_mesh(config)
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  params = network.parameters(case)
  state = train_step.TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=rule.init(params),
  )
  state = jax.device_put(state, sharding.shardings(state, mesh))
  # As in training: the first step cannot reuse the memory of NumPy arrays for
  # its results.
  state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))(state)
  step = train_step.make_train_step(
      model=model,
      optimizer=rule,
      mesh=mesh,
      state=state,
      images=lambda batch: batch['image'],
      seed=0,
  )
  images, labels = network.batch(case)
  batch = sharding.put_batch({'image': images, 'label': labels}, mesh)
  return step, state, batch, _rates(params, case)


def _prepare():
  """Initializes the process like main.py and alexnet.evaluate."""
  heap.keep_freed()
  flags.FLAGS.mark_as_parsed()  # There is no command line.
  compilation_cache.use_cache()


def training_step(case: network.Case, *, towers: int = 1) -> Step:
  """Returns the training step."""
  step, state, batch, rates = _training(case, towers)

  def start():
    nonlocal state
    state, metrics = step(state, batch, rates)
    return state, metrics

  return Step(start, lambda: step.lower(state, batch, rates))


def training(
    case: network.Case, *, towers: int = 1
) -> Callable[[], None]:
  """Returns a function that makes one update and waits for it."""
  _prepare()
  start = training_step(case, towers=towers).start
  return lambda: jax.block_until_ready(start())


def inference_step(case: network.Case, *, towers: int = 1) -> Step:
  """Returns the prediction of one batch."""
  config = network.config_of(case)
  config.mesh.data, config.mesh.tower = 1, towers
  mesh = mesh_lib.create_mesh(config)
  variables = {'params': network.parameters(case)}
  variables = jax.device_put(variables, sharding.shardings(variables, mesh))
  step = eval_steps.make_predict_step(
      model=create_model(config.model),
      mesh=mesh,
      variables=variables,
      images=lambda batch: batch['image'][:, None],
  )
  images, labels = network.batch(case)
  weight = np.ones(case.batch_size, np.float32)
  batch = {'image': images, 'label': labels, 'weight': weight}
  batch = sharding.put_batch(batch, mesh)
  # The largest parameters are rounded once, as for users; peers round all.
  variables = rounded(variables, jnp.dtype(case.dtype))
  return Step(
      lambda: step(variables, batch), lambda: step.lower(variables, batch)
  )


def inference(
    case: network.Case, *, towers: int = 1
) -> Callable[[], None]:
  """Returns a function that predicts one batch and waits for it."""
  _prepare()
  start = inference_step(case, towers=towers).start
  return lambda: jax.block_until_ready(start())


def logits(case: network.Case) -> np.ndarray:
  """Logits [batch, classes] float32 of the batch, before any update."""
  model = create_model(network.config_of(case).model)
  apply = compilation.jit_for(jax.devices()[0], model.dtype, model.apply)
  images, _ = network.batch(case)
  return jax.device_get(apply({'params': network.parameters(case)}, images))


def updates(
    case: network.Case, *, towers: int = 1
) -> tuple[list[float], network.Parameters]:
  """Losses of the first updates, and the parameters after them."""
  step, state, batch, rates = _training(case, towers)
  losses = []
  for _ in range(network.CHECKED_UPDATES):
    state, metrics = step(state, batch, rates)
    losses.append(float(metrics['loss']))
  return losses, jax.device_get(state.params)


def _function(layer):
  """Function of (input, kernel if there is one)."""
  spec = network.config_of(network.Case()).model
  if layer.kind == 'convolution':
    return lambda x, kernel: convolution.grouped_convolution(
        x,
        kernel,
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
    )
  if layer.kind == 'dense':
    return lambda x, kernel: dense.grouped_dense(x, kernel, 1)
  if layer.kind == 'lrn':
    return lambda x: normalization.local_response_normalization(
        x,
        n=spec.lrn.n,
        k=spec.lrn.k,
        alpha=spec.lrn.alpha / spec.lrn.n,
        beta=spec.lrn.beta,
        groups=2,
    )
  if layer.kind == 'spatial_norm':
    norm = spec.spatial_norm
    return lambda x: normalization.spatial_response_normalization(
        x, size=norm.size, k=norm.k, alpha=norm.alpha, beta=norm.beta
    )
  pool = spec.pool
  return lambda x: pooling.max_pool(x, window=pool.window, stride=pool.stride)


def _jit(function, dtype):
  """Compiles a function as a step is compiled."""
  return compilation.jit_for(jax.devices()[0], dtype, function)


def _part(layer, part, dtype):
  function = _function(layer)
  arrays = [jnp.asarray(array, dtype) for array in layer.arrays()]
  if part == 'forward':
    # As in training: for prediction alone other forms may be chosen.
    forward = lambda *arrays: jax.vjp(function, *arrays)[0]
    return _jit(forward, dtype), arrays
  index = 0 if part == 'input gradient' else 1

  def pull_back(*arrays):
    def of_one(array):
      return function(*arrays[:index], array, *arrays[index + 1 :])

    return jax.vjp(of_one, arrays[index])

  # Two calls: in training the forward pass's results are ready.
  y, transpose = _jit(pull_back, dtype)(*arrays)
  return _jit(lambda transpose, g: transpose(g), dtype), (transpose, y)


def layers(
    case: network.Case,
) -> dict[str, tuple[Callable[[], None], int]]:
  """{'LAYER PART': (a function that computes it, its operations)}."""
  items = {}
  for name, layer in network.layers(case).items():
    for part in layer.parts():
      function, arrays = _part(layer, part, jnp.dtype(case.dtype))
      run = lambda f=function, a=arrays: jax.block_until_ready(f(*a))
      items[f'{name} {part}'] = run, layer.operations
  return items


def product(dtype: str, size: int) -> Callable[[], None]:
  """Returns a function that multiplies two square matrices of this size."""
  one, other = (
      jax.random.normal(key, (size, size), jnp.dtype(dtype))
      for key in jax.random.split(jax.random.key(0))
  )
  multiply = _jit(jnp.matmul, jnp.dtype(dtype))
  return lambda: jax.block_until_ready(multiply(one, other))
