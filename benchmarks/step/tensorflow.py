"""TensorFlow's step, as a competitor of `benchmarks.train_step`.

Written for speed on a CPU: one graph; two plain convolutions where towers are
separate, since TensorFlow has no gradient of grouped convolutions on CPUs; and
its fused update operation, which follows the paper's rule.
"""

import os
from collections.abc import Callable

import numpy as np

from benchmarks.step import network
from input_pipeline.files.tensorflow_cpu import tf

# TensorFlow's fast kernels, which the rest of this project does not need.
os.environ['TF_ENABLE_ONEDNN_OPTS'] = '1'


# 'lrn': tf.nn.lrn; 'band': response normalization by a product with a band
# matrix; 'xla': the latter, compiled by XLA. The fastest one competes.
VARIANTS = ('lrn', 'band', 'xla')
_TOWERS = 2


class _Network:

  def __init__(self, case, variant):
    self._case = case
    self._library = variant == 'lrn'
    self._dtype = tf.dtypes.as_dtype(case.dtype)
    self.params = tf.nest.map_structure(tf.Variable, network.parameters(case))
    images, labels = network.batch(case)
    self.images, self.labels = tf.constant(images), tf.constant(labels)

  def cast(self, params):
    return tf.nest.map_structure(lambda p: tf.cast(p, self._dtype), params)

  def logits(self, params, images, *, training):
    """Takes params of the computation's dtype, and [batch, 224, 224, 3]."""
    relu, split = tf.nn.relu, lambda x: tf.split(x, _TOWERS, axis=-1)
    join = lambda parts: tf.concat(parts, axis=-1)

    def conv(x, name, stride=1, padding='SAME'):
      kernel, bias = params[name]['kernel'], params[name]['bias']
      if kernel.shape[2] == x[0].shape[-1] and len(x) == _TOWERS:
        kernels, biases = split(kernel), split(bias)
      else:
        x, kernels, biases = [join(x)], [kernel], [bias]
      return [
          tf.nn.bias_add(tf.nn.conv2d(part, k, stride, padding), b)
          for part, k, b in zip(x, kernels, biases)
      ]

    x = tf.pad(tf.cast(images, self._dtype), [[0, 0], [0, 3], [0, 3], [0, 0]])
    (x,) = conv([x], 'conv1', 4, 'VALID')
    x = split(relu(_pool(_normalize(x, 2, self._library))))
    x = [
        _pool(_normalize_pixels(_normalize(relu(part), 1, self._library)))
        for part in conv(x, 'conv2')
    ]
    (x,) = conv(x, 'conv3')
    x = [relu(part) for part in conv(split(relu(x)), 'conv4')]
    x = join([_pool(relu(part)) for part in conv(x, 'conv5')])
    x = tf.reshape(x, [x.shape[0], -1])
    for name in ('fc6', 'fc7'):
      x = tf.matmul(x, params[name]['kernel']) + params[name]['bias']
      x = relu(x)
      keep = 1 - self._case.dropout
      if training and keep < 1:
        # The paper's dropout has no factor in training.
        x = tf.nn.dropout(x, self._case.dropout) * tf.cast(keep, x.dtype)
      else:
        x *= tf.cast(keep, x.dtype)
    x = tf.matmul(x, params['fc8']['kernel']) + params['fc8']['bias']
    return tf.cast(x, tf.float32)


def _normalize(x, towers, library):
  """Response normalization of the channels of one or two towers."""
  if library:
    # A reshape without a copy turns towers into pixels, so that no window
    # crosses the border between them.
    shape = x.shape
    x = tf.reshape(x, [*shape[:2], shape[2] * towers, shape[3] // towers])
    y = tf.nn.lrn(tf.cast(x, tf.float32), 2, 2.0, 2e-5, 0.75)
    return tf.reshape(tf.cast(y, x.dtype), shape)
  channels = x.shape[-1]
  band = network.band(channels, towers=towers)
  band = tf.constant(2e-5 * band[None, None], x.dtype)
  d = 2 + tf.nn.conv2d(x * x, band, 1, 'VALID')
  return x * tf.math.rsqrt(d * tf.sqrt(d))


def _normalize_pixels(x):
  """Mean of squares over 5 x 5 pixels, with zeros outside."""
  squares = tf.pad(x * x, [[0, 0], [2, 2], [2, 2], [0, 0]])
  d = 1 + 1e-3 * tf.nn.avg_pool2d(squares, 5, 1, 'VALID')
  return x * tf.math.rsqrt(d * tf.sqrt(d))


def _pool(x):
  return tf.nn.max_pool2d(x, 3, 2, 'VALID')


def _training(case, variant):
  net = _Network(case, variant)
  variables = tf.nest.flatten(net.params)
  velocities = [tf.Variable(tf.zeros_like(v)) for v in variables]

  @tf.function(jit_compile=variant == 'xla')
  def step():
    with tf.GradientTape() as tape:
      logits = net.logits(net.cast(net.params), net.images, training=True)
      loss = tf.reduce_mean(
          tf.nn.sparse_softmax_cross_entropy_with_logits(net.labels, logits)
      )
    gradients = tape.gradient(loss, variables)
    for w, v, gradient in zip(variables, velocities, gradients):
      kernel = len(w.shape) > 1
      # v <- 0.9 v - rate * gradient; w <- w + v
      tf.raw_ops.ResourceApplyKerasMomentum(
          var=w.handle,
          accum=v.handle,
          lr=case.rate * (1 if kernel else 2),
          grad=gradient + 0.0005 * w if kernel else gradient,
          momentum=0.9,
      )
    return loss

  return step, net


def training(case: network.Case, *, variant: str) -> Callable[[], None]:
  """Returns a function that makes one update and waits for it."""
  step, _ = _training(case, variant)
  return lambda: step().numpy()


def inference(case: network.Case, *, variant: str) -> Callable[[], None]:
  """Returns a function that predicts one batch and waits for it."""
  net = _Network(case, variant)
  # Converted once, not in every step.
  params = tf.nest.map_structure(tf.Variable, net.cast(net.params))
  net.params = None

  @tf.function(jit_compile=variant == 'xla')
  def step(images):
    return tf.nn.softmax(net.logits(params, images, training=False))

  return lambda: step(net.images).numpy()


def updates(
    case: network.Case, *, variant: str
) -> tuple[list[float], network.Parameters]:
  """Losses of the first updates, and the parameters after them."""
  step, net = _training(case, variant)
  losses = [float(step()) for _ in range(network.CHECKED_UPDATES)]
  return losses, tf.nest.map_structure(lambda v: v.numpy(), net.params)


def _function(layer, library):
  """Function of (input, kernel if there is one)."""
  if layer.kind == 'dense':
    return tf.matmul
  if layer.kind == 'lrn':
    return lambda x: _normalize(x, 2, library)
  if layer.kind == 'spatial_norm':
    return _normalize_pixels
  if layer.kind == 'pool':
    return _pool
  rows = list(layer.padding)
  padding = [[0, 0], rows, rows, [0, 0]]

  def convolution(x, kernel):
    parts = [
        tf.nn.conv2d(part, k, layer.stride, padding)
        for part, k in zip(
            tf.split(x, layer.groups, axis=-1),
            tf.split(kernel, layer.groups, axis=-1),
        )
    ]
    return tf.concat(parts, axis=-1)

  return convolution


def _part(layer, part, case, library):
  function = _function(layer, library)
  arrays = [tf.constant(a, dtype=case.dtype) for a in layer.arrays()]
  if part == 'forward':
    compiled = tf.function(function)
    return lambda: compiled(*arrays)
  index = 0 if part == 'input gradient' else 1
  g = tf.ones_like(function(*arrays))
  if layer.kernel_shape:
    # A graph drops the unneeded gradient and the forward pass.
    gradient = tf.function(
        lambda *a: tf.gradients(function(*a[:-1]), a[index], a[-1])
    )
    return lambda: gradient(*arrays, g)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(arrays)
    y = function(*arrays)
  return lambda: tape.gradient(y, arrays, output_gradients=g)


def layers(
    case: network.Case, *, variant: str
) -> dict[str, tuple[Callable[[], None], int]]:
  """{'LAYER PART': (a function that computes it, its operations)}."""
  items = {}
  for name, layer in network.layers(case).items():
    for part in layer.parts():
      run = _part(layer, part, case, variant == 'lrn')
      items[f'{name} {part}'] = run, layer.operations
  return items


def product(dtype: str, size: int) -> Callable[[], None]:
  """Returns a function that multiplies two square matrices of this size."""
  one, other = (
      tf.cast(np.random.default_rng(i).standard_normal((size, size)), dtype)
      for i in range(2)
  )
  multiply = tf.function(tf.matmul)
  # Reading one number waits for the product without copying it.
  return lambda: multiply(one, other)[0, 0].numpy()
