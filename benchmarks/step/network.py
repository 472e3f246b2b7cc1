"""What all competitors of `benchmarks.train_step` compute, in NumPy.

Run #145's network by its numbers, one set of parameters, one batch. No
competitor is imported here, so that each process has one framework only.
"""

import dataclasses

import numpy as np

from configs import alexnet_2012

MODES = ('training', 'inference')
DTYPES = ('float32', 'bfloat16')
CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
DENSE = ('fc6', 'fc7', 'fc8')
# Output side of each convolution, and of what fc6 reads (facts of the paper's
# Figure 2 that follow from 224 pixels).
SIDES = {'conv1': 55, 'conv2': 27, 'conv3': 13, 'conv4': 13, 'conv5': 13}
LAST_SIDE = 6
# Updates that are compared: the second one has a momentum.
CHECKED_UPDATES = 2

Parameters = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Case:
  """One thing that is measured.

  Attributes:
    mode: 'training' (forward, backward, update), 'inference' (probabilities),
      'layers' (each layer by itself) or 'product' (a square matrix product).
    dtype: 'float32', or 'bfloat16' to compute in; parameters that are trained
      are float32 either way.
    batch_size: images in a step.
    width: factor of all features but the classes.
    classes: of the output.
    dropout: probability of dropping a unit of fc6 and fc7.
    rate: learning rate of kernels; that of biases is twice as high. By default
      so low that the network stays as it is, and as fast.
  """

  mode: str = 'training'
  dtype: str = 'float32'
  batch_size: int = 128
  width: float = 1.0
  classes: int = 1000
  dropout: float = 0.5
  rate: float = 1e-12


def config_of(case: Case):
  """The project's config of the case, `configs/alexnet_2012.py`'s."""
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
  """Shapes in our form: [height, width, inputs read, features], [in, out]."""
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
  """{layer: {'kernel', 'bias'}} float32, the same on every call.

  Not the recipe's initialization: activities are near 50 in all layers, so
  that both normalizations matter, and logits near 1.
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
  """Images [batch, 224, 224, 3] float32 and labels [batch] int32: noise."""
  rng = np.random.default_rng(2012)
  shape = (case.batch_size, 224, 224, 3)
  images = np.float32(60) * rng.standard_normal(shape, np.float32)
  labels = rng.integers(0, case.classes, case.batch_size)
  return images, labels.astype(np.int32)


def multiply_adds(case: Case) -> dict[str, int]:
  """Of each layer's forward pass, for one image."""
  return {
      name: int(np.prod(shape)) * SIDES.get(name, 1) ** 2
      for name, shape in kernel_shapes(case).items()
  }


def operations(case: Case) -> int:
  """Floating-point operations of a step's products and convolutions.

  Training is three times the forward pass, less the gradient of the images,
  which nobody needs.
  """
  forward = multiply_adds(case)
  total = sum(forward.values())
  if case.mode == 'training':
    total = 3 * total - forward['conv1']
  return 2 * total * case.batch_size


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer by itself, both towers of it.

  Attributes:
    kind: 'convolution', 'dense', 'lrn', 'spatial_norm' or 'pool'.
    input_shape: [batch, height, width, channels], or [batch, inputs].
    kernel_shape: in our form; None where there is none.
    stride: of a convolution, in pixels.
    padding: rows of zeros of a convolution (before, after).
    groups: of a convolution.
    operations: floating-point, of each of its parts; 0 where nobody counts.
  """

  kind: str
  input_shape: tuple[int, ...]
  kernel_shape: tuple[int, ...] | None = None
  stride: int = 1
  padding: tuple[int, int] = (0, 0)
  groups: int = 1
  operations: int = 0

  def parts(self) -> tuple[str, ...]:
    """What is measured of it; the gradient of images is nobody's."""
    if self.kernel_shape is None:
      return 'forward', 'input gradient'
    if self.input_shape[-1] == 3:
      return 'forward', 'kernel gradient'
    return 'forward', 'input gradient', 'kernel gradient'

  def arrays(self) -> list[np.ndarray]:
    """Noise for the input, and for the kernel if there is one: float32."""
    rng = np.random.default_rng(0)
    shapes = [s for s in (self.input_shape, self.kernel_shape) if s]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def layers(case: Case) -> dict[str, Layer]:
  """What takes time, in the order of the network; activations are fused."""
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
  """[channels, channels] float32: 1 where two channels are in one window.

  The product with it sums over the neighbours in the same tower: the fastest
  form of response normalization for libraries that are fast at products only.
  """
  index = np.arange(channels)
  near = np.abs(index[:, None] - index) <= window // 2
  tower = index // (channels // towers)
  return (near & (tower[:, None] == tower)).astype(np.float32)
