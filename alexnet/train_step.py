"""One step of training and one of evaluation, the same on every mesh."""

import collections
import dataclasses
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from alexnet import host_memory, partitioning
from alexnet.models import Module, layers
from alexnet.models.rounded import for_module
from alexnet.partitioning import BATCH, DATA, REPLICATED, TOWER

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """What a step changes.

  Attributes:
    step: [] int32, updates made so far.
    params: {layer: {'kernel', 'bias'}}, float32, in global shapes.
    opt_state: the optimizer's state, of the same shapes.
  """

  step: jax.Array
  params: Any
  opt_state: Any


@dataclasses.dataclass(frozen=True)
class _Step:
  """A compiled function, and its last arguments, which stay the same."""

  function: Any
  constants: tuple[Any, ...]

  def __call__(self, *arguments):
    return self.function(*arguments, *self.constants)

  def lower(self, *arguments):
    """As of a function from `jax.jit`."""
    return self.function.lower(*arguments, *self.constants)


class _Program:
  """A function of `jax.jit` for CPUs, in memory that stays where it is.

  That is as large as the first call wants it; see `host_memory.make_room`.
  """

  def __init__(self, function):
    self._function = function
    self._has_room = not host_memory.is_kept()

  def __call__(self, *arguments):
    if not self._has_room:
      # The call takes what is compiled here.
      memory = self.lower(*arguments).compile().memory_analysis()
      host_memory.make_room(
          memory.temp_size_in_bytes, len(jax.local_devices(backend='cpu'))
      )
      self._has_room = True
    host_memory.keep_room()
    return self._function(*arguments)

  def lower(self, *arguments):
    """As of a function from `jax.jit`."""
    return self._function.lower(*arguments)


def create_state(
    model: Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    crop: int = 224,
) -> TrainState:
  """The state before the first step; values depend on the key alone.

  Args:
    model: from `create_model`.
    optimizer: from `create_optimizer`.
    key: for the initialization.
    crop: side of the network's input, in pixels.
  """
  image = jnp.zeros((1, crop, crop, 3))
  params = model.init(key, image)['params']
  return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
  )


def example_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of each example: logits [batch, classes], labels [batch]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def ranks(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """How many classes are placed before the true one.

  Equal scores are placed in the order of their class, so that a network that
  says the same of all classes is right as often as chance. A score that is not
  a number is never right.

  Args:
    scores: [batch, classes] logits or probabilities.
    labels: [batch] integers.

  Returns:
    [batch] integers from 0: top-1 is rank < 1, top-5 rank < 5.
  """
  true = jnp.take_along_axis(scores, labels[:, None], axis=-1)
  earlier = jnp.arange(scores.shape[-1]) < labels[:, None]
  before = ~(scores <= true) | ((scores == true) & earlier)
  return jnp.sum(before, axis=-1)


def dropout_keys(
    key: jax.Array, step: jax.Array, first: jax.Array, count: int
) -> jax.Array:
  """One key an example, from its place in the global batch: equal on any mesh.

  Args:
    key: the run's.
    step: [] int, updates made so far.
    first: [] int, place of the first example in the global batch.
    count: number of examples.

  Returns:
    [count] keys.
  """
  key = jax.random.fold_in(key, step)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


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
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Compiles one update.

  Args:
    model: from `create_model`.
    optimizer: from `create_optimizer`.
    mesh: (data, tower).
    state: arrays or shapes of the state, for its partition.
    images: makes the network's input, [batch, crop, crop, 3], from a batch or a
      part of one; see `views.Views.training`. Of a method, the arrays of its
      object are arguments of the compiled step.
    seed: of dropout.
    accumulation: parts that a device computes its examples in.
    guarded: whether a bad step changes nothing but the number of steps.

  Returns:
    A function of (state, batch, rates) to (new state, metrics), guarded of
    (state, batch, rates, limit). The batch has 'label' [batch] int32 and what
    `images` wants; the metrics are 'loss' and 'top1', the means over the batch,
    and 'gradient_norm', the root of the sum of squares. A step is bad if one of
    loss and norm is not finite, or the loss is more than `limit`, [] float32.
    The old state is consumed.
  """
  local_model = model.clone(tower_axis=TOWER)

  images = as_argument(images, mesh)

  def loss_of_part(params, batch, keys, images):
    labels = batch['label']
    logits = local_model.apply(
        {'params': params}, images(batch), dropout_keys=keys
    )
    correct = jnp.mean((ranks(logits, labels) < 1).astype(jnp.float32))
    # The mean over the mesh is taken here, inside the differentiated
    # function: the transpose of each replicated parameter's use is then the
    # sum over devices, and a further collective on the gradients would count
    # it again.
    mean = lambda x: lax.pmean(x, (DATA, TOWER))
    return mean(jnp.mean(example_losses(logits, labels))), mean(correct)

  value_and_grad = jax.value_and_grad(loss_of_part, has_aux=True)

  def step(state, batch, rates, limit, key, images):
    # Local blocks: image [batch / data, crop, crop, 3], label [batch / data],
    # parameters [..., features / tower].
    count = batch['label'].shape[0]
    first = lax.axis_index(DATA) * count
    keys = dropout_keys(key, state.step, first, count)
    # The gradients of each replica's own copy, summed over the replicas once,
    # at the end. Of parameters that are marked as equal the sum would be taken
    # in every part.
    own_params, sum_over_replicas = jax.vjp(
        lambda params: jax.tree.map(_of_this_replica, params), state.params
    )
    if accumulation == 1:
      (loss, top1), gradients = value_and_grad(
          own_params, batch, keys, images
      )
    else:
      parts = jax.tree.map(
          lambda x: x.reshape(accumulation, -1, *x.shape[1:]),
          (batch, keys),
      )

      def add_part(total, part):
        part_result = value_and_grad(own_params, *part, images)
        return jax.tree.map(jnp.add, total, part_result), None

      first_part = jax.tree.map(lambda x: x[0], parts)
      other_parts = jax.tree.map(lambda x: x[1:], parts)
      total, _ = lax.scan(
          add_part,
          value_and_grad(own_params, *first_part, images),
          other_parts,
      )
      (loss, top1), gradients = jax.tree.map(
          lambda x: x / accumulation, total
      )
    (gradients,) = sum_over_replicas(gradients)
    norm = _norm(gradients)
    if guarded:
      bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm)) | (loss > limit)
      # What has a rate of 0 is frozen, its velocity included.
      rates = jax.tree.map(lambda rate: jnp.where(bad, 0.0, rate), rates)
    updates, opt_state = optimizer.update(
        gradients, state.opt_state, state.params, rates=rates
    )
    params = optax.apply_updates(state.params, updates)
    new_state = TrainState(state.step + 1, params, opt_state)
    return new_state, {'loss': loss, 'top1': top1, 'gradient_norm': norm}

  state_specs = partitioning.specs(state, mesh)
  mapped = jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(state_specs, BATCH, *[REPLICATED] * 4),
      out_specs=(state_specs, REPLICATED),
  )
  compiled = jit_for(
      mesh.devices.flat[0], model.dtype, mapped, donate_argnums=0
  )
  # An argument, so that runs of a sweep that differ in their seed are the same
  # program.
  key = jax.random.key(seed)
  constants = (key, images) if guarded else (np.float32(np.inf), key, images)
  return _Step(compiled, constants)


def _of_this_replica(x):
  # See partitioning.specs on a single replica.
  if DATA in layers.varying_axes(jax.typeof(x)):
    return x
  return lax.pcast(x, DATA, to='varying')


def _norm(gradients):
  """The root of the sum of squares, of the parts on all devices."""
  # What the mesh does not divide is on each device.
  parts = collections.defaultdict(float)
  for leaf in jax.tree.leaves(gradients):
    part = layers.sum_of_squares(leaf)
    parts[layers.varying_axes(jax.typeof(part))] += part
  # In one order: that of a set is another one in each process, and so would be
  # the program.
  return jnp.sqrt(
      sum(lax.psum(part, tuple(sorted(axes))) for axes, part in parts.items())
  )


def make_eval_step(
    *,
    model: Module,
    mesh: Mesh,
    params: Any,
    images: Callable[[Batch], jax.Array],
) -> Callable[[Any, Batch], Metrics]:
  """Compiles the evaluation of one batch.

  Args:
    model: from `create_model`.
    mesh: (data, tower).
    params: arrays or shapes of the parameters, for their partition.
    images: makes the network's input, [batch, views, crop, crop, 3], from a
      batch; see `views.Views.centre` and `ten`.

  Returns:
    A function of (params, batch) to sums over the batch: those of `score` and
    'views', float32. Parameters are as they are or from `rounded`. The batch
    has 'label' [batch] int32, 'weight' [batch] float32, 0 for padding, and what
    `images` wants.
  """
  local_model = model.clone(tower_axis=TOWER)
  images = as_argument(images, mesh)

  def local_step(params, batch, images):
    # Local blocks: image [batch / data, size, size, 3].
    weight = batch['weight']
    prediction, views = predict_views(local_model, params, images(batch))
    sums = {
        **score(prediction, batch['label'], weight),
        'views': jnp.sum(weight) * views,
    }
    # Equal on both towers already; the mean states that to the type checker.
    return jax.tree.map(lambda x: lax.pmean(lax.psum(x, DATA), TOWER), sums)

  mapped = jax.shard_map(
      local_step,
      mesh=mesh,
      in_specs=(partitioning.specs(params, mesh), BATCH, REPLICATED),
      out_specs=REPLICATED,
  )

  def step(params, *others):
    return mapped(for_module(params), *others)

  compiled = jit_for(mesh.devices.flat[0], model.dtype, step)
  return _Step(compiled, (images,))


def make_predict_step(
    *,
    model: Module,
    mesh: Mesh,
    params: Any,
    images: Callable[[Batch], jax.Array],
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
  """Compiles the predictions for one batch; arguments of `make_eval_step`.

  Returns:
    A function of (params, batch) to 'log_probabilities' [batch, classes] and
    'views' [batch] float32, and the batch's 'label' and 'weight': of the whole
    batch, on every device.
  """
  local_model = model.clone(tower_axis=TOWER)
  images = as_argument(images, mesh)

  def local_step(params, batch, images):
    # Local blocks: image [batch / data, size, size, 3].
    prediction, views = predict_views(local_model, params, images(batch))
    return {
        # Equal on both towers already, see make_eval_step.
        'log_probabilities': lax.pmean(prediction, TOWER),
        'label': batch['label'],
        'weight': batch['weight'],
        'views': jnp.full_like(batch['weight'], views),
    }

  mapped = jax.shard_map(
      local_step,
      mesh=mesh,
      in_specs=(partitioning.specs(params, mesh), BATCH, REPLICATED),
      out_specs=BATCH,
  )
  everywhere = jax.sharding.NamedSharding(mesh, REPLICATED)

  def predict(params, *others):
    result = mapped(for_module(params), *others)
    return jax.sharding.reshard(result, everywhere)

  compiled = jit_for(mesh.devices.flat[0], model.dtype, predict)
  return _Step(compiled, (images,))


def as_argument(images: Callable[..., Any], mesh: Mesh) -> Any:
  """Makes a function, or the method of a pytree, an argument of a step."""
  if not isinstance(images, types.MethodType):
    return jax.tree_util.Partial(images)
  everywhere = jax.sharding.NamedSharding(mesh, REPLICATED)
  owner = jax.device_put(images.__self__, everywhere)
  return jax.tree_util.Partial(images.__func__, owner)


def jit_for(
    device: jax.Device,
    dtype: jnp.dtype,
    function: Callable[..., Any],
    **arguments: Any,
) -> Any:
  """`jax.jit(function, **arguments)` with what such a device needs.

  Args:
    device: where it runs.
    dtype: that its network computes in.
    function: what to compile.
    **arguments: of `jax.jit`.
  """
  if device.platform == 'cpu':
    # By default XLA gives convolutions and matrix products to YNNPACK. Its
    # kernel gradients run at a third of the speed of XLA's own, its products in
    # float32 at 0.8 of it; those in bfloat16 at three times.
    library = dtype == jnp.bfloat16 and 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    options = {
        'xla_cpu_experimental_ynn_fusion_type': library or '',
        # Half of AVX-512's by default; where there is no such thing, no more
        # than there is.
        'xla_cpu_prefer_vector_width': 512,
        # Otherwise operations begin as early as they can, whose results then
        # wait for the others': up to a fifth more memory, and no faster.
        'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    }
    return _Program(jax.jit(function, compiler_options=options, **arguments))
  return jax.jit(function, **arguments)


def predict_views(
    local_model: Module, params: Any, crops: jax.Array
) -> tuple[jax.Array, int]:
  """The mean of the softmax outputs of an example's views (paper §4.1).

  Of a network from `models.everywhere` each place of each view counts as one.

  Args:
    local_model: the network; inside a mapped step with its `tower_axis`.
    params: its parameters, local blocks.
    crops: [batch, views, height, width, 3] float32.

  Returns:
    Its logarithm, [batch, classes] float32, and the number of views.
  """
  logits = local_model.apply(
      {'params': params}, crops.reshape(-1, *crops.shape[2:])
  )
  log_softmax = jax.nn.log_softmax(logits)
  log_softmax = log_softmax.reshape(len(crops), -1, logits.shape[-1])
  views = log_softmax.shape[1]
  return jax.nn.logsumexp(log_softmax, axis=1) - jnp.log(views), views


def score(
    log_probabilities: jax.Array, labels: jax.Array, weight: jax.Array
) -> Metrics:
  """What predictions come to: sums over examples.

  Args:
    log_probabilities: [batch, classes] float32.
    labels: [batch] int32.
    weight: [batch] float32, 0 for padding, otherwise 1.

  Returns:
    'loss', 'top1', 'top5' and 'count', [] float32.
  """
  rank = ranks(log_probabilities, labels)
  true = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)
  return {
      'loss': jnp.sum(jnp.where(weight > 0, -true[:, 0], 0.0)),
      'top1': jnp.sum(weight * (rank < 1)),
      'top5': jnp.sum(weight * (rank < 5)),
      'count': jnp.sum(weight),
  }
