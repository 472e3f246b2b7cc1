"""Convolution in one or two groups of channels."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops.collectives import with_equal_varying_axes
from alexnet.ops.cpu import convolution as cpu_convolution
from alexnet.ops.cpu import layout, winograd

Padding = tuple[int, int]

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def grouped_convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = (0, 0),
    groups: int = 1,
) -> jax.Array:
  """Convolution whose output channels each read one group of the input's.

  Args:
    x: [batch, height, width, in_channels].
    kernel: [size, size, in_channels / groups, out_channels] of x's dtype or
      float32, which is rounded to it; the first out_channels / groups of the
      last axis belong to the first group.
    stride: in pixels, both ways.
    padding: rows and columns of zeros (before, after), both ways.
    groups: 2 for two towers that do not read each other, else 1.

  Returns:
    [batch, out_height, out_width, out_channels] of x's dtype.
  """
  x, kernel = with_equal_varying_axes(x, kernel)
  return _convolution(x, kernel, stride, padding, groups)


def _convolution_plain(x, kernel, stride, padding, groups):
  return lax.conv_general_dilated(
      x,
      kernel.astype(x.dtype),
      (stride, stride),
      (padding, padding),
      dimension_numbers=_LAYOUT,
      feature_group_count=groups,
  )


def _for_each_group(function, groups):
  """A function of arrays, applied to each group of their last axes."""
  if groups == 1:
    return function

  def apply(*arrays):
    parts = zip(*(jnp.split(array, groups, axis=-1) for array in arrays))
    return jnp.concatenate([function(*part) for part in parts], axis=-1)

  return apply


def _convolution_of_cpu(x, kernel, stride, padding):
  # One group's: XLA's own form of groups is slow on a CPU.
  method = winograd.method(x, kernel, stride)
  if method:
    return winograd.convolution(
        x, kernel, stride=stride, padding=padding, method=method
    )
  if x.dtype == jnp.bfloat16:
    return cpu_convolution.convolution(
        x, kernel, stride=stride, padding=padding
    )
  return cpu_convolution.direct_convolution(
      x, kernel, stride, (padding, padding)
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(x, kernel, stride, padding, groups):
  of_cpu, plain = _convolutions(stride, padding, groups)
  return lax.platform_dependent(
      x, kernel, cpu=_for_each_group(of_cpu, groups), default=plain
  )


def _convolutions(stride, padding, groups):
  """As a function of (x, kernel): of one group on a CPU; of all elsewhere."""
  return (
      lambda x, kernel: _convolution_of_cpu(x, kernel, stride, padding),
      lambda x, kernel: _convolution_plain(x, kernel, stride, padding, groups),
  )


def _convolution_forward(x, kernel, stride, padding, groups):
  return _convolution(x, kernel, stride, padding, groups), (x, kernel)


def _convolution_backward(stride, padding, groups, saved, g):
  of_cpu, plain = _convolutions(stride, padding, groups)

  def gradient_of(argument):
    in_groups = _for_each_group(_gradient_of(argument, of_cpu), groups)
    return lax.platform_dependent(
        *saved,
        g,
        cpu=lambda *arrays: layout.stored(in_groups(*arrays)),
        default=_gradient_of(argument, plain),
    )

  # Two calls, so that the gradient of the images, which nobody reads, can be
  # dropped.
  return gradient_of(0), gradient_of(1)


def _gradient_of(argument, convolution):
  def gradient(x, kernel, g):
    operands = [x, kernel]

    def forward(operand):
      operands[argument] = operand
      return convolution(*operands)

    return jax.vjp(forward, operands[argument])[1](g)[0]

  return gradient


_convolution.defvjp(_convolution_forward, _convolution_backward)
