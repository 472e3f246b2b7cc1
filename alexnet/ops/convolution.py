"""Convolution in one or two groups of channels."""

import jax
from jax import lax

from alexnet.ops import forms
from alexnet.ops.collectives import with_equal_varying_axes
from alexnet.ops.cpu import convolution as cpu_convolution
from alexnet.ops.gpu import convolution as gpu_convolution

Padding = tuple[int, int]


def grouped_convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = (0, 0),
    groups: int = 1,
) -> jax.Array:
  """Convolution in which each output channel reads one group of channels.

  Args:
    x: [batch, height, width, in_channels].
    kernel: [size, size, in_channels / groups, out_channels] in x's dtype, or in
      float32, which is rounded to it. The first out_channels / groups of the
      last axis belong to the first group.
    stride: stride in pixels, along both axes.
    padding: rows and columns of zeros (before, after), along both axes.
    groups: 2 for two towers that do not read each other, otherwise 1.

  Returns:
    [batch, out_height, out_width, out_channels] in x's dtype.
  """

  def plain(x, kernel, padding=padding):
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        (padding, padding),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )

  def cpu(x, kernel):
    return cpu_convolution.grouped_convolution(
        x, kernel, stride=stride, padding=padding, groups=groups
    )

  def gpu(x, kernel):
    return plain(gpu_convolution.padded(x, padding), kernel, (0, 0))

  before, after = padding
  x, kernel = with_equal_varying_axes(x, kernel)
  return forms.chosen(
      x, kernel, plain=plain, cpu=cpu, gpu=gpu if before != after else None
  )
