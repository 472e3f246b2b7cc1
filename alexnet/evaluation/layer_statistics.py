"""Measures statistics of each layer, without effect on training.

At each evaluation one forward and one backward pass of the same training
images, as a test sees them: the centre crop, no dropout, no lighting. So the
numbers of two steps differ by the parameters alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet.models import Module, on_mesh
from alexnet.models.layers import OUTPUTS, kept
from alexnet.models.parameters import by_path
from alexnet.ops import collectives
from alexnet.ops import losses as losses_lib
from alexnet.runtime import compilation, sharding
from alexnet.runtime.gpu import precision
from alexnet.runtime.mesh import DATA, TOWER
from alexnet.runtime.sharding import BATCH, REPLICATED

# Kind of the records of metrics.jsonl, {'LAYER/NUMBER': value}.
KIND = 'layers'
# Of each layer's output, and of each parameter with its name before it.
ACTIVITY = ('mean', 'deviation', 'zeros', 'dead')
PARAMETER = ('norm', 'gradient', 'update')

_DEVICES = (DATA, TOWER)

Measure = Callable[[Any, Any, dict[str, jax.Array]], dict[str, jax.Array]]


def make_measure(
    *,
    model: Module,
    mesh: Mesh,
    variables: Any,
    images: Callable[[dict[str, jax.Array]], jax.Array],
    deterministic: bool = False,
) -> Measure:
  """Compiles the measurement.

  Args:
    model: from `create_model`.
    mesh: (data, tower).
    variables: arrays or shapes of the variables, for their partition.
    images: makes the network's input, [batch, 1, crop, crop, 3], from a batch;
      see `views.Views.centre`.
    deterministic: see `compilation.options`.

  Returns:
    A function of (variables, velocity, batch), with the last update of each
    parameter and 'image' and 'label' in the batch, to [] float32:

    * 'LAYER/mean', 'LAYER/deviation': of the output, over images, places and
      features; names as in the model's `layer_names`.
    * 'LAYER/zeros': share of its values that are 0.
    * 'LAYER/dead': share of its features that are 0 in every image everywhere.
    * 'PATH_norm': root of the sum of squares of a parameter, by its path.
    * 'PATH_gradient': the same of the gradient of the mean loss.
    * 'PATH_update': the last update's norm divided by that of the parameter.
  """
  specs, structure = jax.tree.flatten(sharding.specs(variables, mesh))
  compiled = _compiled(model, mesh, tuple(specs), structure, deterministic)
  images = compilation.as_argument(images, mesh)
  names = _in_order(model, variables['params'])

  def in_order(variables, velocity, batch):
    # What is compiled sorts names.
    result = compiled(variables, velocity, batch, images)
    return {name: result[name] for name in names}

  return in_order


@functools.lru_cache(maxsize=4)  # Equal runs of a process are traced once.
def _compiled(model, mesh, specs, structure, deterministic):
  specs = structure.unflatten(specs)
  local_model = on_mesh(model)

  def pass_over(variables, batch, images):
    # Local blocks: image [batch / data, size, size, 3].
    def loss(params):
      logits, outputs = local_model.apply(
          {**variables, 'params': params}, images(batch)[:, 0],
          mutable=[OUTPUTS],
      )
      losses = losses_lib.example_losses(logits, batch['label'])
      # Inside the differentiated function, see train_step.py.
      return collectives.mean(jnp.mean(losses), _DEVICES), outputs

    gradients, outputs = jax.grad(loss, has_aux=True)(variables['params'])
    activity = {
        f'{name}/{what}': value
        for name in model.layer_names
        for what, value in _activity(kept(outputs, name)).items()
    }
    return activity, gradients

  mapped = jax.shard_map(
      pass_over,
      mesh=mesh,
      in_specs=(specs, BATCH, REPLICATED),
      out_specs=(REPLICATED, specs['params']),
  )

  def measure(variables, velocity, batch, images):
    result, gradients = mapped(variables, batch, images)
    gradients, velocity = by_path(gradients), by_path(velocity)
    for path, array in by_path(variables['params']).items():
      norm = _norm(array)
      result[f'{path}_norm'] = norm
      result[f'{path}_gradient'] = _norm(gradients[path])
      # A parameter may be 0, as biases are at first.
      result[f'{path}_update'] = _norm(velocity[path]) / jnp.where(
          norm, norm, 1
      )
    return result

  device = mesh.devices.flat[0]
  measure = precision.traced(measure, model, device)
  return compilation.jit_for(
      device, model.dtype, measure, deterministic=deterministic
  )


def _in_order(model, params):
  outputs, layers = model.layer_names, sorted(params)
  if set(layers) <= set(outputs):  # Those of a definition file, in its order.
    layers.sort(key=outputs.index)
  return [
      *(f'{name}/{what}' for name in outputs for what in ACTIVITY),
      *(
          f'{layer}/{path}_{what}'
          for layer in layers
          for path in sorted(by_path(params[layer]), reverse=True)  # Kernel.
          for what in PARAMETER
      ),
  ]


def _activity(x):
  """ACTIVITY of one layer's output, [batch, ..., features] of this device."""
  of_all = lambda x: collectives.mean(jnp.mean(x), _DEVICES)
  x = x.astype(jnp.float32)
  mean = of_all(x)
  used = jnp.any(x != 0, axis=tuple(range(x.ndim - 1))).astype(jnp.float32)
  used = collectives.mean(used, (DATA,))
  return {
      'mean': mean,
      'deviation': jnp.sqrt(of_all((x - mean) ** 2)),
      'zeros': of_all(x == 0),
      'dead': of_all(used == 0),
  }


def _norm(x):
  return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))


def velocity_of(opt_state: Any, rates: Any) -> Any:
  """The optimizer's velocity of each parameter: its last update.

  Args:
    opt_state: of `optimizer.create_optimizer`.
    rates: of each parameter; one whose rate is 0 has no update.
  """
  (velocity,) = (
      part.trace for part in opt_state if hasattr(part, 'trace')
  )
  return jax.tree.map(
      lambda rate, v: v if rate else jnp.zeros_like(v), rates, velocity
  )
