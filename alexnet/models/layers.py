"""Convolutions and dense layers with parameters, each aware of the two towers.

Shapes are those that one device sees. Outside a mapped step that is the whole
network; inside `jax.shard_map` it is one tower's share, and a layer that reads
both towers first gathers its input over the mesh axis `tower_axis`.
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

# What `model.dtype` may be.
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# Collection of variables that `keep` puts layers' outputs in.
OUTPUTS = 'intermediates'
# Behind their names: a variable cannot have the name of a submodule.
_OUTPUT = ' output'


def keep(module: nn.Module, name: str, x: jax.Array) -> None:
  """Keeps a layer's output for `kept`, if the collection OUTPUTS is mutable.

  Otherwise, as in training, this is nothing, and leaves nothing in what is
  compiled.
  """
  module.sow(OUTPUTS, name + _OUTPUT, x)


def kept(variables: Any, name: str) -> jax.Array:
  """What `keep` has kept under a name in the variables that `apply` gave."""
  (output,) = variables[OUTPUTS][name + _OUTPUT]
  return output


class _TowerLayer(nn.Module):
  """What convolutions and dense layers share.

  Attributes:
    features: output features of the whole network, all towers together.
    reads: what an output reads: 'image', an input that is not split by towers;
      'own', its own tower's features; 'both', those of both towers.
    towers: towers of the network.
    stddev: standard deviation of the kernel's Gaussian initialization.
    bias: initial value of the biases.
    dtype: dtype to compute in; parameters are float32.
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
  """Convolution with biases: [batch, height, width, channels] to the same.

  Its kernel is [size, size, channels read by one output, features].
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

  Its kernel is [inputs read by one output, features]. An input with spatial
  axes is flattened here, after the towers' channels have been gathered, so
  that the order of its elements does not depend on the mesh.

  Attributes:
    everywhere: compute it, with the parameters that there are, at every place
      of an input of any size: [batch, height, width, channels] to
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
