"""The paper's stochastic gradient descent; its rates are in schedules.py.

  v <- momentum * v - decay * rate * w - rate * gradient
  w <- w + v                                                       (paper §5)

The rate is inside the velocity v, so that after a drop of the rate the old
velocity keeps its size. `optax.sgd` multiplies by the rate last, which is a
different rule as soon as the rate changes.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import optax

from alexnet.models.parameters import (
  BIASES,
  by_path,
  last_match,
  map_with_path,
)
from alexnet.training.schedules import Bounds, Rules


def create_optimizer(
    config: ml_collections.ConfigDict, rules: Rules | None = None
) -> optax.GradientTransformationExtraArgs:
  """The update rule; its `update` takes the rates as `rates=`.

  Args:
    config: the `optimizer` part of a config.
    rules: of each parameter, of a network from a definition: the decays, and
      bounds. None: the config's decay, and no bounds.

  Returns:
    A gradient transformation over nested dictionaries of parameters. `rates`
    is a tree of the same structure of scalars; a parameter whose rate is 0 is
    frozen: neither it nor its velocity changes.
  """
  frozen = ml_collections.FrozenConfigDict(config)
  rows = None if rules is None else tuple(by_path(rules).items())
  return _create(frozen, rows)


@functools.cache  # Equal rules are one object, see `train_step._compiled`.
def _create(config, rows):
  rules = None if rows is None else dict(rows)
  bounds = {
      path: rule.bounds for path, rule in (rules or {}).items() if rule.bounds
  }
  return optax.chain(
      # A checkpoint has a state for each of these, in this order.
      *(
          optax.add_decayed_weights(decay, mask=functools.partial(
              map_with_path, lambda path, _, has=has: has(path)
          ))
          for decay, has in _decays(config, rules)
      ),
      _scale_by_negative_rates(),
      _momentum(config.momentum),
      # Where there are none, states have the form that they always had.
      *([_keep_within(bounds)] if bounds else []),
  )


def _decays(config, rules):
  """Yields each weight decay, and whether the parameter at a path has it."""
  if rules is not None:
    decays = {path: rule.decay for path, rule in rules.items()}
    for decay in sorted(set(decays.values())):
      yield decay, lambda path, decay=decay: decays[path] == decay
    return
  factors = (
      ('*', 1.0),
      (BIASES, config.bias_decay_multiplier),
      *config.layer_decay_factors,
  )
  for index, (_, factor) in enumerate(factors):
    yield config.weight_decay * factor, lambda path, index=index: (
        last_match(factors, path)[0] == index
    )


def within_bounds(weights: jax.Array, bounds: Bounds) -> jax.Array:
  """Scales the weights of each output, so that they are within bounds.

  Of the n weights w that an output reads, |w - mean(w)| / n is brought into
  low..high, and then |w| / n to at most norm, |.| being the root of the sum of
  squares. As ConvLayer::constrainWeights and FCLayer::constrainWeights in
  src/layer.cu of the authors' code, with WeightContrastNormOperator and
  WeightConstraintOperator in include/layer.cuh.

  Args:
    weights: [..., outputs] float32. Those of an output that are all equal have
      no difference that could be scaled, and are not brought to `low`.
    bounds: a `high` or a `norm` of 0 is none.
  """
  inputs = tuple(range(weights.ndim - 1))
  root = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), inputs))
  count = weights.size // weights.shape[-1]

  def scaled(weights, size, low, high):
    wanted = jnp.clip(size, low * count, high * count)
    return weights * jnp.where(size > 0, wanted / size, 1.0)

  if bounds.high:
    differences = weights - jnp.mean(weights, inputs)
    weights = scaled(weights, root(differences), bounds.low, bounds.high)
  if bounds.norm:
    weights = scaled(weights, root(weights), 0.0, bounds.norm)
  return weights


def _keep_within(bounds):
  """Changes updates so that they end within bounds, {path: bounds}.

  Comes last: of the velocity it takes nothing, as with the authors.
  """

  def update(updates, state, params=None, *, rates, **_):
    weights, rates = by_path(params), by_path(rates)

    def bounded(path, update):
      if path not in bounds:
        return update
      moved = within_bounds(weights[path] + update, bounds[path])
      return jnp.where(rates[path] == 0, 0.0, moved - weights[path])

    return map_with_path(bounded, updates), state

  return optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(), update
  )


def _scale_by_negative_rates():
  def update(updates, state, params=None, *, rates, **_):
    del params
    # A choice, since 0 times a gradient that is not finite is not 0.
    scaled = jax.tree.map(
        lambda u, rate: jnp.where(rate == 0, 0.0, -rate * u), updates, rates
    )
    return scaled, state

  return optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(), update
  )


def _momentum(momentum):
  """optax.trace, but for parameters whose rate is 0: they and it stay.

  Without that, momentum would carry a parameter on after its rate is 0.
  """

  def update(updates, state, params=None, *, rates, **_):
    del params
    # By factors: of a choice between arrays XLA makes, on a CPU, copies of the
    # old velocity and the parameters, and computes the new one twice.
    velocity = jax.tree.map(
        lambda rate, v, u: jnp.where(rate == 0, 1.0, momentum) * v + u,
        rates,
        state.trace,
        updates,
    )
    moved = jax.tree.map(
        lambda rate, v: jnp.where(rate == 0, 0.0, 1.0) * v, rates, velocity
    )
    return moved, optax.TraceState(velocity)

  return optax.GradientTransformationExtraArgs(
      optax.trace(momentum).init, update
  )
