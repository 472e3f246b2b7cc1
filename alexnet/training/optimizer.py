"""The paper's stochastic gradient descent; see schedules.py for its rates.

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
  """Creates the update rule, whose `update` takes the rates as `rates=`.

  Args:
    config: the `optimizer` part of a config.
    rules: rules of the parameters of a network from a definition file, with
      their weight decay and bounds; None for the config's weight decay and no
      bounds.

  Returns:
    A gradient transformation over nested dictionaries of parameters. `rates`
    is a tree of scalars with the same structure; a parameter whose rate is 0
    is frozen: neither it nor its velocity changes.
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
      # The order is part of the format of checkpoints.
      *(
          optax.add_decayed_weights(decay, mask=functools.partial(
              map_with_path, lambda path, _, has=has: has(path)
          ))
          for decay, has in _decays(config, rules)
      ),
      _scale_by_negative_rates(),
      _momentum(config.momentum),
      # Left out without bounds, so that older checkpoints can be restored.
      *([_keep_within(bounds)] if bounds else []),
  )


def _decays(config, rules):
  """Yields each weight decay and a predicate of paths that have it."""
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
  """Scales the weights of each output to be within bounds.

  For the n weights w of an output, |w - mean(w)| / n is brought into low..high,
  and then |w| / n to at most norm, where |.| is the root of the sum of squares.
  This is ConvLayer::constrainWeights and FCLayer::constrainWeights in
  src/layer.cu of the authors' code, with WeightContrastNormOperator and
  WeightConstraintOperator in include/layer.cuh.

  Args:
    weights: [..., outputs] float32. If all weights of an output are equal, they
      have no difference to scale and are not brought to `low`.
    bounds: the bounds; a `high` or `norm` of 0 means no bound.

  Returns:
    An array of the shape and dtype of `weights`.
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
  """Changes updates so that parameters stay within bounds, {path: bounds}.

  It comes last in the chain, so it does not change the velocity, as in the
  authors' code.
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
    # Not a product: 0 times a non-finite gradient is not 0.
    scaled = jax.tree.map(
        lambda u, rate: jnp.where(rate == 0, 0.0, -rate * u), updates, rates
    )
    return scaled, state

  return optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(), update
  )


def _momentum(momentum):
  """Returns optax.trace that leaves parameters with a rate of 0 unchanged.

  Otherwise momentum would move a parameter after its rate has become 0.
  """

  def update(updates, state, params=None, *, rates, **_):
    del params
    # `where` on scalar factors, not on arrays: on a CPU, XLA would copy the old
    # velocity and the parameters and compute the new velocity twice.
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
