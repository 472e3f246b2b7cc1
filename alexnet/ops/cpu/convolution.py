"""Convolutions by the method that is fastest on a CPU, group by group."""

import jax
import jax.numpy as jnp

from alexnet.ops.cpu import direct, layout, winograd
from alexnet.ops.cpu.layout import Padding


def grouped_convolution(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding,
    groups: int,
) -> jax.Array:
  """See `ops.convolution`; avoids XLA's groups, which are slow on CPUs."""

  def one_group(x, kernel):
    method = winograd.method(x, kernel, stride)
    if method:
      return winograd.convolution(
          x, kernel, stride=stride, padding=padding, method=method
      )
    if x.dtype == jnp.bfloat16:
      return direct.by_products(x, kernel, stride=stride, padding=padding)
    return direct.by_eigen(x, kernel, stride, (padding, padding))

  x, kernel = map(layout.gradient_stored, (x, kernel))
  return layout.in_groups(one_group, groups)(x, kernel)
