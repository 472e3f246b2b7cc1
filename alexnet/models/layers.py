"""Convolution and dense layers, whose features can be split over two towers.

Shapes are those on one device: the whole network outside a mapped step, one
tower's share inside `jax.shard_map`. A layer that reads both towers first
gathers its input over the mesh axis `tower_axis`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alexnet.ops.bias import add_bias
from alexnet.ops.collectives import devices_of, input_and_groups
from alexnet.ops.convolution import Padding, grouped_convolution
from alexnet.ops.dense import dense_everywhere, grouped_dense

# Values of `model.dtype`.
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# Collection of variables in which `keep` stores outputs of layers.
OUTPUTS = 'intermediates'
# Suffix of their names: a variable cannot have the name of a submodule.
_OUTPUT = ' output'


def keep(module: nn.Module, name: str, x: jax.Array) -> None:
  """Stores a layer's output for `kept`, if the collection OUTPUTS is mutable.

  Otherwise, as in training, it does nothing and adds nothing to the compiled
  program.
  """
  module.sow(OUTPUTS, name + _OUTPUT, x)


def kept(variables: Any, name: str) -> jax.Array:
  """Returns the output stored by `keep` in the variables that `apply` gave."""
  (output,) = variables[OUTPUTS][name + _OUTPUT]
  return output


class _TowerLayer(nn.Module):
  """Base of convolutions and dense layers.

  Attributes:
    features: number of output features of all towers together.
    reads: input of each output: 'image', an input that is not split by towers;
      'own', the features of its own tower; 'both', those of both towers.
    towers: number of towers of the network.
    stddev: standard deviation of the kernel's Gaussian initialization.
    bias: initial value of the biases.
    dtype: dtype of the computation; parameters are float32.
    tower_axis: mesh axis the towers are split over; None outside a mapped step.
  """

  features: int
  reads: str
  towers: int
  stddev: float
  bias: float
  dtype: Any = jnp.float32
  tower_axis: str | None = None

  def _devices(self):
    return devices_of(self.features, self.tower_axis)

  def _input_and_groups(self, x):
    return input_and_groups(
        x,
        reads=self.reads,
        towers=self.towers,
        devices=self._devices(),
        tower_axis=self.tower_axis,
    )

  def _parameters(self, kernel_shape):
    features = self.features // self._devices()
    kernel = self.param(
        'kernel',
        nn.initializers.normal(self.stddev),
        (*kernel_shape, features),
        jnp.float32,
    )
    bias = self.param(
        'bias', nn.initializers.constant(self.bias), (features,), jnp.float32
    )
    return kernel, bias


class Convolution(_TowerLayer):
  """Convolution with biases of [batch, height, width, channels] arrays.

  The kernel is [size, size, channels read by one output, features].
  """

  size: int = 3
  stride: int = 1
  padding: Padding = (0, 0)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x, groups = self._input_and_groups(x)
    kernel, bias = self._parameters(
        (self.size, self.size, x.shape[-1] // groups)
    )
    y = grouped_convolution(
        x, kernel, stride=self.stride, padding=self.padding, groups=groups
    )
    return add_bias(y, bias)


class Dense(_TowerLayer):
  """Fully connected layer over all axes but the first, to [batch, features].

  The kernel is [inputs read by one output, features]. Spatial axes are
  flattened after the towers' channels are gathered, so that the order of the
  inputs does not depend on the mesh.

  Attributes:
    everywhere: applies the layer, with its existing parameters, at every
      position of an input of any size: [batch, height, width, channels] to
      [batch, places down, places across, features].
  """

  everywhere: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x, groups = self._input_and_groups(x)
    if self.everywhere:
      inputs = self.get_variable('params', 'kernel').shape[0]
      kernel, bias = self._parameters((inputs,))
      return add_bias(dense_everywhere(x, kernel, groups), bias)
    inputs = math.prod(x.shape[1:]) // groups
    kernel, bias = self._parameters((inputs,))
    return add_bias(grouped_dense(x, kernel, groups), bias)
