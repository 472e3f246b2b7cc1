"""Compiled evaluation and prediction of one batch, on any mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from alexnet.inference.views import Batch, predict_views
from alexnet.models import Module, on_mesh
from alexnet.models.inference_params import for_module
from alexnet.ops.losses import Metrics, score
from alexnet.runtime import sharding
from alexnet.runtime.compilation import CompiledStep, as_argument, jit_for
from alexnet.runtime.gpu import precision
from alexnet.runtime.mesh import DATA, TOWER
from alexnet.runtime.sharding import BATCH, REPLICATED


def make_eval_step(
    *,
    model: Module,
    mesh: Mesh,
    variables: Any,
    images: Callable[[Batch], jax.Array],
    deterministic: bool = False,
) -> Callable[[Any, Batch], Metrics]:
  """Compiles the evaluation of one batch.

  Args:
    model: the network, from `create_model`.
    mesh: the mesh, with axes (data, tower).
    variables: arrays or shapes of the variables, for their partition.
    images: function from a batch to the network's input [batch, views, crop,
      crop, 3]; see `views.Views.centre` and `ten`.
    deterministic: whether to use only deterministic GPU kernels; see
      `compilation.options`.

  Returns:
    A function (variables, batch) -> float32 sums over the batch: those of
    `score` and 'views', the number of views. Variables may be from `rounded`.
    The batch has 'label' [batch] int32, 'weight' [batch] float32, 0 for
    padding, and the entries that `images` reads.
  """
  return _step(_evaluation, model, mesh, variables, images, deterministic)


def _evaluation(model, mesh, specs):
  local_model = on_mesh(model)

  def local_step(variables, batch, images):
    # Local blocks: image [batch / data, size, size, 3].
    weight = batch['weight']
    prediction, views = predict_views(local_model, variables, images(batch))
    sums = {
        **score(prediction, batch['label'], weight),
        'views': jnp.sum(weight) * views,
    }
    # Both towers have equal values; `pmean` marks them as equal for shard_map.
    return jax.tree.map(lambda x: lax.pmean(lax.psum(x, DATA), TOWER), sums)

  mapped = jax.shard_map(
      local_step,
      mesh=mesh,
      in_specs=(specs, BATCH, REPLICATED),
      out_specs=REPLICATED,
  )

  def step(variables, *others):
    return mapped(for_module(variables), *others)

  return step


def make_predict_step(
    *,
    model: Module,
    mesh: Mesh,
    variables: Any,
    images: Callable[[Batch], jax.Array],
    deterministic: bool = False,
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
  """Compiles the prediction of one batch.

  For the arguments see `make_eval_step`.

  Returns:
    A function (variables, batch) -> {'log_probabilities' [batch, classes] and
    'views' [batch], both float32, and the batch's 'label' and 'weight'}, for
    the whole batch and on every device.
  """
  return _step(_prediction, model, mesh, variables, images, deterministic)


def _prediction(model, mesh, specs):
  local_model = on_mesh(model)

  def local_step(variables, batch, images):
    # Local blocks: image [batch / data, size, size, 3].
    prediction, views = predict_views(local_model, variables, images(batch))
    return {
        # Marks equal values of both towers as equal, see make_eval_step.
        'log_probabilities': lax.pmean(prediction, TOWER),
        'label': batch['label'],
        'weight': batch['weight'],
        'views': jnp.full_like(batch['weight'], views),
    }

  mapped = jax.shard_map(
      local_step,
      mesh=mesh,
      in_specs=(specs, BATCH, REPLICATED),
      out_specs=BATCH,
  )
  everywhere = jax.sharding.NamedSharding(mesh, REPLICATED)

  def predict(variables, *others):
    result = mapped(for_module(variables), *others)
    return jax.sharding.reshard(result, everywhere)

  return predict


def _step(make, model, mesh, variables, images, deterministic):
  specs, structure = jax.tree.flatten(sharding.specs(variables, mesh))
  compiled = _compiled(
      make, model, mesh, tuple(specs), structure, deterministic
  )
  return CompiledStep(compiled, (as_argument(images, mesh),))


@functools.lru_cache(maxsize=8)  # Equal networks of a process are traced once.
def _compiled(make, model, mesh, specs, structure, deterministic):
  device = mesh.devices.flat[0]
  step = make(model, mesh, structure.unflatten(specs))
  step = precision.traced(step, model, device)
  return jit_for(device, model.dtype, step, deterministic=deterministic)
