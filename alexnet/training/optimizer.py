"""The paper's stochastic gradient descent; its rates are in schedules.py.

  v <- momentum * v - decay * rate * w - rate * gradient
  w <- w + v                                                       (paper §5)

The rate is inside the velocity v, so that after a drop of the rate the old
velocity keeps its size. `optax.sgd` multiplies by the rate last, which is a
different rule as soon as the rate changes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from alexnet.config.errors import ConfigError
from alexnet.training.schedules import KINDS, Bounds, Rules


def create_optimizer(
    config: ml_collections.ConfigDict, rules: Rules | None = None
) -> optax.GradientTransformationExtraArgs:
  """The update rule; its `update` takes the rates as `rates=`.

  Args:
    config: the `optimizer` part of a config.
    rules: of each parameter, of a network from a definition: the decays, and
      bounds. None: the config's decay, and no bounds.

  Returns:
    A gradient transformation over {layer: {'kernel': ..., 'bias': ...}}.
    `rates` is a tree of the same structure of scalars; a parameter whose rate
    is 0 is frozen: neither it nor its velocity changes.

  Raises:
    ConfigError: a number out of range.
  """
  if not 0 <= config.momentum < 1:
    raise ConfigError(
        f'optimizer.momentum is {config.momentum}: wanted 0 <= momentum < 1'
    )
  for field in (
      'weight_decay', 'bias_rate_multiplier', 'bias_decay_multiplier'
  ):
    if config.get(field, 0) < 0:
      raise ConfigError(f'optimizer.{field} is {config[field]}: wanted >= 0')

  def where(condition):
    return lambda params: {
        layer: {kind: condition(layer, kind) for kind in kinds}
        for layer, kinds in params.items()
    }

  if rules is None:
    decays = {
        'kernel': config.weight_decay,
        'bias': config.weight_decay * config.bias_decay_multiplier,
    }
    decayed = [
        optax.add_decayed_weights(decays[wanted], mask=where(
            lambda layer, kind, wanted=wanted: kind == wanted
        ))
        for wanted in KINDS
    ]
  else:
    decays = {
        rule.decay for of_layer in rules.values() for rule in of_layer.values()
    }
    decayed = [
        optax.add_decayed_weights(decay, mask=where(
            lambda layer, kind, decay=decay: rules[layer][kind].decay == decay
        ))
        for decay in sorted(decays)
    ]
  bounds = {
      (layer, kind): rule.bounds
      for layer, of_layer in (rules or {}).items()
      for kind, rule in of_layer.items() if rule.bounds
  }
  return optax.chain(
      *decayed,
      _scale_by_negative_rates(),
      _momentum(config.momentum),
      # Where there are none, states have the form that they always had.
      *([_keep_within(bounds)] if bounds else []),
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
  """Changes updates so that they end within bounds, {(layer, kind): bounds}.

  Comes last: of the velocity it takes nothing, as with the authors.
  """

  def update(updates, state, params=None, *, rates, **_):
    result = {layer: dict(of_layer) for layer, of_layer in updates.items()}
    for (layer, kind), limits in bounds.items():
      weights = params[layer][kind]
      moved = within_bounds(weights + updates[layer][kind], limits)
      result[layer][kind] = jnp.where(
          rates[layer][kind] == 0, 0.0, moved - weights
      )
    return result, state

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


def layer_names(params: Any) -> tuple[str, ...]:
  """Names of the layers in a tree of parameters."""
  return tuple(sorted(params))
