"""The biases of all layers."""

import jax
import jax.numpy as jnp

from alexnet.ops import forms
from alexnet.ops.collectives import with_equal_varying_axes
from alexnet.ops.cpu import bias as cpu_bias


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds [features] biases to x, [..., features], in x's dtype."""

  def plain(x, bias):
    # Rounded last, so that the bias's gradient is summed in float32.
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)

  x, bias = with_equal_varying_axes(x, bias)
  return forms.chosen(x, bias, plain=plain, cpu=cpu_bias.add_bias)
