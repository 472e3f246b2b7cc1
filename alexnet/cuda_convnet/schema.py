"""Data classes of a cuda-convnet definition. Uses no JAX."""

import dataclasses
from typing import Any

from alexnet.cuda_convnet.rates import Rule

# Number of arguments of each activation function.
NEURONS = {
    'ident': 0, 'relu': 0, 'logistic': 0, 'abs': 0, 'softrelu': 0, 'square': 0,
    'sqrt': 0, 'tanh': 2, 'brelu': 1, 'linear': 2, 'drelu': 1,
}


@dataclasses.dataclass(frozen=True)
class Neuron:
  """An activation function: a key of NEURONS and its arguments."""

  form: str = 'ident'
  arguments: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Matrix:
  """The weights of a layer for one of its inputs.

  Attributes:
    stddev: standard deviation of their Gaussian initialization.
    rule: their training rule.
    size, stride, groups: geometry of a convolution, in pixels.
    padding: rows and columns of zeros (before, after). The number of windows is
      rounded up, so there may be more zeros after than before.
    connections: input channels that the groups read, group by group; empty for
      equal parts in order.
  """

  stddev: float
  rule: Rule
  size: int = 1
  stride: int = 1
  padding: tuple[int, int] = (0, 0)
  groups: int = 1
  connections: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Biases:
  """A layer's biases.

  Attributes:
    value: initial value.
    rule: their training rule.
    shared: whether all pixels of a map share one bias.
  """

  value: float
  rule: Rule
  shared: bool = True


@dataclasses.dataclass(frozen=True)
class Layer:
  """One section of a definition.

  Attributes:
    name, type: name and type in the file.
    inputs: names of the input layers, in the file's order.
    neuron: activation function of the output.
    channels: features of the output.
    side: height and width of the output in pixels; None without pixels.
    settings: (name, value) pairs of the type's other options.
    matrices: weights for each input, in layers with weights.
    biases: None for layers without weights.
  """

  name: str
  type: str
  inputs: tuple[str, ...] = ()
  neuron: Neuron = Neuron()
  channels: int = 0
  side: int | None = None
  settings: tuple[tuple[str, Any], ...] = ()
  matrices: tuple[Matrix, ...] = ()
  biases: Biases | None = None


@dataclasses.dataclass(frozen=True)
class Definition:
  """A network as described by its two files.

  Attributes:
    layers: the layers from the images to the logits, in the file's order.
    output: name of the layer whose outputs are the logits.
    classes: number of logits.
    momentum: momentum for all parameters.
  """

  layers: tuple[Layer, ...]
  output: str
  classes: int
  momentum: float
