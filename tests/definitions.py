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
