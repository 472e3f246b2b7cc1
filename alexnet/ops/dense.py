"""Fully connected layers."""

import math

import jax
import jax.numpy as jnp

from alexnet.ops import forms
from alexnet.ops.collectives import with_equal_varying_axes
from alexnet.ops.cpu import layout, matmul


def grouped_dense(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
  """Multiplies flattened inputs by a kernel, in groups of channels.

  Args:
    x: [batch, ..., channels].
    kernel: [inputs of one group, features] in x's dtype, or in float32, which
      is rounded to it.
    groups: number of equal parts of the features, each of which reads one of as
      many equal parts of the channels.

  Returns:
    [batch, features].
  """

  def plain(x, kernel):
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1))
    return jnp.concatenate(
        [_flat(x) @ kernel.astype(x.dtype) for x, kernel in parts], axis=-1
    )

  cpu = layout.in_groups(
      lambda x, kernel: matmul.product(_flat(x), kernel), groups
  )
  x, kernel = with_equal_varying_axes(x, kernel)
  return forms.chosen(x, kernel, plain=plain, cpu=cpu)


def _flat(x):
  return x.reshape(x.shape[0], -1)


def dense_everywhere(
    x: jax.Array, kernel: jax.Array, groups: int
) -> jax.Array:
  """Applies `grouped_dense` to every window of the size that the kernel reads.

  This is a convolution with a kernel [side, side, channels, features], computed
  as a matrix product, which on a CPU takes three quarters of the time.

  Args:
    x: [batch, height, width, channels].
    kernel: [side * side * channels of one group, features].
    groups: number of groups; see `grouped_dense`.

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
