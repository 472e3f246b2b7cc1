"""Finds the two towers in a network from a definition file.

The authors defined each tower's layers separately: conv1a on one GPU, conv1b on
the other. Here the two are one node, conv1, whose parameters hold the features
of tower a and then those of b on their last axis, as everywhere in this package
(see runtime/sharding.py). A network whose layers do not form such pairs runs
layer by layer as in its file, as one tower. Uses no JAX.
"""

import dataclasses

from alexnet.cuda_convnet.rates import Rule
from alexnet.cuda_convnet.schema import Biases, Definition, Layer, Matrix

TOWERS = ('a', 'b')


@dataclasses.dataclass(frozen=True)
class Source:
  """An input of a node.

  Attributes:
    node: name of the node read.
    reads: 'image', a whole node that is not split; 'own', the reading tower's
      part of a pair; 'both', both parts of a pair.
  """

  node: str
  reads: str


@dataclasses.dataclass(frozen=True)
class Kernel:
  """The weights of a node for one of its sources.

  Attributes:
    matrix: geometry and training rule.
    stddevs: deviations of the initialization, with a row for each part of the
      source and a column for each tower of the node.
  """

  matrix: Matrix
  stddevs: tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Node:
  """A layer, or the two layers of a pair.

  Attributes:
    name: name of the layer, or the common part of the pair's two names.
    layer: the layer; for a pair the first, with half of the channels.
    sources: inputs of the node.
    paired: whether it is a pair.
    kernels: weights for each source, in layers with weights.
    biases: biases of each tower, in layers with weights.
  """

  name: str
  layer: Layer
  sources: tuple[Source, ...]
  paired: bool = False
  kernels: tuple[Kernel, ...] = ()
  biases: tuple[Biases, ...] = ()

  @property
  def features(self) -> int:
    """Number of output channels of both towers together."""
    return self.layer.channels * (1 + self.paired)

  def rules(self) -> dict[str, Rule]:
    """Returns training rules: {'kernel', 'kernel1', ..., 'bias'}."""
    if not self.kernels:
      return {}
    rules = {
        kernel_name(i): kernel.matrix.rule
        for i, kernel in enumerate(self.kernels)
    }
    return {**rules, 'bias': self.biases[0].rule}


@dataclasses.dataclass(frozen=True)
class Network:
  """A definition as nodes.

  Attributes:
    nodes: nodes in the order of computation.
    output: name of the node whose outputs are the logits.
    towers: 2 if there are pairs, else 1.
  """

  nodes: tuple[Node, ...]
  output: str
  towers: int

  def rules(self) -> dict[str, dict[str, Rule]]:
    """Returns training rules, {node: {parameter: rule}}."""
    return {node.name: node.rules() for node in self.nodes if node.kernels}


def kernel_name(index: int) -> str:
  """Returns the name of the parameter for the source at an index."""
  return f'kernel{index or ""}'


def pair(definition: Definition) -> Network:
  """Splits a network into two towers if its layers form pairs, else one."""
  pairs = _candidates({layer.name: layer for layer in definition.layers})
  try:
    nodes = _nodes(definition, pairs)
  except _NoPairError:
    pairs, nodes = {}, _nodes(definition, {})
  return Network(tuple(nodes), definition.output, 2 if pairs else 1)


class _NoPairError(Exception):
  """Raised if layers named like a pair do not match, or one half is read."""


def _candidates(layers):
  """{common name: the two layers}; names shared by more layers are skipped."""
  return {
      name[:-1]: (layer, layers[name[:-1] + 'b'])
      for name, layer in layers.items()
      if name.endswith('a') and name != 'a' and name[:-1] + 'b' in layers
      and name[:-1] + 'c' not in layers
  }


def _place(name, pairs):
  """Returns (tower or None, node) of a layer."""
  for tower, letter in enumerate(TOWERS):
    if name.endswith(letter) and name[:-1] in pairs:
      return tower, name[:-1]
  return None, name


def _nodes(definition, pairs):
  nodes = {}
  for layer in definition.layers:
    tower, name = _place(layer.name, pairs)
    if tower is None:
      node = _single(layer, pairs)
    elif tower == 0:
      node = _pair(name, pairs)
    elif name in nodes:
      continue
    else:
      raise _NoPairError  # The second of the two comes first.
    if name in nodes:  # A single layer has the pair's name.
      raise _NoPairError
    if any(source.node not in nodes for source in node.sources):
      raise _NoPairError  # Defined between the two.
    nodes[name] = node
  if definition.output not in nodes:
    raise _NoPairError
  return nodes.values()


def _places(layer, pairs):
  """[(node, {tower, or None for all: index of the input})] of a layer."""
  groups = []
  for place, name in enumerate(layer.inputs):
    tower, node = _place(name, pairs)
    for other, places in groups:
      if other == node and tower is not None and tower not in places:
        places[tower] = place
        break
    else:
      groups.append((node, {tower: place}))
  return groups


def _single(layer, pairs):
  """Creates the node of a layer outside pairs."""
  sources, kernels = [], []
  for node, places in _places(layer, pairs):
    order = [places.get(tower) for tower in (0, 1)]
    if None in places:
      sources.append(Source(node, 'image'))
      order = [places[None]]
    elif None in order or not (
        layer.matrices or (layer.type == 'concat' and order[0] + 1 == order[1])
    ):
      raise _NoPairError
    else:
      sources.append(Source(node, 'both'))
    if layer.matrices:
      parts = [layer.matrices[place] for place in order]
      if not _trained_alike([(part,) for part in parts], len(order) > 1):
        raise _NoPairError
      kernels.append(Kernel(parts[0], tuple((p.stddev,) for p in parts)))
  biases = (layer.biases,) if layer.biases else ()
  return Node(
      layer.name, layer, tuple(sources), kernels=tuple(kernels), biases=biases
  )


def _pair(stem, pairs):
  """Creates the node of two layers."""
  layers = pairs[stem]
  first, second = (_places(layer, pairs) for layer in layers)
  if _bare(layers[0]) != _bare(layers[1]):
    raise _NoPairError
  weights = bool(layers[0].matrices)
  if not weights and [g[0] for g in first] != [g[0] for g in second]:
    raise _NoPairError
  of_second = dict(second)
  if len(of_second) < len(second) or {*of_second} != {g[0] for g in first}:
    raise _NoPairError
  if len(first) != len(second) or layers[0].type == 'concat':
    raise _NoPairError
  sources, kernels = [], []
  for node, places in first:
    reads = _reads({*places}, {*of_second[node]})
    if reads is None or (not weights and reads != 'own'):
      raise _NoPairError
    sources.append(Source(node, reads))
    if not weights:
      continue
    # Rows: part that is read. Columns: tower that reads.
    rows = [
        (layers[0].matrices[place], layers[1].matrices[other])
        for place, other in _rows(places, of_second[node])
    ]
    if not _trained_alike(rows, reads != 'own'):
      raise _NoPairError
    kernels.append(
        Kernel(rows[0][0], tuple(tuple(m.stddev for m in row) for row in rows))
    )
  biases = tuple(layer.biases for layer in layers if layer.biases)
  return Node(
      stem, layers[0], tuple(sources), paired=True, kernels=tuple(kernels),
      biases=biases,
  )


def _reads(first, second):
  """Returns how two layers read a node; None if they are not like towers."""
  return {
      ((None,), (None,)): 'image',
      ((0,), (1,)): 'own',
      ((0, 1), (0, 1)): 'both',
  }.get((tuple(first), tuple(second)))


def _rows(first, second):
  """Returns each part's pair of indices in the inputs of both layers."""
  if first.keys() == second.keys():
    return [(first[part], second[part]) for part in sorted(first, key=str)]
  return [(first[0], second[1])]


def _bare(layer):
  """Returns a layer without the fields that may differ within a pair."""
  biases = layer.biases and dataclasses.replace(layer.biases, value=0.0)
  return dataclasses.replace(
      layer, name='', inputs=(), matrices=(), biases=biases
  )


def _trained_alike(rows, read_by_all):
  """Returns whether matrices can be one array, with one rate and one decay.

  Args:
    rows: for each part that is read, the matrices of its readers.
    read_by_all: whether all outputs read all parts; groups read one part.
  """
  first = rows[0][0]
  alike = {
      dataclasses.replace(matrix, stddev=0.0) for row in rows for matrix in row
  }
  # Bounds are for one matrix, and so for one part.
  apart = (read_by_all and first.groups > 1) or (
      len(rows) > 1 and first.rule.bounds is not None
  )
  return len(alike) == 1 and not apart
