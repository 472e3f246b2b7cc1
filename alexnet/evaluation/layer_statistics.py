"""Statistics of each layer, measured at each evaluation of a run.

One forward and one backward pass use the same training images each time, as in
testing: centre crops, no dropout, no PCA lighting. So the numbers of two steps
differ only because of the parameters.
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

# Kind of the records in metrics.jsonl, {'LAYER/NUMBER': value}.
KIND = 'layers'
# Statistics of each layer's output, and of each parameter; see `make_measure`.
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
    model: the network, from `create_model`.
    mesh: the mesh, with axes (data, tower).
    variables: arrays or shapes of the variables, for their partition.
    images: function from a batch to the network's input [batch, 1, crop, crop,
      3]; see `views.Views.centre`.
    deterministic: whether to use only deterministic GPU kernels; see
      `compilation.options`.

  Returns:
    A function (variables, velocity, batch) -> {name: [] float32}. Velocity is
    the last update of each parameter, see `velocity_of`; the batch has 'image'
    and 'label'. The names are:

    * 'LAYER/mean', 'LAYER/deviation': mean and standard deviation of a layer's
      output over images, positions and features; LAYER is one of the model's
      `layer_names`.
    * 'LAYER/zeros': share of the output's values that are 0.
    * 'LAYER/dead': share of features that are 0 in all images and positions.
    * 'PATH_norm': norm of a parameter, the root of its sum of squares.
    * 'PATH_gradient': norm of the mean loss's gradient.
    * 'PATH_update': norm of the last update divided by that of the parameter.
  """
  specs, structure = jax.tree.flatten(sharding.specs(variables, mesh))
  compiled = _compiled(model, mesh, tuple(specs), structure, deterministic)
  images = compilation.as_argument(images, mesh)
  names = _in_order(model, variables['params'])

  def in_order(variables, velocity, batch):
    # Compiled functions return dictionaries with sorted keys.
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
      # The mean is inside the differentiated function, see train_step.py.
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
      # All of a parameter may be 0, as initial biases are.
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
  # Networks of a definition file keep the order of the file.
  if set(layers) <= set(outputs):
    layers.sort(key=outputs.index)
  return [
      *(f'{name}/{what}' for name in outputs for what in ACTIVITY),
      *(
          f'{layer}/{path}_{what}'
          for layer in layers
          # Kernels before biases.
          for path in sorted(by_path(params[layer]), reverse=True)
          for what in PARAMETER
      ),
  ]


def _activity(x):
  """Computes ACTIVITY of a layer's output.

  Args:
    x: [batch, ..., features], the output on this device.
  """
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
  """Returns the optimizer's velocity of each parameter, its last update.

  Args:
    opt_state: state of the optimizer from `optimizer.create_optimizer`.
    rates: learning rate of each parameter; a rate of 0 gives an update of 0.
  """
  (velocity,) = (
      part.trace for part in opt_state if hasattr(part, 'trace')
  )
  return jax.tree.map(
      lambda rate, v: v if rate else jnp.zeros_like(v), rates, velocity
  )
