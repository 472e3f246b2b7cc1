"""The network of all competitors of `benchmarks.train_step`, in NumPy.

Run #145's sizes, one set of parameters and one batch. It imports no competitor,
so that each process has a single framework.
"""

import dataclasses

import numpy as np

from configs import alexnet_2012

MODES = ('training', 'inference')
DTYPES = ('float32', 'bfloat16')
CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
DENSE = ('fc6', 'fc7', 'fc8')
# Output side of each convolution, and of fc6's input, for images of 224 pixels
# (paper, Figure 2).
SIDES = {'conv1': 55, 'conv2': 27, 'conv3': 13, 'conv4': 13, 'conv5': 13}
LAST_SIDE = 6
# Updates to compare: the second one has momentum.
CHECKED_UPDATES = 2

Parameters = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Case:
  """A case to measure.

  Attributes:
    mode: 'training' (forward, backward, update), 'inference' (probabilities),
      'layers' (each layer by itself) or 'product' (a square matrix product).
    dtype: dtype of the computation, 'float32' or 'bfloat16'; trained parameters
      are float32.
    batch_size: images in a step.
    width: factor of all numbers of features except the classes.
    classes: number of outputs.
    dropout: probability of dropping a unit of fc6 and fc7.
    rate: learning rate of kernels; biases have twice as much. The default is so
      low that the network, and so its speed, does not change.
  """

  mode: str = 'training'
  dtype: str = 'float32'
  batch_size: int = 128
  width: float = 1.0
  classes: int = 1000
  dropout: float = 0.5
  rate: float = 1e-12


def config_of(case: Case):
  """Config of the case, from `configs/alexnet_2012.py`."""
  config = alexnet_2012.get_config('prepared')
  config.model.num_classes = case.classes
  config.model.width = case.width
  config.model.dtype = case.dtype
  config.model.fc6.dropout = config.model.fc7.dropout = case.dropout
  config.batch_size = config.evaluation_batch_size = case.batch_size
  return config


def _features(case):
  model = config_of(case).model
  names = (*CONVOLUTIONS, 'fc6', 'fc7')
  features = {name: round(model[name].features * case.width) for name in names}
  return {**features, 'fc8': case.classes}


def kernel_shapes(case: Case) -> dict[str, tuple[int, ...]]:
  """Shapes in our layout: [height, width, inputs read, features], [in, out]."""
  model, features = config_of(case).model, _features(case)
  shapes, channels = {}, 3
  for name in CONVOLUTIONS:
    size = model[name].size
    read = channels // 2 if model[name].reads == 'own' else channels
    shapes[name] = (size, size, read, features[name])
    channels = features[name]
  inputs = LAST_SIDE**2 * channels
  for name in DENSE:
    shapes[name] = (inputs, features[name])
    inputs = features[name]
  return shapes


def parameters(case: Case) -> Parameters:
  """Returns {layer: {'kernel', 'bias'}} float32, the same in every call.

  Unlike the recipe's initialization, activations are near 50 in all layers, so
  that both normalizations matter, and logits are near 1.
  """
  rng = np.random.default_rng(145)
  result = {}
  for name, shape in kernel_shapes(case).items():
    gain = {'conv1': 1.0, 'fc8': 0.03}.get(name, 1.4)
    kernel = rng.standard_normal(shape, np.float32)
    kernel *= np.float32(gain / np.sqrt(np.prod(shape[:-1])))
    result[name] = {
        'kernel': kernel,
        'bias': rng.standard_normal(shape[-1], np.float32),
    }
  return result


def batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
  """Noise: images [batch, 224, 224, 3] float32 and labels [batch] int32."""
  rng = np.random.default_rng(2012)
  shape = (case.batch_size, 224, 224, 3)
  images = np.float32(60) * rng.standard_normal(shape, np.float32)
  labels = rng.integers(0, case.classes, case.batch_size)
  return images, labels.astype(np.int32)


def multiply_adds(case: Case) -> dict[str, int]:
  """Multiply-adds of each layer's forward pass, per image."""
  return {
      name: int(np.prod(shape)) * SIDES.get(name, 1) ** 2
      for name, shape in kernel_shapes(case).items()
  }


def operations(case: Case) -> int:
  """Floating-point operations of a step's products and convolutions.

  Training takes three times the forward pass, without the gradient of the
  images, which is not computed.
  """
  forward = multiply_adds(case)
  total = sum(forward.values())
  if case.mode == 'training':
    total = 3 * total - forward['conv1']
  return 2 * total * case.batch_size


@dataclasses.dataclass(frozen=True)
class Layer:
  """A single layer, with both towers.

  Attributes:
    kind: 'convolution', 'dense', 'lrn', 'spatial_norm' or 'pool'.
    input_shape: [batch, height, width, channels], or [batch, inputs].
    kernel_shape: shape in our layout; None without a kernel.
    stride: stride of a convolution, in pixels.
    padding: rows of zeros of a convolution (before, after).
    groups: groups of a convolution.
    operations: floating-point operations of each part; 0 if not counted.
  """

  kind: str
  input_shape: tuple[int, ...]
  kernel_shape: tuple[int, ...] | None = None
  stride: int = 1
  padding: tuple[int, int] = (0, 0)
  groups: int = 1
  operations: int = 0

  def parts(self) -> tuple[str, ...]:
    """Parts to measure; the gradient of images is not computed."""
    if self.kernel_shape is None:
      return 'forward', 'input gradient'
    if self.input_shape[-1] == 3:
      return 'forward', 'kernel gradient'
    return 'forward', 'input gradient', 'kernel gradient'

  def arrays(self) -> list[np.ndarray]:
    """Noise for the input, and for the kernel if there is one, float32."""
    rng = np.random.default_rng(0)
    shapes = [s for s in (self.input_shape, self.kernel_shape) if s]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def layers(case: Case) -> dict[str, Layer]:
  """The expensive layers, in the network's order; activations are fused."""
  model, features = config_of(case).model, _features(case)
  shapes, operations = kernel_shapes(case), multiply_adds(case)
  result, side, channels = {}, 224, 3
  for name in CONVOLUTIONS:
    spec = model[name]
    result[name] = Layer(
        'convolution',
        (case.batch_size, side, side, channels),
        shapes[name],
        spec.stride,
        tuple(spec.padding),
        2 if spec.reads == 'own' else 1,
        2 * case.batch_size * operations[name],
    )
    side, channels = SIDES[name], features[name]
    number = name.removeprefix('conv')
    for kind in spec.after:
      if kind != 'activation':
        shape = (case.batch_size, side, side, channels)
        result[f'{kind}{number}'] = Layer(kind, shape)
      if kind == 'pool':
        side = (side - 3) // 2 + 1
  for name in DENSE:
    result[name] = Layer(
        'dense',
        (case.batch_size, shapes[name][0]),
        shapes[name],
        operations=2 * case.batch_size * operations[name],
    )
  return result


def band(channels: int, window: int = 5, towers: int = 2) -> np.ndarray:
  """[channels, channels] float32: 1 where two channels share a window.

  A product with it sums over neighbours in the same tower: the fastest form of
  response normalization in libraries that are fast only at products.
  """
  index = np.arange(channels)
  near = np.abs(index[:, None] - index) <= window // 2
  tower = index // (channels // towers)
  return (near & (tower[:, None] == tower)).astype(np.float32)
