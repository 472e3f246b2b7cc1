"""Definitions in the authors' format, written for the tests."""

# Features of each tower in run #145, and its classes.
FULL = dict(
    conv1=48, conv2=128, conv3=192, conv4=192, conv5=128, fc6=2048, fc7=2048,
    classes=1000,
)
NARROW = dict(
    conv1=4, conv2=6, conv3=8, conv4=8, conv5=6, fc6=16, fc7=16, classes=10
)
LETTERS = ('a', 'b')


def text(sections: dict[str, dict[str, object]]) -> str:
  """A file with these sections and options."""
  lines = []
  for name, options in sections.items():
    lines.append(f'[{name}]')
    lines += [f'{key}={value}' for key, value in options.items()]
    lines.append('')
  return '\n'.join(lines)


def trained(count=1, **options) -> dict[str, object]:
  """The parameters of a layer with weights and that many inputs."""
  each = lambda value: ','.join([str(value)] * count)
  options = dict(
      dict(rate=0.01, bias_rate=0.02, decay=0.0005, schedules={}), **options
  )
  return {
      'epsW': each(options['rate']), 'epsB': options['bias_rate'],
      'momW': each(0.9), 'momB': 0.9, 'wc': each(options['decay']),
      'wball': each(0), **options['schedules'],
  }


def small(middle, params=None, *, outputs=5, reads='data'):
  """(layers, params) with some layers between the images and a head."""
  layers = {
      'data': dict(type='data', dataIdx=0),
      'labels': dict(type='data', dataIdx=1),
      **middle,
      'out': dict(type='fc', inputs=reads, outputs=outputs, initW=0.1),
      'probs': dict(type='softmax', inputs='out'),
      'cost': {'type': 'cost.logreg', 'inputs': 'labels,probs'},
  }
  params = {'out': trained(), 'cost': dict(coeff=1), **(params or {})}
  return layers, params


def run_145(schedules=None, **widths):
  """The layers of run #145 and their parameters, with these features.

  Returns:
    (layers, params): the sections of the two files.
  """
  n = {**FULL, **widths}
  layers = {
      'data': dict(type='data', dataIdx=0),
      'labels': dict(type='data', dataIdx=1),
  }
  params = {}

  def add(name, reads, gpus=LETTERS, rates=None, **options):
    """Writes a layer out for both GPUs; `reads` has a format's {}."""
    for gpu in gpus:
      inputs = reads.format(gpu)
      layers[name + gpu] = {**options, 'inputs': inputs}
      if rates is not None:
        params[name + gpu] = dict(rates)

  def conv(name, reads, size, stddev, features, channels, bias=0, **options):
    count = reads.count(',') + 1
    each = lambda value: ','.join([str(value)] * count)
    add(
        name, reads, type='conv', filters=each(features),
        channels=each(channels), filterSize=each(size), initW=each(stddev),
        initB=bias, partialSum=1,
        sharedBiases=1, padding=each(options.pop('padding', size // 2)),
        stride=each(options.pop('stride', 1)),
        rates=trained(count, schedules=schedules or {}), **options,
    )

  def norm(name, reads, channels):
    add(name, reads, type='cmrnorm', channels=channels, size=5,
        rates=dict(scale=0.0001, pow=0.75, minDiv=2))

  def pool(name, reads, channels, **options):
    add(name, reads, type='pool', pool='max', sizeX=3, stride=2,
        channels=channels, **options)

  def fc(name, reads, outputs, gpus=LETTERS, **options):
    count = reads.count(',') + 1
    add(name, reads, gpus, type='fc', outputs=outputs,
        initW=','.join(['0.01'] * count),
        rates=trained(count, schedules=schedules or {}), **options)

  conv('conv1', 'data', 11, 0.01, n['conv1'], 3, stride=4, padding=0)
  norm('rnorm1', 'conv1{}', n['conv1'])
  pool('pool1', 'rnorm1{}', n['conv1'], neuron='relu')
  conv('conv2', 'pool1{}', 5, 0.01, n['conv2'], n['conv1'], 1, neuron='relu')
  norm('rnorm2', 'conv2{}', n['conv2'])
  add('cnorm2', 'rnorm2{}', type='rnorm', channels=n['conv2'], size=5,
      rates=dict(scale=0.001, pow=0.75))
  pool('pool2', 'cnorm2{}', n['conv2'])
  conv('conv3', 'pool2a,pool2b', 3, 0.03, n['conv3'], n['conv2'], neuron='relu')
  conv('conv4', 'conv3{}', 3, 0.03, n['conv4'], n['conv3'], 1, neuron='relu')
  conv('conv5', 'conv4{}', 3, 0.03, n['conv5'], n['conv4'], 1)
  pool('pool3', 'conv5{}', n['conv5'], neuron='relu')
  fc('fcx', 'pool3a,pool3b', n['fc6'], initB=1, neuron='relu')
  add('hs1', 'fcx{}', type='hs', keep=0.5, rates=dict(enable='true'))
  fc('fcxb', 'hs1a,hs1b', n['fc7'], initB=1, neuron='relu')
  # The second GPU reads its own half first.
  layers['fcxbb']['inputs'] = 'hs1b,hs1a'
  add('hs2', 'fcxb{}', type='hs', keep=0.5, rates=dict(enable='true'))
  fc('head', 'hs2a,hs2b', n['classes'], gpus=('',))
  layers['probs'] = dict(type='softmax', inputs='head')
  layers['logprob'] = {'type': 'cost.logreg', 'inputs': 'labels,probs'}
  params['logprob'] = dict(coeff=1, topk=5)
  return layers, params


# Side of the images that the definitions of `shapes` are for, in pixels.
SHAPES_SIDE = 40
# What conv2 of runs #109 to #118 has for the thinned images and for its own
# tower's maps.
CONTRAST = dict(wcNormMin='0.001,0', wcNormMax='0.002,0')


def shapes():
  """{run: (layers, params)}: connected like the authors', with few features.

  Two or three convolutions stand for five, and what lies between them is of
  the same types and in the same order. Run #120 stands for most.
  """
  return {
      '145': shape(norms=('cmrnorm', 'rnorm')),
      '110': shape(thinned=True, norms=()),
      '120': shape(thinned=True, norms=('cmrnorm', 'cnorm')),
      '109': shape(thinned=True, hidden=3, bounds=CONTRAST),
      '99': shape(
          thinned=True, crossed=True, bounds=dict(wball='0.003,0.003,0.003')
      ),
      '126': shape(thinned=True, mirrored=True),
      '100': shape(thinned=True, sparse=True),
      '177': shape(dropped=True),
      '146-2011': shape(classes=(7, 8)),
      '145-half': shape('', norms=('cmrnorm', 'rnorm')),
      '117': shape('abc', thinned=True, bounds=CONTRAST),
      '116': shape('abcd', thinned=True, bounds=CONTRAST),
      '153-4gpu': shape('abcd', three_of_four=True, classes=(4, 4, 4, 4)),
  }


class _Sections:
  """The sections of a small network's two files, layer by layer."""

  def __init__(self):
    self.layers = {
        'data': dict(type='data', dataIdx=0),
        'labels': dict(type='data', dataIdx=1),
    }
    self.params = {}

  def add(self, name, kind, reads, params=None, **options):
    """A layer; of `options`, a list has a value for each of its inputs."""
    listed = lambda value: (
        ','.join(map(str, value)) if isinstance(value, list) else value
    )
    options = {key: listed(value) for key, value in options.items()}
    inputs = ','.join(reads) if isinstance(reads, list) else reads
    self.layers[name] = {'type': kind, 'inputs': inputs, **options}
    if params is not None:
      self.params[name] = params

  def conv(self, name, reads, channels, size, stride, padding, **options):
    """Four filters for each input; all lists."""
    self.add(
        name, 'conv', reads, trained(len(reads), rate=0.001),
        channels=channels, filters=[4] * len(reads), filterSize=size,
        stride=stride, padding=padding, initW=[0.1] * len(reads), initB=1,
        partialSum=1, sharedBiases=1, **options,
    )

  def fc(self, name, reads, outputs, **options):
    self.add(
        name, 'fc', reads, trained(len(reads), rate=0.001), outputs=outputs,
        initW=[0.1] * len(reads), **options,
    )

  def block(self, number, letter, norms):
    """What follows a convolution: norms, and a pool."""
    reads = f'conv{number}{letter}'
    for norm in norms:
      name = f'{norm}{number}{letter}'
      self.add(name, norm, reads, dict(scale=0.001, pow=0.75), channels=4,
               size=3)
      reads = name
    self.add(f'pool{number}{letter}', 'pool', reads, pool='max', sizeX=3,
             stride=2, channels=4, neuron='relu')

  def dropout(self, name, reads, keep):
    self.add(name, 'hs', reads, dict(enable='true'), keep=keep)


def shape(
    letters='ab', *, thinned=False, mirrored=False, norms=('cmrnorm',),
    crossed=False, bounds=None, three_of_four=False, sparse=False,
    dropped=False, hidden=2, classes=(10,),
):
  """(layers, params) of a small network for images of SHAPES_SIDE pixels.

  Args:
    letters: of the towers; '' has one without a letter.
    thinned: whether conv2 reads every fourth pixel of the blurred images too.
    mirrored: whether tower b sees mirror images.
    norms: that follow conv1 and conv2.
    crossed: whether conv2 reads all towers.
    bounds: options of conv2's parameters.
    three_of_four: whether what reads other towers leaves one of four out.
    sparse: whether conv3 reads channels at random.
    dropped: whether there is dropout before conv3.
    hidden: number of hidden fc layers.
    classes: outputs of each head; several are joined.
  """
  letters = letters or ('',)
  left_out = dict(zip('abcd', 'dcba')) if three_of_four else {}
  image = lambda name, letter: (
      f'href-{name}' if mirrored and letter == 'b' else name
  )
  others = lambda stem, letter: [
      stem + one for one in letters if one != left_out.get(letter)
  ]
  net = _Sections()
  if thinned:
    net.add('blur0', 'blur', 'data', channels=3, filterSize=9, stdev=4)
    net.add('nails0', 'nailbed', 'blur0', channels=3, stride=4)
  if mirrored:
    for name in ('data', 'nails0'):
      net.add(f'href-{name}', 'href', name, channels=3)
  for letter in letters:
    net.conv(f'conv1{letter}', [image('data', letter)], [3], [11], [4], [0])
  for letter in letters:
    net.block(1, letter, norms)
  for letter in letters:
    nails = [image('nails0', letter)] * thinned
    own = [f'pool1{one}' for one in (letters if crossed else [letter])]
    n, m = len(nails), len(own)
    net.conv(
        f'conv2{letter}', nails + own, [3] * n + [4] * m, [5] * (n + m),
        [2] * n + [1] * m, [0] * n + [2] * m, neuron='relu',
    )
    net.params[f'conv2{letter}'].update(bounds or {})
  for letter in letters:
    net.block(2, letter, norms)
  below = 'pool2'
  if dropped:
    for letter in letters:
      net.dropout(f'hs0{letter}', f'pool2{letter}', 0.8)
    below = 'hs0'
  for letter in letters:
    reads = others(below, letter)
    n = len(reads)
    net.conv(f'conv3{letter}', reads, [4] * n, [3] * n, [1] * n, [1] * n,
             neuron='relu')
    if sparse:
      listed = lambda value, n=n: ','.join([value] * n)
      net.layers[f'conv3{letter}'].update(
          groups=listed('2'), randSparse=listed('1'), filters=listed('2')
      )
  below = 'conv3'
  for number in range(1, hidden + 1):
    for letter in letters:
      net.fc(f'fc8-{number}{letter}', others(below, letter), 8, initB=1,
             neuron='relu')
    for letter in letters:
      net.dropout(f'hs{number}{letter}', f'fc8-{number}{letter}', 0.5)
    below = f'hs{number}'
  letters_of_heads = 'abcd'[: len(classes)] if len(classes) > 1 else ('',)
  heads = [f'head{letter}' for letter in letters_of_heads]
  for name, outputs in zip(heads, classes):
    net.fc(name, [below + letter for letter in letters], outputs)
  if len(heads) > 1:
    net.add('concat', 'concat', heads)
  net.add('probs', 'softmax', 'concat' if len(heads) > 1 else heads[0])
  net.add('logprob', 'cost.logreg', 'labels,probs', dict(coeff=1, topk=5))
  return net.layers, net.params
