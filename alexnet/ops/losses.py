"""Losses, and ranks for top-1 and top-5 accuracy."""

import jax
import jax.numpy as jnp
import optax

Metrics = dict[str, jax.Array]


def example_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of each example: logits [batch, classes], labels [batch]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def ranks(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """Counts the classes that rank before the true one.

  Equal scores rank in the order of their classes, so that a network with
  constant scores is right as often as chance. A NaN score is never right.

  Args:
    scores: [batch, classes] logits or probabilities.
    labels: [batch] integers.

  Returns:
    [batch] integers from 0: top-1 means rank < 1, top-5 rank < 5.
  """
  true = jnp.take_along_axis(scores, labels[:, None], axis=-1)
  earlier = jnp.arange(scores.shape[-1]) < labels[:, None]
  before = ~(scores <= true) | ((scores == true) & earlier)
  return jnp.sum(before, axis=-1)


def score(
    log_probabilities: jax.Array, labels: jax.Array, weight: jax.Array
) -> Metrics:
  """Computes sums of loss and accuracy over examples.

  Args:
    log_probabilities: [batch, classes] float32.
    labels: [batch] int32.
    weight: [batch] float32, 0 for padding, otherwise 1.

  Returns:
    {name: [] float32} of 'loss', 'top1', 'top5' and 'count'.
  """
  rank = ranks(log_probabilities, labels)
  true = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)
  return {
      'loss': jnp.sum(jnp.where(weight > 0, -true[:, 0], 0.0)),
      'top1': jnp.sum(weight * (rank < 1)),
      'top5': jnp.sum(weight * (rank < 5)),
      'count': jnp.sum(weight),
  }
