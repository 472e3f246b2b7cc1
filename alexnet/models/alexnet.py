"""The network of Krizhevsky, Sutskever and Hinton (2012).

Read `AlexNet.__call__` from top to bottom; the numbers are in
configs/alexnet.py (the paper's) and configs/alexnet_2012.py (run #145's).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet.models import layers
from alexnet.ops import collectives, normalization, pooling
from alexnet.ops import dropout as dropout_lib
from alexnet.runtime.gpu.precision import TENSORFLOAT32

ACTIVATIONS = {'relu': jax.nn.relu, 'tanh': jnp.tanh, 'sigmoid': jax.nn.sigmoid}
DROPOUT_KINDS = ('paper', 'inverted')
CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6')
DENSE = ('fc6', 'fc7')
HEAD = 'fc8'
READS = ('image', 'own', 'both')
OPERATIONS = ('activation', 'lrn', 'spatial_norm', 'pool')


@dataclasses.dataclass(frozen=True)
class ConvolutionSpec:
  """One convolution and the operations after it; see configs/alexnet.py."""

  features: int
  size: int
  stride: int
  padding: tuple[int, int]
  reads: str
  stddev: float
  bias: float
  after: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DenseSpec:
  """One fully connected layer; see configs/alexnet.py."""

  features: int
  reads: str
  stddev: float
  bias: float
  dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class LRNSpec:
  """Local response normalization over channels; see configs/alexnet.py."""

  enabled: bool
  n: int
  k: float
  alpha: float
  beta: float
  divide_alpha_by_n: bool
  across_towers: bool


@dataclasses.dataclass(frozen=True)
class SpatialNormSpec:
  """Response normalization over pixels; see configs/alexnet.py."""

  enabled: bool
  size: int
  k: float
  alpha: float
  beta: float


@dataclasses.dataclass(frozen=True)
class PoolSpec:
  """Max pooling; see configs/alexnet.py."""

  window: int
  stride: int


class AlexNet(nn.Module):
  """AlexNet with one or two towers, on one device or one device per tower.

  Attributes:
    convolutions: (name, spec) of each convolution, in order.
    dense: (name, spec) of the hidden fully connected layers, then the head.
    towers: number of towers: 2 as in the paper, or 1.
    activation: a key of ACTIVATIONS.
    lrn, spatial_norm, pool: settings of these operations, for all layers.
    dropout_kind: one of DROPOUT_KINDS.
    dtype: dtype of the computation. Parameters, the sums of response
      normalization and the returned logits are always float32.
    precision: precision of matrix products, applied where the network is
      compiled; see runtime/gpu/precision.py.
    tower_axis: mesh axis that the towers are split over, inside a mapped step;
      None if this device holds the whole network.
    everywhere: computes the fully connected layers as 6 x 6 and then 1 x 1
      convolutions with the same parameters, on images at least as large as
      those of training.
  """

  convolutions: tuple[tuple[str, ConvolutionSpec], ...]
  dense: tuple[tuple[str, DenseSpec], ...]
  towers: int
  activation: str
  lrn: LRNSpec
  spatial_norm: SpatialNormSpec
  pool: PoolSpec
  dropout_kind: str
  dtype: Any = jnp.float32
  precision: str = TENSORFLOAT32
  tower_axis: str | None = None
  everywhere: bool = False

  @property
  def head(self) -> str:
    """Name of the layer that computes the logits."""
    return self.dense[-1][0]

  @property
  def layer_names(self) -> tuple[str, ...]:
    """Names of the layers whose outputs are kept; see `__call__`."""
    return (
        *(_output_name(name, spec) for name, spec in self.convolutions),
        *(name for name, _ in self.dense),
    )

  @property
  def stride(self) -> int:
    """Distance of neighbouring positions of `everywhere`, in pixels."""
    distance = 1
    for _, spec in self.convolutions:
      if spec.features:
        distance *= spec.stride
      distance *= self.pool.stride ** spec.after.count('pool')
    return distance

  @nn.compact
  def __call__(
      self, images: jax.Array, *, dropout_keys: jax.Array | None = None
  ) -> jax.Array:
    """Computes the logits of a batch of images.

    If the collection `layers.OUTPUTS` is mutable, `layers.keep` stores each
    layer's output in it: for a convolution, after its normalization and pooling
    (named pool1 instead of conv1 if it is pooled); for a hidden fully connected
    layer, after the activation and before dropout; for the head, the logits.

    Args:
      images: [batch, height, width, 3] float32, 0..255 minus the training
        set's mean; 224 x 224 pixels in the paper.
      dropout_keys: [batch] random keys, one per example, for training; None in
        testing.

    Returns:
      [batch, classes] float32 logits of all classes, on every tower's device;
      [batch, places down, places across, classes] if `everywhere`.
    """
    x = images.astype(self.dtype)
    for name, spec in self.convolutions:
      if spec.features:
        x = layers.Convolution(
            **self._layer(spec),
            size=spec.size,
            stride=spec.stride,
            padding=spec.padding,
            name=name,
        )(x)
      for operation in spec.after:
        x = getattr(self, f'_{operation}')(x)
      layers.keep(self, _output_name(name, spec), x)
    *hidden, (head, head_spec) = self.dense
    for index, (name, spec) in enumerate(hidden):
      x = self._dense(name, spec)(x)
      x = self._activation(x)
      layers.keep(self, name, x)
      x = self._dropout(x, spec.dropout, dropout_keys, index)
    logits = self._dense(head, head_spec)(x)
    if logits.shape[-1] < head_spec.features:
      logits = collectives.gather_features(logits, self.tower_axis)
    layers.keep(self, head, logits)
    return logits.astype(jnp.float32)

  def _layer(self, spec):
    return dict(
        features=spec.features,
        reads=spec.reads,
        stddev=spec.stddev,
        bias=spec.bias,
        towers=self.towers,
        dtype=self.dtype,
        tower_axis=self.tower_axis,
    )

  def _dense(self, name, spec):
    return layers.Dense(
        **self._layer(spec), everywhere=self.everywhere, name=name
    )

  def _activation(self, x):
    return ACTIVATIONS[self.activation](x)

  def _lrn(self, x):
    devices = lax.axis_size(self.tower_axis) if self.tower_axis else 1
    groups = 1 if self.lrn.across_towers else self.towers // devices
    alpha = self.lrn.alpha
    if self.lrn.divide_alpha_by_n:
      alpha /= self.lrn.n
    return normalization.local_response_normalization(
        x,
        n=self.lrn.n,
        k=self.lrn.k,
        alpha=alpha,
        beta=self.lrn.beta,
        groups=groups,
    )

  def _spatial_norm(self, x):
    return normalization.spatial_response_normalization(
        x,
        size=self.spatial_norm.size,
        k=self.spatial_norm.k,
        alpha=self.spatial_norm.alpha,
        beta=self.spatial_norm.beta,
    )

  def _pool(self, x):
    return pooling.max_pool(
        x, window=self.pool.window, stride=self.pool.stride
    )

  def _dropout(self, x, rate, keys, index):
    if keys is not None:
      keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
    return dropout_lib.dropout(
        x,
        rate=rate,
        kind=self.dropout_kind,
        keys=keys,
        tower_axis=self.tower_axis,
    )


def _output_name(name, spec):
  """Returns the name of the output: 'pool1' if 'conv1' is pooled."""
  return name.replace('conv', 'pool') if 'pool' in spec.after else name
