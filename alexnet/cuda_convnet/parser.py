"""Parses a cuda-convnet layer definition and its parameter file.

A definition (`layers-145.cfg`) has a section for each layer, in the order of
computation; a parameter file (`layer-params-145.cfg`) has values that may
change during a run: rates, decays, switches. The format is that of layer.py in
`computerhistory/AlexNet-Source-Code`; docs/cuda_convnet.md explains each type.
Uses no JAX.
"""

import dataclasses
import zlib

import numpy as np

from alexnet.config.errors import ConfigError
from alexnet.config.validation import MAX_PARAMETERS
from alexnet.cuda_convnet.rates import Bounds, Rule, Schedule, parse_schedule
from alexnet.cuda_convnet.schema import (
  Biases,
  Definition,
  Layer,
  Matrix,
  Neuron,
)
from alexnet.cuda_convnet.sections import (
  REQUIRED,
  Section,
  boolean,
  neuron,
  number,
  read_sections,
  whole,
)

# Types of the format that are not supported, with the reason.
UNSUPPORTED = {
    'treefc': "it needs the tree of classes of the authors' own data",
    'local': 'locally connected layers are not written yet',
    'resize': 'it changes the images, which the input pipeline does here',
    'rscale': 'it changes the images, which the input pipeline does here',
    'rgb2yuv': 'it changes the images, which the input pipeline does here',
    'rgb2lab': 'it changes the images, which the input pipeline does here',
    'cost.crossent': 'training minimizes the cross-entropy of one class',
    'cost.crossent2': 'training minimizes the cross-entropy of one class',
    'cost.rflickr': 'training minimizes the cross-entropy of one class',
    'cost.msm': 'training minimizes the cross-entropy of one class',
    'cost.sum2': 'training minimizes the cross-entropy of one class',
    'cost.gsum2': 'training minimizes the cross-entropy of one class',
    'cost.tica': 'training minimizes the cross-entropy of one class',
}

# Largest number of channels, and of outputs, of a layer.
_MOST_CHANNELS = 2**20
_MOST = 2**27


def parse(
    layers: str,
    params: str,
    *,
    files: tuple[str, str] = ('layers', 'params'),
    side: int = 224,
    ignore_init_functions: bool = False,
) -> Definition:
  """Parses a network from the texts of its two files.

  Args:
    layers: text of the layer definition.
    params: text of the parameter file. Sections without a layer in the
      definition are ignored, as by the authors' reader, since several
      definitions may share a file.
    files: names of the two files, for messages.
    side: height and width of the images in pixels; they have three channels.
    ignore_init_functions: use initW and initB if a layer names a Python
      function that loads weights of an earlier run.

  Raises:
    ConfigError: names file, line and what is invalid or not supported.
  """
  sections = read_sections(layers, files[0], repeated=False)
  rates = read_sections(params, files[1], repeated=True)
  reader = _Reader(rates, files, side, ignore_init_functions)
  for section in sections.values():
    reader.add(section)
  return reader.finish()


class _Reader:
  """Adds layers to a network one by one."""

  def __init__(self, params, files, side, ignore_init_functions):
    self._params, self._files = params, files
    self._side = side
    self._ignore_init_functions = ignore_init_functions
    self._layers: dict[str, Layer] = {}
    self._sections: dict[str, Section] = {}
    self._used: set[str] = set()
    self._labels: set[str] = set()
    self._cost: tuple[Section, Layer] | None = None
    self._momentum: tuple[float, str] | None = None
    self._parameters = 0

  def add(self, section: Section) -> None:
    """Adds the layer of a section."""
    kind = section.get('type')
    if kind in UNSUPPORTED:
      raise section.error(
          f"layers of type '{kind}' cannot be run: {UNSUPPORTED[kind]}", 'type'
      )
    build = getattr(self, '_' + kind.replace('.', '_'), None)
    if kind not in _TYPES or build is None:
      raise section.error(
          f"unknown type '{kind}': expected one of {', '.join(_TYPES)}", 'type'
      )
    section.get('gpu', whole, 0)  # Ignored: the mesh assigns devices.
    layer = build(section, Layer(section.name, kind, *self._common(section)))
    section.finish()
    self._check_size(section, layer)
    self._layers[section.name] = layer
    self._sections[section.name] = section

  def _check_size(self, section, layer):
    """Refuses networks with too many parameters."""
    side = layer.side or 1
    if layer.channels > _MOST_CHANNELS or layer.channels * side**2 > _MOST:
      raise section.error(
          f'has {layer.channels:,} outputs of {side} x {side} pixels: expected '
          f'at most {_MOST_CHANNELS:,}, and {_MOST:,} numbers in all'
      )
    for matrix, name in zip(layer.matrices, layer.inputs):
      source = self._layers[name]
      inputs = len(matrix.connections) or source.channels
      if layer.type == 'fc':
        inputs *= (source.side or 1) ** 2
      self._parameters += (
          inputs * matrix.size**2 * layer.channels // matrix.groups
      )
    if layer.biases and not layer.biases.shared:
      self._parameters += layer.channels * side**2
    if self._parameters > MAX_PARAMETERS:
      raise section.error(
          f'brings the network to {self._parameters:,} parameters: expected at '
          f'most {MAX_PARAMETERS:,}'
      )

  def finish(self) -> Definition:
    """Checks the whole network."""
    if self._cost is None:
      raise ConfigError(
          f'{self._files[0]}: has no layer of type cost.logreg: expected one, '
          'at the end'
      )
    section, output = self._cost
    if output.side is not None:
      raise section.error(
          f'reads {output.name}, which has pixels: expected the outputs of an '
          'fc layer'
      )
    for name, unused in self._sections.items():
      if name not in self._used and self._layers[name].type != 'cost.logreg':
        raise unused.error(
            'is read by no layer: remove it, or name it in inputs='
        )
      if name in self._params:
        self._params[name].finish()
    return Definition(
        layers=tuple(
            layer for name, layer in self._layers.items()
            if layer.type not in _OUTSIDE and name not in self._labels
        ),
        output=output.name,
        classes=output.channels,
        momentum=self._momentum[0] if self._momentum else 0.0,
    )

  def _common(self, section):
    if section.get('type') == 'data':
      return ()
    names = tuple(name.strip() for name in section.get('inputs').split(','))
    for name in names:
      if name not in self._layers:
        raise section.error(
            f"reads '{name}', which is not defined above it: expected one of "
            + ', '.join(self._layers), 'inputs'
        )
      if name in self._labels and section.get('type') != 'cost.logreg':
        raise section.error(
            f"reads '{name}', the labels: only cost.logreg may", 'inputs'
        )
      if self._layers[name].type == 'cost.logreg':
        raise section.error(f"reads '{name}', which is a cost", 'inputs')
      if (
          self._layers[name].type == 'softmax'
          and section.get('type') != 'cost.logreg'
      ):
        raise section.error(
            f"reads '{name}', a softmax layer: only cost.logreg may", 'inputs'
        )
    self._used.update(names)
    if section.get('type') in _OUTSIDE:
      if section.has('neuron'):
        raise section.error(
            f"neuron is '{section.get('neuron')}': expected none, since layers "
            f"of type '{section.get('type')}' have no activation function",
            'neuron'
        )
      return names, Neuron()
    return names, section.get('neuron', neuron, Neuron())

  def _only_input(self, section, layer):
    if len(layer.inputs) != 1:
      raise section.error(
          f'has {len(layer.inputs)} inputs, expected 1', 'inputs'
      )
    return self._layers[layer.inputs[0]]

  def _image_input(self, section, layer):
    """Returns the only input of a layer on pixels; checks channels=."""
    source = self._only_input(section, layer)
    self._check_channels(section, source, section.get('channels', whole))
    return source

  def _check_channels(self, section, source, channels):
    if source.side is None:
      raise section.error(
          f'works on pixels, but {source.name} has none', 'inputs'
      )
    if channels != source.channels:
      raise section.error(
          f'channels is {channels}, but {source.name} has {source.channels}: '
          'expected the same', 'channels'
      )

  def _params_of(self, section):
    params = self._params.get(section.name)
    if params is None:
      raise section.error(
          f'needs parameters, but {self._files[1]} has no [{section.name}]'
      )
    for option in ('quantF', 'quantB'):
      params.must_be(
          option, str, ('default',),
          'values are never rounded between devices here'
      )
    return params

  # Each method reads the options of one type.

  def _data(self, section, layer):
    index = section.get('dataIdx', whole)
    if index not in (0, 1):
      raise section.error(
          f'dataIdx is {index}: expected 0, the images, or 1, their labels',
          'dataIdx'
      )
    if index == 1:
      self._labels.add(layer.name)
      return dataclasses.replace(layer, channels=1)
    return dataclasses.replace(layer, channels=3, side=self._side)

  def _conv(self, section, layer):
    count = len(layer.inputs)
    several = lambda *args: section.several(args[0], count, *args[1:])
    channels = several('channels', whole)
    size, stride = several('filterSize', whole), several('stride', whole, 1)
    padding = several('padding', whole, 0)
    filters, groups = several('filters', whole), several('groups', whole, 1)
    for option, value, low in (
        ('filterSize', size, 1), ('stride', stride, 1), ('padding', padding, 0),
        ('filters', filters, 1), ('groups', groups, 1),
    ):
      section.at_least(option, value, low)
    sparse = several('randSparse', boolean, False)
    read = tuple(c // g for c, g in zip(channels, groups))
    if any(sparse):
      read = several('filterChannels', whole) if section.has(
          'filterChannels'
      ) else read
    section.get('partialSum', whole, 0)  # Only the order of a GPU's sums.
    shapes = set()
    matrices = []
    for index, name in enumerate(layer.inputs):
      source = self._layers[name]
      self._check_channels(section, source, channels[index])
      side = source.side
      if size[index] > side + 2 * padding[index]:
        raise section.error(
            f'filterSize is {size[index]}, but {name} has {side} pixels and '
            f'{padding[index]} of padding on each side', 'filterSize'
        )
      if channels[index] % groups[index]:
        raise section.error(
            f'groups is {groups[index]}, which does not divide the '
            f'{channels[index]} channels of {name}', 'groups'
        )
      free = side + 2 * padding[index] - size[index]
      steps = -(-free // stride[index])
      behind = padding[index] + steps * stride[index] - free
      shapes.add((steps + 1, filters[index] * groups[index]))
      matrices.append(dict(
          size=size[index], stride=stride[index], groups=groups[index],
          padding=(padding[index], behind),
          connections=self._connections(section, index, channels[index], read[
              index], groups[index]) if sparse[index] else (),
      ))
    if len(shapes) > 1:
      raise section.error(
          'its inputs give outputs of different shapes (side, filters): '
          f'{sorted(shapes)}', 'filters'
      )
    (side, features), = shapes
    shared = section.get('sharedBiases', boolean, True)
    layer = dataclasses.replace(layer, channels=features, side=side)
    return self._weights(section, layer, matrices, shared)

  def _connections(self, section, index, channels, read, groups):
    """Draws the `read` channels that each group reads.

    As in layer.py, permutations of the channels are dealt out to the groups.
    The authors' own draws are not in their files; these depend only on the
    layer's name and the index of the input.
    """
    if groups * read > _MOST_CHANNELS:
      raise section.error(
          f'randSparse: {groups} groups of {read} channels are too many: '
          f'expected at most {_MOST_CHANNELS:,} in all', 'randSparse'
      )
    if groups == 1 or read < 1 or channels % read or groups * read % channels:
      raise section.error(
          f'randSparse: {groups} groups cannot read {read} of {channels} '
          'channels each: expected several groups, a divisor of the channels, '
          'and each channel read equally often', 'randSparse'
      )
    rng = np.random.default_rng((zlib.crc32(section.name.encode()), index))
    times = groups * read // channels
    dealt = [rng.permutation(channels) for _ in range(times)]
    return tuple(np.concatenate(dealt).tolist())

  def _fc(self, section, layer):
    outputs = section.get('outputs', whole)
    section.at_least('outputs', outputs, 1)
    layer = dataclasses.replace(layer, channels=outputs)
    return self._weights(section, layer, [{}] * len(layer.inputs), True)

  def _weights(self, section, layer, matrices, shared_biases):
    count = len(layer.inputs)
    default = REQUIRED if layer.type == 'conv' else 0.01
    stddevs = section.several('initW', count, number, default)
    section.at_least('initW', stddevs, 0)
    bias = section.get('initB', number, 0.0)
    section.must_be('weightSource', str, ('',), 'shared weights cannot be run')
    for option in ('initWFunc', 'initBFunc', 'initCFunc'):
      value = section.get(option, str, '')
      if value and not self._ignore_init_functions:
        raise section.error(
            f"{option} is '{value}', Python of the authors that loads an "
            "earlier run's weights: set --config.ignore_init_functions=True "
            'to start from initW and initB instead', option
        )
    params = self._params_of(section)
    several = lambda option, default=REQUIRED: params.several(
        option, count, number, default
    )
    rates, decays = several('epsW'), several('wc', 0.0)
    bias_rate = params.get('epsB', number)
    for option, value in (
        ('epsW', rates), ('wc', decays), ('epsB', bias_rate)
    ):
      params.at_least(option, value, 0)
    for option in ('momW', 'momB'):
      values = params.several(option, count if option == 'momW' else 1, number)
      for value in values:
        self._check_momentum(params, option, value)
    for option in ('wcnorm', 'superEps', 'superMom'):
      params.must_be(
          option, number, (0.0,), 'this rule for weights is not written here. '
          'To train without it, set it to 0'
      )
    bounds = self._bounds(params, layer, count)
    # Older files have one schedule for weights and biases.
    both = params.get('sched', parse_schedule, Schedule())
    schedule = params.get('schedW', parse_schedule, both)
    bias_schedule = params.get('schedB', parse_schedule, both)
    params.finish()
    return dataclasses.replace(
        layer,
        matrices=tuple(
            Matrix(stddev, Rule(rate, schedule, decay, limits), **geometry)
            for stddev, rate, decay, limits, geometry in zip(
                stddevs, rates, decays, bounds, matrices
            )
        ),
        biases=Biases(bias, Rule(bias_rate, bias_schedule), shared_biases),
    )

  def _bounds(self, params, layer, count):
    """Returns the bounds of each matrix's weights, or None."""
    names = 'wcNormMin', 'wcNormMax', 'wball'
    values = [params.several(name, count, number, 0.0) for name in names]
    for name, value in zip(names, values):
      params.at_least(name, value, 0)
      if name != 'wball' and layer.type != 'conv' and any(value):
        raise params.error(
            f'{name} is {max(value)}: only conv layers have this rule. Remove '
            'it, or set it to 0', name
        )
    bounds = []
    for low, high, norm in zip(*values):
      if low > high:
        raise params.error(
            f'wcNormMin is {low} and wcNormMax {high}: expected wcNormMin <= '
            'wcNormMax', 'wcNormMin'
        )
      bounds.append(Bounds(low, high, norm) if high or norm else None)
    return bounds

  def _check_momentum(self, params, option, value):
    if not 0 <= value < 1:
      raise params.error(
          f'{option} is {value}: expected 0 <= value < 1', option
      )
    where = f'[{params.name}] {option}'
    self._momentum = self._momentum or (value, where)
    if value != self._momentum[0]:
      raise params.error(
          f'{option} is {value}, but {self._momentum[1]} is '
          f'{self._momentum[0]}: expected one momentum for all', option
      )

  def _pool(self, section, layer):
    source = self._image_input(section, layer)
    size, stride = section.get('sizeX', whole), section.get('stride', whole)
    kind = section.get('pool')
    if kind not in ('max', 'avg'):
      raise section.error(f"pool is '{kind}': expected max or avg", 'pool')
    if not 1 <= stride <= size <= source.side:
      raise section.error(
          f'sizeX is {size} and stride {stride}, for {source.side} pixels of '
          f'{source.name}: expected 1 <= stride <= sizeX <= pixels', 'sizeX'
      )
    side = -(-(source.side - size) // stride) + 1
    section.must_be('start', whole, (0,), 'windows begin at the first pixel')
    section.must_be('outputsX', whole, (0, side), f'{side} windows cover all')
    return self._without_weights(
        layer, source, side, window=size, stride=stride, pool=kind
    )

  def _without_weights(self, layer, source, side=None, **settings):
    return dataclasses.replace(
        layer,
        channels=source.channels,
        side=side or source.side,
        settings=tuple(settings.items()),
    )

  def _norm(self, section, layer):
    source = self._image_input(section, layer)
    params = self._params_of(section)
    size = section.get('size', whole)
    section.at_least('size', size, 1)
    section.must_be('blocked', boolean, (False,), 'windows slide here')
    settings = dict(
        size=size, alpha=params.get('scale', number),
        beta=params.get('pow', number), k=1.0,
    )
    if layer.type == 'cmrnorm':
      settings['k'] = params.get('minDiv', number, 1.0)
    params.finish()
    return self._without_weights(layer, source, **settings)

  _cmrnorm = _rnorm = _cnorm = _norm

  def _hs(self, section, layer):
    source = self._only_input(section, layer)
    keep = section.get('keep', number)
    if not 0 < keep <= 1:
      raise section.error(f'keep is {keep}: expected 0 < keep <= 1', 'keep')
    params = self._params_of(section)
    enabled = params.get('enable', boolean)
    params.finish()
    return self._without_weights(layer, source, keep=keep, enabled=enabled)

  def _neuron(self, section, layer):
    section.get('neuron')
    return self._without_weights(layer, self._only_input(section, layer))

  def _blur(self, section, layer):
    source = self._image_input(section, layer)
    size, deviation = section.get('filterSize', whole), section.get(
        'stdev', number
    )
    if size not in (3, 5, 7, 9) or deviation <= 0:
      raise section.error(
          f'filterSize is {size} and stdev {deviation}: expected 3, 5, 7 or 9, '
          'and a deviation above 0', 'filterSize'
      )
    return self._without_weights(layer, source, size=size, stdev=deviation)

  def _nailbed(self, section, layer):
    source = self._image_input(section, layer)
    stride = section.get('stride', whole)
    section.at_least('stride', stride, 1)
    side = -(-source.side // stride)
    start = (source.side - stride * (side - 1)) // 2
    return self._without_weights(
        layer, source, side, start=start, stride=stride
    )

  def _href(self, section, layer):
    return self._without_weights(layer, self._image_input(section, layer))

  def _sum(self, section, layer):
    sources = [self._layers[name] for name in layer.inputs]
    shapes = [(source.side, source.channels) for source in sources]
    if len(set(shapes)) > 1:
      raise section.error(
          f'its inputs have different shapes (side, channels): {shapes}',
          'inputs'
      )
    settings = {}
    if layer.type == 'eltsum':
      settings['coefficients'] = section.several(
          'coeffs', len(sources), number, 1.0
      )
    return self._without_weights(layer, sources[0], **settings)

  _eltsum = _eltmax = _sum

  def _concat(self, section, layer):
    sources = [self._layers[name] for name in layer.inputs]
    sides = {source.side for source in sources}
    if len(sides) > 1:
      raise section.error('its inputs have different sides', 'inputs')
    return dataclasses.replace(
        layer,
        channels=sum(source.channels for source in sources),
        side=sides.pop(),
    )

  def _softmax(self, section, layer):
    return self._without_weights(layer, self._only_input(section, layer))

  def _cost_logreg(self, section, layer):
    if self._cost:
      raise section.error(
          f'is a second cost: [{self._cost[0].name}] is in line '
          f'{self._cost[0].line}, expected one'
      )
    if len(layer.inputs) != 2 or layer.inputs[0] not in self._labels:
      raise section.error('expected inputs=labels,softmax', 'inputs')
    softmax = self._layers[layer.inputs[1]]
    if softmax.type != 'softmax':
      raise section.error(
          f"reads '{softmax.name}', which is no softmax layer", 'inputs'
      )
    params = self._params_of(section)
    params.must_be(
        'coeff', number, (1.0,), 'change the rates instead of the cost'
    )
    params.get('topk', whole, 1)
    params.finish()
    self._cost = section, self._layers[softmax.inputs[0]]
    return layer


_TYPES = (
    'data', 'conv', 'fc', 'pool', 'cmrnorm', 'rnorm', 'cnorm', 'hs', 'neuron',
    'blur', 'nailbed', 'href', 'eltsum', 'eltmax', 'concat', 'softmax',
    'cost.logreg',
)
# Types that are not part of the network but of the loss.
_OUTSIDE = ('softmax', 'cost.logreg')
