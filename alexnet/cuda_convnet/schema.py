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
  """The weights that a layer has for one of its inputs.

  Attributes:
    stddev: of their Gaussian initialization.
    rule: how they are trained.
    size, stride, groups: of a convolution's kernel, in pixels.
    padding: rows and columns of zeros (before, after). Windows are counted by
      ceiling, so there may be more behind than before.
    connections: the input channels that the groups read, group by group; empty:
      equal parts, in order.
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
    rule: how they are trained.
    shared: whether all pixels of a map have the same.
  """

  value: float
  rule: Rule
  shared: bool = True


@dataclasses.dataclass(frozen=True)
class Layer:
  """One section of a definition.

  Attributes:
    name, type: as in the file.
    inputs: names of layers, in the file's order.
    neuron: applied to the layer's output.
    channels: features of the output.
    side: height and width of the output in pixels; None: it has no pixels.
    settings: (name, value) of what else this type has.
    matrices: of each input, for layers with weights.
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
  """A network as its two files describe it.

  Attributes:
    layers: from the images to the logits, in the file's order.
    output: name of the layer whose outputs are the logits.
    classes: their number.
    momentum: of all parameters.
  """

  layers: tuple[Layer, ...]
  output: str
  classes: int
  momentum: float
