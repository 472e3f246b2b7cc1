"""One training step, with the same result on every mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from alexnet.inference.views import Batch
from alexnet.models import Module, on_mesh
from alexnet.ops import collectives
from alexnet.ops.losses import Metrics, example_losses, ranks
from alexnet.runtime import sharding
from alexnet.runtime.compilation import CompiledStep, as_argument, jit_for
from alexnet.runtime.gpu import precision
from alexnet.runtime.mesh import DATA, TOWER
from alexnet.runtime.sharding import BATCH, REPLICATED


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """State of training, which each step updates.

  Attributes:
    step: [] int32, number of updates made so far.
    params: tree of float32 parameters, in global shapes.
    opt_state: state of the optimizer, in global shapes.
    model_state: {collection: tree} of the network's other variables, such as
      the running means of batch normalization; {} if it has none.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  model_state: Any = dataclasses.field(default_factory=dict)

  @property
  def variables(self) -> Any:
    """Variables for `model.apply`."""
    return {'params': self.params, **self.model_state}

  def as_saved(self) -> dict[str, Any]:
    """Returns the fields to save in a checkpoint, without empty model state."""
    fields = dict(vars(self))
    if not self.model_state:
      del fields['model_state']
    return fields


def create_state(
    model: Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    shape: tuple[int, int, int] = (224, 224, 3),
) -> TrainState:
  """Creates the state before the first step; its values depend only on the key.

  Args:
    model: the network, from `create_model`.
    optimizer: the update rule, from `create_optimizer`.
    key: random key of the initialization.
    shape: shape of one input of the network, see `models.input_shape`.
  """
  image = jnp.zeros((1, *shape))
  model_state = dict(model.init(key, image))
  params = model_state.pop('params')
  return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
      model_state=model_state,
  )


def dropout_keys(
    key: jax.Array, step: jax.Array, first: jax.Array, count: int
) -> jax.Array:
  """Returns one key per example, which is the same on every mesh.

  It depends on the example's position in the global batch.

  Args:
    key: random key of the run.
    step: [] int, number of updates made so far.
    first: [] int, position of the first example in the global batch.
    count: number of examples.

  Returns:
    [count] keys.
  """
  key = jax.random.fold_in(key, step)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


class TrainStep:
  """A compiled update that transfers its rates and limit as one array.

  They are transferred only when they change. Each transfer costs time on the
  host for each array and device, and there are as many rates as parameters.
  """

  def __init__(
      self, compiled: CompiledStep, params: Any, seed: int, mesh: Mesh
  ):
    """Creates the step; use `make_train_step` instead."""
    self._compiled = compiled
    self._structure = jax.tree.structure(params)
    self._key_data = np.asarray(jax.random.key_data(jax.random.key(seed)))
    self._numbers = np.zeros(0, np.float32)
    self._mesh = mesh
    # Numbers and key on the devices.
    self._moved: list[jax.Array] = []

  def __call__(
      self, state: TrainState, batch: Batch, rates: Any, limit: float = np.inf
  ) -> tuple[TrainState, Metrics]:
    """Computes an update, see `make_train_step`."""
    rates = self._structure.flatten_up_to(rates)
    numbers = np.array([*rates, limit], np.float32)
    if not self._moved:
      self._moved = [None, sharding.everywhere(self._key_data, self._mesh)]
    if not np.array_equal(numbers, self._numbers):
      self._numbers = numbers
      self._moved[0] = sharding.everywhere(numbers, self._mesh)
    return self._compiled(state, batch, *self._moved)

  def lower(self, state: Any, batch: Any, rates: Any, limit: Any = None) -> Any:
    """Lowers the step for these arguments, like `jax.jit(f).lower`."""
    del rates, limit
    everywhere = jax.sharding.NamedSharding(self._mesh, REPLICATED)
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=everywhere)
    numbers = shape((self._structure.num_leaves + 1,), np.float32)
    key_data = shape(self._key_data.shape, self._key_data.dtype)
    return self._compiled.lower(state, batch, numbers, key_data)


def make_train_step(
    *,
    model: Module,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    state: TrainState,
    images: Callable[[Batch], jax.Array],
    seed: int,
    accumulation: int = 1,
    guarded: bool = False,
    deterministic: bool = False,
) -> TrainStep:
  """Compiles one update.

  Args:
    model: the network, from `create_model`.
    optimizer: the update rule, from `create_optimizer`.
    mesh: the mesh, with axes (data, tower).
    state: arrays or shapes of the state, for its partition. The collections of
      its model state are those that a training pass may change.
    images: function from a batch, or a part of one, to the network's input
      [batch, crop, crop, 3]; see `views.Views.training`. If it is a method, the
      arrays of its object become arguments of the compiled step.
    seed: seed of dropout.
    accumulation: number of parts in which a device computes its examples, one
      after the other.
    guarded: whether a bad step changes nothing but the number of steps.
    deterministic: whether to use only deterministic GPU kernels; see
      `compilation.options`.

  Returns:
    A function (state, batch, rates) -> (new state, metrics); if guarded, of
    (state, batch, rates, limit). Rates are a tree like the parameters, of
    numbers on the host. The batch has 'label' [batch] int32 and the entries
    that `images` reads. The metrics are 'loss' and 'top1', the means over the
    batch, and 'gradient_norm', the root of the sum of squares. A step is bad if
    its loss or norm is not finite, or if the loss exceeds `limit`, [] float32.
    The old state is donated and cannot be used afterwards.
  """
  specs, structure = jax.tree.flatten(sharding.specs(state, mesh))
  compiled = _compiled(
      model, optimizer, mesh, tuple(specs), structure, accumulation, guarded,
      deterministic,
  )
  # The key is an argument, so runs with different seeds share one program.
  step = CompiledStep(compiled, (as_argument(images, mesh),))
  return TrainStep(step, state.params, seed, mesh)


@functools.lru_cache(maxsize=4)  # Equal runs of a process are traced once.
def _compiled(
    model, optimizer, mesh, specs, structure, accumulation, guarded,
    deterministic,
):
  state_specs = structure.unflatten(specs)
  structure = jax.tree.structure(state_specs.params)
  gradients_of = _make_gradients(
      on_mesh(model), list(state_specs.model_state), accumulation
  )

  def step(state, batch, numbers, key_data, images):
    # Local blocks: image [batch / data, crop, crop, 3], label [batch / data],
    # parameters [..., features / tower].
    *rates, limit = numbers
    rates = structure.unflatten(rates)
    key = jax.random.wrap_key_data(key_data)
    count = batch['label'].shape[0]
    keys = dropout_keys(key, state.step, lax.axis_index(DATA) * count, count)
    # Each replica differentiates its own copy, and the gradients are summed
    # over the replicas once, at the end. With replicated parameters, JAX would
    # sum them in each part.
    own_params, sum_over_replicas = jax.vjp(
        lambda params: jax.tree.map(_of_this_replica, params), state.params
    )
    ((loss, top1), gradients), model_state = gradients_of(
        own_params, state.model_state, (batch, keys), images
    )
    (gradients,) = sum_over_replicas(gradients)
    model_state = _of_all_copies(model_state, state_specs.model_state)
    norm = collectives.global_norm(gradients)
    if guarded:
      bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm)) | (loss > limit)
      # A rate of 0 freezes a parameter and its velocity.
      rates = jax.tree.map(lambda rate: jnp.where(bad, 0.0, rate), rates)
      keep_if_bad = lambda old, new: jnp.where(bad, old, new)
      model_state = jax.tree.map(keep_if_bad, state.model_state, model_state)
    updates, opt_state = optimizer.update(
        gradients, state.opt_state, state.params, rates=rates
    )
    params = optax.apply_updates(state.params, updates)
    new_state = TrainState(state.step + 1, params, opt_state, model_state)
    return new_state, {'loss': loss, 'top1': top1, 'gradient_norm': norm}

  mapped = jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(state_specs, BATCH, *[REPLICATED] * 3),
      out_specs=(state_specs, REPLICATED),
  )
  device = mesh.devices.flat[0]
  mapped = precision.traced(mapped, model, device)
  return jit_for(
      device, model.dtype, mapped, donate_argnums=0, deterministic=deterministic
  )


def _make_gradients(local_model, collections, accumulation):
  """Returns a function that computes the gradients of a batch, in parts.

  Args:
    local_model: the network on this device, from `models.on_mesh`.
    collections: names of the collections that a training pass changes.
    accumulation: number of parts.

  Returns:
    A function (params, model_state, (batch, keys), images) -> (((loss, top1),
    gradients), model_state). Loss and top1 are means over the mesh and the
    parts; gradients and model state are those of this device.
  """

  def loss_of_part(params, model_state, batch, keys, images):
    labels = batch['label']
    logits, model_state = local_model.apply(
        {'params': params, **model_state}, images(batch), dropout_keys=keys,
        mutable=collections,
    )
    # Each device has its own model state, as before the pass.
    model_state = jax.tree.map(_varying, dict(model_state))
    correct = jnp.mean((ranks(logits, labels) < 1).astype(jnp.float32))
    # The mean over the mesh is inside the differentiated function. So the
    # transpose of each use of a replicated parameter is the sum over devices,
    # and another collective on the gradients would count it twice.
    mean = lambda x: lax.pmean(x, (DATA, TOWER))
    loss = mean(jnp.mean(example_losses(logits, labels)))
    return loss, (mean(correct), model_state)

  value_and_grad = jax.value_and_grad(loss_of_part, has_aux=True)

  def run_part(params, model_state, part, images):
    model_state = jax.tree.map(_varying, model_state)
    (loss, (top1, model_state)), gradients = value_and_grad(
        params, model_state, *part, images
    )
    return ((loss, top1), gradients), model_state

  def run_parts(params, model_state, whole, images):
    """Runs the parts of a batch in sequence and averages their results."""
    parts = jax.tree.map(
        lambda x: x.reshape(accumulation, -1, *x.shape[1:]), whole
    )

    def add_part(carry, part):
      total, model_state = carry
      result, model_state = run_part(params, model_state, part, images)
      return (jax.tree.map(jnp.add, total, result), model_state), None

    first = jax.tree.map(lambda x: x[0], parts)
    (total, model_state), _ = lax.scan(
        add_part,
        run_part(params, model_state, first, images),
        jax.tree.map(lambda x: x[1:], parts),
    )
    return jax.tree.map(lambda x: x / accumulation, total), model_state

  return run_part if accumulation == 1 else run_parts


def _varying(x):
  """Marks an array as different on every device."""
  same = {DATA, TOWER} - collectives.varying_axes(jax.typeof(x))
  return lax.pcast(x, tuple(sorted(same)), to='varying') if same else x


def _of_all_copies(tree, specs):
  """Averages replicated leaves over their devices; integers: the maximum."""

  def of_all(x, spec):
    cut = {axis for axes in spec for axis in (axes or ())}
    same = tuple(axis for axis in (DATA, TOWER) if axis not in cut)
    if not same:
      return x
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    return (lax.pmean if is_float else lax.pmax)(x, same)

  return jax.tree.map(of_all, tree, specs)


def _of_this_replica(x):
  # A single replica is marked as split already, see `sharding.specs`.
  if DATA in collectives.varying_axes(jax.typeof(x)):
    return x
  return lax.pcast(x, DATA, to='varying')
