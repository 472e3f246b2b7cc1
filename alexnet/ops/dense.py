"""Fully connected layers, and the biases of all layers."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops.collectives import with_equal_varying_axes
from alexnet.ops.cpu import layout, matmul
from alexnet.ops.cpu import reductions as cpu_reductions


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds [features] biases to x, [..., features], in x's dtype."""
  return _add_bias(*with_equal_varying_axes(x, bias))


@jax.custom_vjp
def _add_bias(x, bias):
  def plain(x, bias):
    return x + bias.astype(x.dtype)

  return lax.platform_dependent(
      x, bias, cpu=lambda *a: layout.stored(plain(*a)), default=plain
  )


def _add_bias_forward(x, bias):
  return _add_bias(x, bias), bias


def _add_bias_backward(bias, g):
  def gradients(g, sum_of_rows):
    return g, sum_of_rows(g.reshape(-1, g.shape[-1]), bias.dtype)

  return lax.platform_dependent(
      g,
      cpu=lambda g: gradients(layout.stored(g), cpu_reductions.sum_of_rows),
      default=lambda g: gradients(g, _sum_of_rows_plain),
  )


def _sum_of_rows_plain(rows, dtype):
  return rows.sum(0, dtype=dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def grouped_dense(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
  """Products of a flattened input, whose channels are in groups.

  Args:
    x: [batch, ..., channels].
    kernel: [inputs of one group, features] of x's dtype or float32, which is
      rounded to it; equal parts of the features read equal parts of the
      channels.
    groups: number of these parts.

  Returns:
    [batch, features].
  """
  x, kernel = with_equal_varying_axes(x, kernel)
  parts = [
      part.reshape(x.shape[0], -1) for part in jnp.split(x, groups, axis=-1)
  ]
  kernels = jnp.split(kernel, groups, axis=-1)
  y = [_product(part, part_kernel) for part, part_kernel in zip(parts, kernels)]
  return jnp.concatenate(y, axis=-1)


def _product_plain(x, kernel):
  return x @ kernel.astype(x.dtype)


@jax.custom_vjp
def _product(x, kernel):
  return lax.platform_dependent(
      x, kernel, cpu=matmul.product_to_predict, default=_product_plain
  )


def _product_forward(x, kernel):
  y = lax.platform_dependent(
      x, kernel, cpu=matmul.product, default=_product_plain
  )
  return y, (x, kernel)


def _product_backward(saved, g):
  def gradients_of(product):
    return lambda x, kernel, g: jax.vjp(product, x, kernel)[1](g)

  return lax.platform_dependent(
      *saved,
      g,
      cpu=gradients_of(matmul.product),
      default=gradients_of(_product_plain),
  )


_product.defvjp(_product_forward, _product_backward)


def dense_everywhere(
    x: jax.Array, kernel: jax.Array, groups: int
) -> jax.Array:
  """`grouped_dense` of every window of the size that the kernel reads.

  That is a convolution with the kernel as side x side x channels x features,
  computed as a product of matrices, which on a CPU takes three quarters of
  XLA's time for the convolution.

  Args:
    x: [batch, height, width, channels].
    kernel: [side * side * channels of one group, features].
    groups: see `grouped_dense`.

  Returns:
    [batch, height - side + 1, width - side + 1, features].

  Raises:
    ValueError: x is smaller than the window.
  """
  side = math.isqrt(kernel.shape[0] * groups // x.shape[-1])
  rows, columns = (size - side + 1 for size in x.shape[1:3])
  if min(rows, columns) < 1:
    raise ValueError(
        f'maps of {x.shape[1]} x {x.shape[2]} are smaller than the {side} x '
        f'{side} that a fully connected layer reads'
    )
  batch = x.shape[0]
  x = jnp.stack([x[:, i : i + side] for i in range(rows)], axis=1)
  x = jnp.stack([x[..., i : i + side, :] for i in range(columns)], axis=2)
  y = grouped_dense(x.reshape(-1, *x.shape[3:]), kernel, groups)
  return y.reshape(batch, rows, columns, -1)
