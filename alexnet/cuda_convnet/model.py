"""A network described by the authors' own files, see parser.py.

Each node of a `towers.Network` is computed from earlier ones. Outputs of paired
layers are split over the towers; outputs of single layers are whole on every
device.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet.cuda_convnet import towers as towers_lib
from alexnet.models import layers
from alexnet.ops import (
  collectives,
  convolution,
  dense,
  dropout,
  normalization,
  pooling,
)
from alexnet.runtime.gpu.precision import TENSORFLOAT32

_NEURONS = {
    'ident': lambda x: x,
    'relu': jax.nn.relu,
    'logistic': jax.nn.sigmoid,
    'abs': jnp.abs,
    'softrelu': jax.nn.softplus,
    'square': jnp.square,
    'sqrt': jnp.sqrt,
    'tanh': lambda x, a, b: a * jnp.tanh(b * x),
    'brelu': lambda x, a: jnp.clip(x, 0, a),
    'linear': lambda x, a, b: a * x + b,
    'drelu': lambda x, a: x - a * jnp.tanh(x / a),
}


class CudaConvnet(nn.Module):
  """The network of a layer definition.

  Attributes:
    network: the network's nodes.
    dtype: dtype of the computation. Parameters, sums of response normalization
      and logits are float32.
    precision: precision of products, see `alexnet.AlexNet`.
    tower_axis: mesh axis over which towers are split, inside a mapped step;
      None if this device holds the whole network.
  """

  network: towers_lib.Network
  dtype: Any = jnp.float32
  precision: str = TENSORFLOAT32
  tower_axis: str | None = None

  @property
  def head(self) -> str:
    """Name of the last layer with weights."""
    return [node.name for node in self.network.nodes if node.kernels][-1]

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of the layers whose outputs are kept: all, in the file's order."""
    return tuple(
        node.name for node in self.network.nodes if node.layer.type != 'data'
    )

  @nn.compact
  def __call__(
      self, images: jax.Array, *, dropout_keys: jax.Array | None = None
  ) -> jax.Array:
    """Computes the logits of a batch of images.

    If the collection `layers.OUTPUTS` is mutable, `layers.keep` stores the
    output of each of `layer_names` there.

    Args:
      images: [batch, height, width, 3] float32, 0..255 minus the training
        set's mean, of the size that the network was parsed for.
      dropout_keys: [batch] random keys, one per example, for training; None
        for evaluation.

    Returns:
      [batch, classes] float32 logits, complete on every tower's device.
    """
    values = {}
    dropouts = 0
    for node in self.network.nodes:
      inputs = [values[source.node] for source in node.sources]
      kind = node.layer.type
      if kind == 'data':
        x = images.astype(self.dtype)
      elif node.kernels:
        x = _Weights(
            node=node,
            towers=self.network.towers,
            dtype=self.dtype,
            tower_axis=self.tower_axis,
            name=node.name,
        )(*inputs)
      elif kind == 'hs':
        x = self._hs(node, *inputs, dropout_keys, dropouts)
        dropouts += 1
      else:
        x = getattr(self, f'_{kind}')(node, *inputs)
      neuron = node.layer.neuron
      values[node.name] = _NEURONS[neuron.form](x, *neuron.arguments)
      layers.keep(self, node.name, values[node.name])
    return values[self.network.output].astype(jnp.float32)

  # Each method computes one type; x is [batch, height, width, channels].

  def _pool(self, node, x):
    settings = dict(node.layer.settings)
    kinds = {'max': pooling.max_pool, 'avg': pooling.average_pool}
    return kinds[settings.pop('pool')](x, **settings)

  def _cmrnorm(self, node, x):
    settings = dict(node.layer.settings)
    size, alpha = settings.pop('size'), settings.pop('alpha')
    devices = lax.axis_size(self.tower_axis) if self.tower_axis else 1
    groups = self.network.towers // devices if node.paired else 1
    return normalization.local_response_normalization(
        x, n=size, alpha=alpha / size, groups=groups, **settings
    )

  def _rnorm(self, node, x):
    return normalization.spatial_response_normalization(
        x, **dict(node.layer.settings)
    )

  def _cnorm(self, node, x):
    return normalization.contrast_normalization(x, **dict(node.layer.settings))

  def _hs(self, node, x, keys, index):
    settings = dict(node.layer.settings)
    if not settings['enabled']:
      keys = None  # Without dropping, outputs are still scaled.
    elif keys is not None:
      keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
    return dropout.dropout(
        x,
        rate=1 - settings['keep'],
        kind='paper',
        keys=keys,
        tower_axis=self.tower_axis if node.paired else None,
    )

  def _neuron(self, node, x):
    del node
    return x

  def _blur(self, node, x):
    settings = dict(node.layer.settings)
    radius = settings['size'] // 2
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) / (2 * settings['stdev'] ** 2))
    weights /= weights.sum()
    for axis in (1, 2):  # Rows, then columns; zeros outside.
      side = x.shape[axis]
      config = [(0, 0, 0)] * x.ndim
      config[axis] = (radius, radius, 0)
      wide = lax.pad(x, jnp.zeros((), x.dtype), config)
      x = sum(
          jnp.asarray(weight, x.dtype)
          * lax.slice_in_dim(wide, i, i + side, axis=axis)
          for i, weight in enumerate(weights)
      )
    return x

  def _nailbed(self, node, x):
    settings = dict(node.layer.settings)
    pixels = slice(settings['start'], None, settings['stride'])
    side = node.layer.side
    return x[:, pixels, pixels][:, :side, :side]

  def _href(self, node, x):
    del node
    return x[:, :, ::-1]

  def _eltsum(self, node, *inputs):
    (_, coefficients), = node.layer.settings
    return sum(
        x if c == 1 else jnp.asarray(c, x.dtype) * x
        for c, x in zip(coefficients, inputs)
    )

  def _eltmax(self, node, *inputs):
    del node
    result = inputs[0]
    for x in inputs[1:]:
      result = jnp.maximum(result, x)
    return result

  def _concat(self, node, *inputs):
    whole = [
        collectives.gather_features(x, self.tower_axis)
        if source.reads == 'both' and self.tower_axis else x
        for source, x in zip(node.sources, inputs)
    ]
    return jnp.concatenate(whole, axis=-1)


class _Weights(nn.Module):
  """A conv or fc node: the sum over its inputs, plus biases.

  Attributes:
    node: the node.
    towers: number of the network's towers.
    dtype, tower_axis: see `CudaConvnet`.
  """

  node: towers_lib.Node
  towers: int
  dtype: Any
  tower_axis: str | None

  @nn.compact
  def __call__(self, *inputs: jax.Array) -> jax.Array:
    features = self.node.features
    devices = collectives.devices_of(features, self.tower_axis)
    total = None
    for index, x in enumerate(inputs):
      y = self._product(index, x, features // devices, devices)
      total = y if total is None else total + y
    total += self._biases(total.shape[1:])
    if features == total.shape[-1] or self.node.paired:
      return total
    return collectives.gather_features(total, self.tower_axis)

  def _product(self, index, x, features, devices):
    kernel, source = self.node.kernels[index], self.node.sources[index]
    x, groups = collectives.input_and_groups(
        x,
        reads=source.reads,
        towers=self.towers,
        devices=devices,
        tower_axis=self.tower_axis,
    )
    matrix = kernel.matrix
    if matrix.connections:  # Only in networks with one tower.
      x = x[..., np.asarray(matrix.connections)]
    groups *= matrix.groups
    channels = x.shape[-1] // groups
    if self.node.layer.type == 'conv':
      shape = (matrix.size, matrix.size, channels, features)
    else:
      shape = (math.prod(x.shape[1:-1]) * channels, features)
    weights = self.param(
        towers_lib.kernel_name(index),
        _normal(kernel.stddevs, channels),
        shape,
        jnp.float32,
    )
    if self.node.layer.type == 'fc':
      return dense.grouped_dense(x, weights, groups)
    return convolution.grouped_convolution(
        x, weights, stride=matrix.stride, padding=matrix.padding, groups=groups
    )

  def _biases(self, shape):
    shape = shape[-1:] if self.node.biases[0].shared else shape
    values = [biases.value for biases in self.node.biases]

    def initialize(key, shape, dtype):
      del key
      return jnp.asarray(_parts(values, shape[-1]), dtype) * jnp.ones(shape)

    return self.param('bias', initialize, shape, jnp.float32).astype(self.dtype)


def _parts(values, size):
  """Returns a [size, ...] array of equal parts, each filled with one value."""
  return np.asarray(values)[np.arange(size) * len(values) // size]


def _normal(stddevs, channels):
  """Returns a Gaussian initializer with a deviation per block of a kernel.

  Args:
    stddevs: a row for each equal part of the channels, with a deviation for
      each equal part of the features.
    channels: channels that an output reads per pixel; they vary fastest among
      the kernel's inputs.
  """
  values = np.asarray(stddevs)
  if np.all(values == values[0, 0]):
    return nn.initializers.normal(values[0, 0].item())

  def initialize(key, shape, dtype):
    rows = _parts(values, channels)
    blocks = _parts(rows.T, shape[-1]).T  # [channels, features]
    blocks = np.tile(blocks, (shape[-2] // channels, 1))
    return jax.random.normal(key, shape, dtype) * blocks.astype(np.float32)

  return initialize
