"""Biases whose gradients are sums that are fast in XLA's CPU backend."""

import jax

from alexnet.ops.cpu import reductions
from alexnet.ops.cpu.layout import stored


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """See `ops.bias.add_bias`."""
  return stored(x + bias.astype(x.dtype))


def _forward(x, bias):
  return add_bias(x, bias), bias


def _backward(bias, g):
  g = stored(g)
  rows = g.reshape(-1, g.shape[-1])
  return g, reductions.sum_of_rows(rows, bias.dtype)


add_bias.defvjp(_forward, _backward)
