"""The pieces AlexNet is made of, each aware of the two towers.

Shapes are those that one device sees. Outside a mapped step that is the whole
network; inside `jax.shard_map` it is one tower's share, and a layer that reads
both towers first gathers its input over the mesh axis `tower_axis`.

Some operations have a second form for the CPU, in cpu.py and winograd.py,
because XLA's plain form is several times slower there. Which one runs is
decided here, by `jax.lax.platform_dependent`, and nowhere else; both forms are
tested against each other. Their speed is that of a step compiled with
train_step.py's options.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet.models import cpu, winograd

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')

Padding = tuple[int, int]

# Collection of variables that `keep` puts layers' outputs in.
OUTPUTS = 'intermediates'
# Behind their names: a variable cannot have the name of a submodule.
_OUTPUT = ' output'


# --- Response normalization --------------------------------------------------


def local_response_normalization(
    x: jax.Array,
    *,
    n: int,
    k: float,
    alpha: float,
    beta: float,
    groups: int = 1,
) -> jax.Array:
  """Divides each activity by a power of its neighbours' sum of squares.

  y[c] = x[c] / (k + alpha * sum(x[j] ** 2)) ** beta, where j runs over the n
  channels around c that exist and lie in the same group (paper §3.3). `alpha`
  multiplies the plain sum; libraries that divide alpha by n (Caffe, torch, ONNX
  and the authors' own code) need alpha * n there for the same function.

  Args:
    x: [..., channels], float32 or bfloat16; the sums are float32 either way.
    n: size of the window, in channels. An even window has its extra channel
      below the centre, as in cuda-convnet.
    k: constant of the denominator.
    alpha: factor of the sum of squares.
    beta: exponent.
    groups: number of equal runs of channels that no window crosses; 2 for the
      two towers in one array.

  Returns:
    An array of x's shape and dtype.

  Raises:
    ValueError: groups does not divide the channels, or n < 1.
  """
  channels = x.shape[-1]
  if channels % groups or n < 1:
    raise ValueError(
        f'local_response_normalization got {channels} channels, {groups=}, '
        f'{n=}: groups must divide the channels and n must be at least 1'
    )
  window = (1,) * (x.ndim - 1) + (n,)
  return _divide_by_neighbours(x, window, groups, k, alpha, beta)


def spatial_response_normalization(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float
) -> jax.Array:
  """Response normalization over a size x size window of the same map.

  y = x / (k + alpha / size**2 * sum(x ** 2 in the window)) ** beta; pixels
  outside the image count as zero (run #145, after conv2).

  Args:
    x: [batch, height, width, channels], float32 or bfloat16.
    size: side of the window in pixels.
    k: constant of the denominator.
    alpha: factor of the mean of squares.
    beta: exponent.

  Returns:
    An array of x's shape and dtype.
  """
  return _divide_by_neighbours(
      x, (1, size, size, 1), 1, k, alpha / size**2, beta
  )


def contrast_normalization(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float
) -> jax.Array:
  """Divides by a power of the variance in a size x size window of the map.

  y = x / (k + alpha / size**2 * sum((x - mean(x)) ** 2 in the window)) ** beta,
  where mean(x) is that of each pixel's own window; pixels outside the image are
  in neither. The derivative takes the means for constants, as the authors' does
  (cuda-convnet's cnorm: conv_util.cu, convContrastNorm and its Undo).

  Args and result as for `spatial_response_normalization`.
  """
  window = (1, size, size, 1)
  wide = x.astype(jnp.float32)
  count = _window_sum(jnp.ones((1, *x.shape[1:3], 1), jnp.float32), window)
  difference = wide - lax.stop_gradient(_window_sum(wide, window) / count)
  d = k + alpha / size**2 * _window_sum(difference**2, window)
  return (wide * _negative_power(d, beta)).astype(x.dtype)


def _window_sum(x, window, groups=1, *, transpose=False):
  # An even window is not its own mirror image, so the backward pass has to
  # swap the two borders.
  padding = [(w // 2, w - 1 - w // 2) for w in window]
  if transpose:
    padding = [(high, low) for low, high in padding]
  return lax.platform_dependent(
      x,
      cpu=lambda x: cpu.window_sum(x, window, padding, groups),
      default=lambda x: _window_sum_plain(x, window, padding, groups),
  )


def _window_sum_plain(x, window, padding, groups=1):
  shape = x.shape
  if groups > 1:
    x = x.reshape(*shape[:-1], groups, shape[-1] // groups)
    window = (*window[:-1], 1, window[-1])
    padding = (*padding[:-1], (0, 0), padding[-1])
  # One axis after the other: 10 sums for a window of 5 x 5 pixels, not 25. The
  # initial value is a Python scalar: with a traced one reduce_window is the
  # general reduction, which is slow.
  for axis, size in enumerate(window):
    if size > 1:
      along = [1] * x.ndim
      along[axis] = size
      border = [(0, 0)] * x.ndim
      border[axis] = padding[axis]
      x = lax.reduce_window(x, 0.0, lax.add, along, (1,) * x.ndim, border)
  return x.reshape(shape)


def _negative_power(d, beta):
  # rsqrt and sqrt are single instructions on every platform, pow is not.
  if beta == 0.75:
    return lax.rsqrt(d * jnp.sqrt(d))
  return d**-beta


# The derivative is written out because it needs one more window sum and
# nothing else; the derivative of the forward pass as written keeps four
# arrays of x's size and takes twice the time.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _divide_by_neighbours(x, window, groups, k, alpha, beta):
  return _divide_forward(x, window, groups, k, alpha, beta)[0]


def _divide_forward(x, window, groups, k, alpha, beta):
  wide = x.astype(jnp.float32)
  d = k + alpha * _window_sum(wide * wide, window, groups)
  return (wide * _negative_power(d, beta)).astype(x.dtype), (x, d)


def _divide_backward(window, groups, k, alpha, beta, saved, g):
  del k
  x, d = saved
  wide, g = x.astype(jnp.float32), g.astype(jnp.float32)
  scale = _negative_power(d, beta)
  through_sum = _window_sum(
      g * wide * scale / d, window, groups, transpose=True
  )
  gradient = g * scale - 2 * alpha * beta * wide * through_sum
  return (gradient.astype(x.dtype),)


_divide_by_neighbours.defvjp(_divide_forward, _divide_backward)


# --- Pooling -----------------------------------------------------------------


def pooled_size(size: int, window: int, stride: int) -> int:
  """Number of windows along an axis: by ceiling, so the last may overhang."""
  return max(0, -(-(size - window) // stride)) + 1


def _overhang(x, window, stride):
  """Padding behind x's pixels that makes the last windows whole."""
  rows = [
      (0, max(0, (pooled_size(s, window, stride) - 1) * stride + window - s))
      for s in x.shape[1:3]
  ]
  return [(0, 0), *rows, (0, 0)]


def max_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
  """Maximum over window x window pixels, every `stride` pixels (paper §3.4).

  Windows are counted by ceiling (run #147): the last one may hang over the
  edge and then covers fewer pixels.

  Args:
    x: [batch, height, width, channels].
    window: side of a window in pixels (z in the paper).
    stride: distance of two windows in pixels (s in the paper), <= window.

  Returns:
    [batch, pooled height, pooled width, channels], see `pooled_size`.

  Raises:
    ValueError: stride < 1 or larger than the window, which would skip pixels.
  """
  if not 1 <= stride <= window:
    raise ValueError(
        f'max_pool got {window=}, {stride=}: wanted 1 <= stride <= window'
    )
  return _max_pool(x, window, stride)


def _max_pool_plain(x, window, stride):
  sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
  padding = _overhang(x, window, stride)
  return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, window, stride):
  return lax.platform_dependent(
      x,
      cpu=lambda x: cpu.max_pool(x, window=window, stride=stride),
      default=lambda x: _max_pool_plain(x, window, stride),
  )


def _max_pool_forward(x, window, stride):
  return _max_pool(x, window, stride), x


def _max_pool_backward(window, stride, x, g):
  def plain(x, g):
    pool = lambda x: _max_pool_plain(x, window, stride)
    return jax.vjp(pool, x)[1](g)[0]

  gradient = lax.platform_dependent(
      x,
      g,
      cpu=lambda x, g: cpu.max_pool_gradient(
          x, g, window=window, stride=stride
      ),
      default=plain,
  )
  return (gradient,)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array, *, window: int, stride: int) -> jax.Array:
  """Mean over window x window pixels, every `stride` pixels.

  A window that hangs over the edge is the mean of the pixels that exist, as in
  cuda-convnet. Arguments and result as for `max_pool`.
  """
  padding = _overhang(x, window, stride)

  def window_sum(x):
    return lax.reduce_window(
        x, 0.0, lax.add, (1, window, window, 1), (1, stride, stride, 1), padding
    )

  return window_sum(x) / window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


# --- Convolution -------------------------------------------------------------


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
  x, kernel = _with_equalvarying_axes(x, kernel)
  return _convolution(x, kernel, stride, padding, groups)


def _with_equalvarying_axes(*arrays):
  """Marks all arrays as varying over every mesh axis that one varies over.

  Inside `jax.shard_map` the rules of a custom_vjp see operands as they are;
  a gradient that varies over more axes than its operand is a type error. The
  cast's own transpose is the sum over those axes that the operand needs.
  """
  varying = [varying_axes(jax.typeof(array)) for array in arrays]
  union = frozenset().union(*varying)
  return tuple(
      lax.pcast(array, tuple(sorted(union - axes)), to='varying')
      if union - axes
      else array
      for array, axes in zip(arrays, varying)
  )


def varying_axes(aval: jax.core.ShapedArray) -> frozenset[str]:
  """The mesh axes over which a value differs, of `jax.typeof` of it."""
  # jax renames this attribute between the releases that we support.
  if hasattr(aval, 'vma'):
    return aval.vma
  return aval.manual_axis_type.varying


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
    return cpu.convolution(x, kernel, stride=stride, padding=padding)
  return cpu.direct_convolution(x, kernel, stride, (padding, padding))


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
        cpu=lambda *arrays: cpu.stored(in_groups(*arrays)),
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


# --- Biases ------------------------------------------------------------------


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds [features] biases to x, [..., features], in x's dtype."""
  return _add_bias(*_with_equalvarying_axes(x, bias))


@jax.custom_vjp
def _add_bias(x, bias):
  def plain(x, bias):
    return x + bias.astype(x.dtype)

  return lax.platform_dependent(
      x, bias, cpu=lambda *a: cpu.stored(plain(*a)), default=plain
  )


def _add_bias_forward(x, bias):
  return _add_bias(x, bias), bias


def _add_bias_backward(bias, g):
  def gradients(g, sum_of_rows):
    return g, sum_of_rows(g.reshape(-1, g.shape[-1]), bias.dtype)

  return lax.platform_dependent(
      g,
      cpu=lambda g: gradients(cpu.stored(g), cpu.sum_of_rows),
      default=lambda g: gradients(g, _sum_of_rows_plain),
  )


def _sum_of_rows_plain(rows, dtype):
  return rows.sum(0, dtype=dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


# --- Sums of parameters ------------------------------------------------------


def sum_of_squares(x: jax.Array) -> jax.Array:
  """The sum of the squares of all elements, []."""
  return lax.platform_dependent(
      x,
      cpu=cpu.sum_of_squares,
      default=lambda x: jnp.sum(jnp.square(x)),
  )


# --- Dropout -----------------------------------------------------------------


def dropout(
    x: jax.Array,
    *,
    rate: float,
    kind: str,
    keys: jax.Array | None,
    tower_axis: str | None = None,
) -> jax.Array:
  """Dropout with one random key for each example.

  A row of the mask has the width of both towers and each device takes its own
  part of it, so the mask is the same on every mesh.

  Args:
    x: [batch, ..., features], this device's share of the features.
    rate: probability of dropping a unit.
    kind: 'paper' drops in training and multiplies by 1 - rate in testing
      (paper §4.2); 'inverted' divides by 1 - rate in training instead.
    keys: [batch] random keys in training, None in testing.
    tower_axis: the mesh axis the features are split over, if any.

  Returns:
    An array of x's shape and dtype.
  """
  keep = 1.0 - rate
  if rate == 0:
    return x
  if keys is None:
    return x * jnp.asarray(keep, x.dtype) if kind == 'paper' else x
  features = x.shape[-1]
  width = features * (lax.axis_size(tower_axis) if tower_axis else 1)
  shape = (*x.shape[1:-1], width)
  mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, shape))(keys)
  if tower_axis:
    start = lax.axis_index(tower_axis) * features
    mask = lax.dynamic_slice_in_dim(mask, start, features, axis=-1)
  kept = x if kind == 'paper' else x / jnp.asarray(keep, x.dtype)
  return jnp.where(mask, kept, jnp.zeros((), x.dtype))


# --- Between the towers -------------------------------------------------------


def gather_features(x: jax.Array, tower_axis: str) -> jax.Array:
  """The features of all towers: [..., features] to [..., features * towers].

  Gathered along a new first axis and then joined: XLA stores what it gathers
  with the gathered axis first, so gathering along the last one would transpose
  the input and the output.
  """
  towers = lax.all_gather(x, tower_axis)
  return jnp.concatenate(list(towers), axis=-1)


# --- Outputs of layers -------------------------------------------------------


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


# --- Layers with parameters --------------------------------------------------


def devices_of(features: int, tower_axis: str | None) -> int:
  """Devices that share a layer; 1 if they cannot divide its features.

  The latter happens to a head whose class count is odd: every device then
  computes all of it.
  """
  n = lax.axis_size(tower_axis) if tower_axis else 1
  return n if features % n == 0 else 1


def input_and_groups(
    x: jax.Array, *, reads: str, towers: int, devices: int,
    tower_axis: str | None,
) -> tuple[jax.Array, int]:
  """The input that this device's outputs read, and in how many groups.

  Args:
    x: [..., channels], this device's share of them.
    reads: see `_TowerLayer`.
    towers: of the network.
    devices: that share the layer.
    tower_axis: mesh axis the towers are split over, if any.
  """
  if reads == 'own':
    return x, towers // devices
  if reads == 'both' and tower_axis:
    x = gather_features(x, tower_axis)
  return x, 1


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
  x, kernel = _with_equalvarying_axes(x, kernel)
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
      x, kernel, cpu=cpu.product_to_predict, default=_product_plain
  )


def _product_forward(x, kernel):
  y = lax.platform_dependent(
      x, kernel, cpu=cpu.product, default=_product_plain
  )
  return y, (x, kernel)


def _product_backward(saved, g):
  def gradients_of(product):
    return lambda x, kernel, g: jax.vjp(product, x, kernel)[1](g)

  return lax.platform_dependent(
      *saved,
      g,
      cpu=gradients_of(cpu.product),
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
