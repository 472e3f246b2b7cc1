"""The authors' own files: the parser, the towers, the module, whole runs."""

import io
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.cuda_convnet import config as definitions
from alexnet.cuda_convnet import parser, towers
from alexnet.cuda_convnet import rates as rates_lib
from alexnet.cuda_convnet.model import CudaConvnet
from alexnet.cuda_convnet.rates import Rule, Schedule
from alexnet.cuda_convnet.schema import Neuron
from alexnet.evaluation import session
from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.models import create_model
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import optimizer, schedules, train_step, trainer
from configs import alexnet_2012
from configs import cuda_convnet as recipe
from tests import definitions as texts
from tests import testing

# The narrow network of #145: {node of the definition: layer of alexnet.py}.
LAYERS = {
    'conv1': 'conv1', 'conv2': 'conv2', 'conv3': 'conv3', 'conv4': 'conv4',
    'conv5': 'conv5', 'fcx': 'fc6', 'fcxb': 'fc7', 'head': 'fc8',
}


def parse(layers, params, side=224, **options):
  return parser.parse(
      texts.text(layers), texts.text(params), side=side, **options
  )


def config_of(layers, params, **fields):
  """A config that has the texts already."""
  config = recipe.get_config('layers.cfg')
  config.layer_params = 'params.cfg'
  config.model.layers_text = texts.text(layers)
  config.model.params_text = texts.text(params)
  with config.unlocked():
    config.update_from_flattened_dict(fields)
  config.batch_size, config.evaluation_batch_size = 8, 16
  definitions.complete(config)
  return config


def narrow_2012():
  """Run #145 as configs/alexnet_2012.py has it, as narrow as NARROW."""
  config = alexnet_2012.get_config('imagenet2012')
  widths = dict(texts.NARROW)
  config.model.num_classes = widths.pop('classes')
  for name, features in widths.items():
    config.model[name].features = 2 * features
  config.batch_size, config.evaluation_batch_size = 8, 16
  return config


def renamed(params):
  """The parameters of alexnet.py under the definition's names."""
  return {node: params[layer] for node, layer in LAYERS.items()}


def images(count, side=224, seed=0):
  rng = np.random.default_rng(seed)
  return 60 * rng.standard_normal((count, side, side, 3), np.float32)


class ParserTest(absltest.TestCase):

  def test_the_lines_of_a_file(self):
    layers = '''
# a comment
[data]
type=data
dataIdx = 0
; another
[labels]
type=data
dataidx=1
[fc]
type : fc
inputs= data
outputs=3   ; of this line
initW=0.5
NEURON=tanh[1.7, -0.5]
[probs]
type=softmax
inputs=fc
[cost]
type=cost.logreg
inputs=labels, probs
'''
    params = '''
[fc]
epsW=0.1
epsB=0.2
momW=0.5
momB=0.5
# a section may stand there twice, and what is last counts
[fc]
epsW=0.3
wc=0.004
[of another definition]
anything=1
[cost]
coeff=1
topk=5
'''
    definition = parser.parse(layers, params)
    names = [layer.name for layer in definition.layers]
    self.assertEqual(names, ['data', 'fc'])
    self.assertEqual(definition.output, 'fc')
    self.assertEqual(definition.classes, 3)
    self.assertEqual(definition.momentum, 0.5)
    layer = definition.layers[1]
    self.assertEqual(layer.inputs, ('data',))
    self.assertEqual(layer.neuron, Neuron('tanh', (1.7, -0.5)))
    self.assertEqual((layer.channels, layer.side), (3, None))
    self.assertEqual(layer.matrices[0].stddev, 0.5)
    self.assertEqual(layer.matrices[0].rule, Rule(0.3, Schedule(), 0.004))
    self.assertEqual(layer.biases.rule, Rule(0.2))
    self.assertEqual(layer.biases.value, 0.0)

  def test_sizes_of_run_145(self):
    definition = parse(*texts.run_145())
    shapes = {layer.name: (layer.side, layer.channels)
              for layer in definition.layers}
    wanted = {
        'data': (224, 3), 'conv1a': (55, 48), 'rnorm1b': (55, 48),
        'pool1a': (27, 48), 'conv2b': (27, 128), 'cnorm2a': (27, 128),
        'pool2a': (13, 128), 'conv3a': (13, 192), 'conv4b': (13, 192),
        'conv5a': (13, 128), 'pool3a': (6, 128), 'fcxa': (None, 2048),
        'hs2b': (None, 2048), 'head': (None, 1000),
    }
    self.assertEqual({name: shapes[name] for name in wanted}, wanted)
    layers = {layer.name: layer for layer in definition.layers}
    # 55 windows of 11 pixels need three more behind the image.
    self.assertEqual(layers['conv1a'].matrices[0].padding, (0, 3))
    self.assertEqual(layers['conv2a'].matrices[0].padding, (2, 2))
    self.assertEqual([m.stddev for m in layers['conv3b'].matrices], [0.03] * 2)

  def test_order_of_inputs_and_of_their_lists(self):
    layers, params = texts.run_145()
    layers['conv3b'].update(inputs='pool2b,pool2a', initW='0.1,0.2')
    params['conv3b'] = {**params['conv3b'], 'epsW': '0.3,0.4'}
    found = {layer.name: layer for layer in parse(layers, params).layers}
    layer = found['conv3b']
    self.assertEqual(layer.inputs, ('pool2b', 'pool2a'))
    self.assertEqual([m.stddev for m in layer.matrices], [0.1, 0.2])
    self.assertEqual([m.rule.rate for m in layer.matrices], [0.3, 0.4])

  def test_functions_that_load_an_earlier_run(self):
    layers, params = texts.small({})
    layers['out']['initWFunc'] = 'initw.makew(fc)'
    with self.assertRaisesRegex(
        ConfigError, r'^layers:14: \[out\] initWFunc.*ignore_init_functions'
    ):
      parse(layers, params)
    definition = parse(layers, params, ignore_init_functions=True)
    self.assertEqual(definition.layers[-1].matrices[0].stddev, 0.1)


def _changed(section, **options):
  def change(layers, params):
    del params
    layers[section].update(options)
    for name, value in options.items():
      if value is None:
        del layers[section][name]
  return change


def _params(section, **options):
  def change(layers, params):
    del layers
    params[section] = {**params[section], **options}
  return change


def _softmax_in_between(layers, params):
  del params
  cost = layers.pop('cost')
  layers['again'] = dict(type='neuron', inputs='probs', neuron='relu')
  layers['cost'] = cost


class ErrorTest(parameterized.TestCase):

  @parameterized.parameters(
      (_changed('conv', type='convolution'),
       r"layers:10: \[conv\] unknown type 'convolution': expected one of data"),
      (_changed('conv', type='local'),
       r"layers:10: \[conv\] layers of type 'local' cannot be run: "),
      (_changed('conv', type=None), r'layers:9: \[conv\] has no type='),
      (_changed('conv', inputs='dat'),
       r"layers:11: \[conv\] reads 'dat', which is not defined above it: .*a"),
      (_changed('conv', inputs='labels'), r"layers:11: .*reads 'labels', the"),
      (_changed('conv', inputs='data,data'),
       r'layers:1\d: \[conv\] channels has 1 values for 2 inputs'),
      (_changed('conv', channels=4),
       r'layers:12: \[conv\] channels is 4, but data has 3'),
      (_changed('conv', filters='a'),
       r"layers:13: \[conv\] filters is 'a': expected a whole number"),
      (_changed('conv', filterSize=13),
       r'layers:14: \[conv\] filterSize is 13, but data has 12 pixels'),
      (_changed('conv', colour=1),
       r'layers:16: \[conv\] unknown option colour=: expected one of channel'),
      (_changed('conv', neuron='gelu'),
       r"layers:16: \[conv\] neuron is 'gelu': expected one of ident, relu"),
      (_changed('conv', neuron='tanh[1]'), r'layers:16: .*expected 2 numbers'),
      (_changed('conv', stride=0), r'layers:16: .*stride is \(0,\): expected'),
      (_changed('conv', groups=2), r'layers:16: .*groups is 2, which does not'),
      (_changed('conv', randSparse=1), r'layers:16: .*randSparse: 1 groups ca'),
      (_changed('conv', initW=None), r'layers:9: \[conv\] has no initW='),
      (_changed('conv', weightSource='x'), r'layers:16: .*shared weights'),
      (_changed('pool', channels=5), r'layers:21: .*channels is 5, but conv h'),
      (_changed('pool', pool='rand'), r"layers:19: .*pool is 'rand': exp"),
      (_changed('pool', stride=4), r'layers:22: \[pool\] sizeX is 3 and str'),
      (_changed('pool', start=1), r'layers:24: .*start is 1'),
      (_changed('pool', inputs='data', channels=3),
       r'layers:9: \[conv\] is read by no layer'),
      (_changed('hs', keep=0), r'layers:28: .*keep is 0.0: expected 0 < keep'),
      (_changed('hs', inputs='pool,pool'), r'layers:27: .*has 2 inputs, exp'),
      (_changed('probs', inputs='pool'), r'layers:40: \[cost\] reads pool, w'),
      (_changed('probs', neuron='relu'),
       r"layers:39: \[probs\] neuron is 'relu': expected none, .*'softmax'"),
      (_changed('cost', neuron='relu'),
       r"layers:43: \[cost\] neuron is 'relu': expected none, .*'cost.logreg'"),
      (_softmax_in_between, r"layers:42: \[again\] reads 'probs', a softmax l"),
      (_changed('cost', inputs='probs,labels'), r'layers:42: .*inputs=labels,'),
      (_changed('cost', type='cost.sum2'), r"layers:41: .*'cost.sum2' cannot"),
      (_params('conv', epsW='x'), r"params:8: \[conv\] epsW is 'x': expected"),
      (_params('conv', epsW='nan'), r"params:8: \[conv\] epsW is 'nan'"),
      (_params('conv', epsW=-1), r'params:8: \[conv\] epsW is \(-1.0,\): exp'),
      (_params('conv', momW=0.8), r'params:10: .*momW is 0.8, but|momB is 0.9'),
      (_params('conv', momB=1), r'params:11: .*momB is 1.0: expected 0 <='),
      (_params('conv', superEps=0.1), r'params:14: .*superEps is 0.1: this ru'),
      (_params('conv', wcnorm=0.1), r'params:14: .*wcnorm is 0.1: this rule'),
      (_params('conv', wball=-1), r'params:13: .*wball is \(-1.0,\): expected'),
      (_params('conv', wcNormMax=-1), r'params:14: .*wcNormMax is \(-1.0,\): '),
      (_params('conv', wcNormMin=0.1),
       r'params:14: .*wcNormMin is 0.1 and wcNormMax 0.0: expected wcNormMin'),
      (_params('conv', wcNormMin='0.1,0', wcNormMax=1),
       r'params:14: .*wcNormMin has 2 values for 1 inputs'),
      (_params('out', wcNormMax=2),
       r'params:25: .*wcNormMax is 2.0: only conv layers have this rule'),
      (_params('conv', schedW='dexp[250]'),
       r"params:14: .*schedW is 'dexp\[250\]': expected dexp\[factor,noise,"),
      (_params('conv', schedB='cosine[2]'),
       r"params:14: .*schedB is 'cosine\[2\]': expected one of default"),
      (_params('conv', schedW='dexp[250,0,inf]'),
       r"params:14: .*schedW is 'dexp.*: expected a finite number .* 'inf'"),
      (_params('conv', schedW='exp[nan]'),
       r"params:14: .*schedW is 'exp.*: expected a finite number .* 'nan'"),
      (_params('conv', schedB='exp[x]'),
       r"params:14: .*schedB is 'exp.*: expected a finite number .* 'x'"),
      (_params('conv', schedW='dexp[250,0,4.7]'),
       r'params:14: .*: expected a whole number of stages, not 4.7'),
      (_params('conv', schedW='exp[0]'), r'params:14: .*a factor above 0, no'),
      (_params('conv', schedW='exp[2,-1]'), r'params:14: .*noise >= 0 and st'),
      (_params('conv', schedW='dexp[2,0]'), r'params:14: .*stages >= 1'),
      (_params('conv', epsX=1), r'params:14: \[conv\] unknown option epsx=: '),
      (_params('conv', quantF='half'), r'params:14: .*quantF is half'),
      (_params('hs', enable=2), r"params:16: .*enable is '2': expected true"),
      (_params('cost', coeff=2), r'params:\d+: .*coeff is 2.0: change the rat'),
      (lambda layers, params: params.pop('conv'),
       r'layers:9: \[conv\] needs parameters, but params has no \[conv\]'),
      (lambda layers, params: params.update(pool=dict(doMax='true')),
       r'params:27: \[pool\] unknown option domax=: expected none'),
      (lambda layers, params: [layers.pop(n) for n in ('probs', 'cost')],
       r'layers: has no layer of type cost.logreg'),
  )
  def test_file_and_line(self, change, message):
    layers, params = texts.small(
        {
            'conv': dict(type='conv', inputs='data', channels=3, filters=4,
                         filterSize=3, initW=0.1),
            'pool': dict(type='pool', pool='max', inputs='conv', channels=4,
                         sizeX=3, stride=2),
            'hs': dict(type='hs', inputs='pool', keep=0.5),
        },
        {'conv': texts.trained(), 'hs': dict(enable='true')},
        reads='hs',
    )
    # In this order: the line numbers above are those of these sections.
    params = {name: params[name] for name in ('cost', 'conv', 'hs', 'out')}
    params['cost'] = dict(coeff=1, topk=2)
    layers['labels'] = dict(type='data', dataIdx=1)
    change(layers, params)
    layers = texts.text(layers)
    params = '# two\n# lines\n' + texts.text(params)
    with self.assertRaisesRegex(ConfigError, '^' + message):
      parser.parse(layers, params, side=12)

  @parameterized.parameters(
      ('type=data\n[data]\n', "layers:1: 'type=data' .*first line has to be"),
      ('[data]\ntype\n', "layers:2: 'type' is not understood: expected"),
      ('[data\n', r"layers:1: '\[data' is not understood"),
      ('[data]\ntype=data\n dataIdx=0\n', "layers:3: ' dataIdx=0' is not und"),
      ('[data]\ntype=data\ndataIdx=0\n[data]\n',
       r'layers:4: \[data\] is defined in line 1'),
      ('[DEFAULT]\nneuron=relu\n', r'layers:1: \[DEFAULT\] cannot be read'),
      ('[data]\ntype=data\ndataIdx=2\n', r'layers:3: .*dataIdx is 2: expected'),
  )
  def test_malformed(self, layers, message):
    with self.assertRaisesRegex(ConfigError, '^' + message):
      parser.parse(layers, '')

  def test_default_section_in_the_parameter_file(self):
    with self.assertRaisesRegex(
        ConfigError, r'^params:2: \[DEFAULT\] cannot be read'
    ):
      parser.parse('', '# of all\n[DEFAULT]\nepsW=0.1\n')


class ScheduleTest(parameterized.TestCase):
  """Numbers worked by hand from src/lr.cu of the authors' code."""

  @parameterized.parameters(
      # Four stages from 0.01 by the cube root of 250 to 0.01 / 250.
      ('dexp[250,0,4]', 0.0, 0.01),
      ('dexp[250,0,4]', 0.25, 0.01),
      ('dexp[250,0,4]', 0.26, 0.0015874011),
      ('dexp[250,0,4]', 0.75, 0.00025198421),
      ('dexp[tgtFactor=250,noiseStdev=0,numSteps=4]', 0.76, 4e-5),
      ('dexp[1000,4]', 0.5, 1e-3),
      ('dexp[1000,4]', 1.0, 1e-5),
      ('exp[4000]', 0.5, 0.01 / 63.245553),
      ('exp[tgtFactor=1000,noiseStdev=0]', 1.0, 1e-5),
      ('linear[1000]', 0.5, 0.005005),
      ('linear[1000]', 1.0, 1e-5),
      ('default', 0.7, 0.01),
      # The second half of a stage is the geometric mean with the one before.
      ('jdexp[1000,4]', 0.2, 0.01),
      ('jdexp[1000,4]', 0.3, 1e-3),
      ('jdexp[1000,4]', 0.4, 0.0031622777),
      ('jdexp[1000,4]', 0.89, 3.1622777e-5),
      ('jdexp[1000,4]', 0.95, 1e-5),
  )
  def test_rate(self, text, progress, wanted):
    schedule = rates_lib.parse_schedule(text)
    self.assertAlmostEqual(schedule.rate(0.01, progress) / wanted, 1, places=6)
    self.assertEqual(schedule.rate(0.0, progress), 0.0)

  def test_noise(self):
    schedule = rates_lib.parse_schedule('dexp[2,0.5,2]')
    self.assertAlmostEqual(schedule.rate(0.01, 0.1, normal=-2.0), 0.02)
    layers, params = texts.run_145(
        schedules=dict(schedW='dexp[2,0.5,2]'), **texts.NARROW
    )
    config = config_of(layers, params)
    rules = definitions.parameter_rules(config)

    def rates(step):
      return schedules.rates_at(
          config, rules, step=step, total_steps=100, steps_per_epoch=10,
          plateau=schedules.Plateau(), rules=rules,
      )

    self.assertEqual(rates(3), rates(3))
    self.assertGreater(rates(3)['conv1']['kernel'], 0.01)
    self.assertNotEqual(rates(3)['conv1'], rates(4)['conv1'])
    self.assertNotEqual(
        rates(3)['conv1']['kernel'], rates(3)['conv2']['kernel']
    )
    self.assertEqual(rates(3)['conv1']['bias'], 0.02)

  def test_one_schedule_for_both_in_older_files(self):
    layers, params = texts.run_145(schedules=dict(sched='exp[10]'))
    rules = towers.pair(parse(layers, params)).rules()
    for name in ('kernel', 'bias'):
      self.assertEqual(rules['conv2'][name].schedule, Schedule('exp', 10.0))


# --- NumPy, written from the formulas ---------------------------------------


def windows(x, size, stride, before, behind, fill):
  """[batch, side, side, channels, pixels] of each window."""
  padded = np.pad(
      x, [(0, 0), (before, behind), (before, behind), (0, 0)],
      constant_values=fill,
  )
  seen = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
  seen = seen[:, ::stride, ::stride]
  return seen.reshape(*seen.shape[:4], -1)


def oracle_conv(x, kernel, bias, stride, before, behind):
  seen = windows(x, kernel.shape[0], stride, before, behind, 0.0)
  flat = np.transpose(kernel, (2, 0, 1, 3)).reshape(x.shape[-1], -1,
                                                    kernel.shape[-1])
  return np.einsum('bijcp,cpf->bijf', seen, flat) + bias


def oracle_average(x, size, stride):
  out = -(-(x.shape[1] - size) // stride) + 1
  behind = (out - 1) * stride + size - x.shape[1]
  return np.nanmean(windows(x, size, stride, 0, behind, np.nan), axis=-1)


def oracle_cnorm(x, size, scale, power):
  around = lambda y, fill: windows(
      y, size, 1, size // 2, size - 1 - size // 2, fill
  )
  difference = x - np.nanmean(around(x, np.nan), axis=-1)
  squares = np.sum(around(difference, 0.0) ** 2, axis=-1)
  return x / (1 + scale / size**2 * squares) ** power


def oracle_blur(x, size, deviation):
  line = np.arange(size) - size // 2
  weights = np.exp(-(line**2) / (2 * deviation**2))
  weights /= weights.sum()
  seen = windows(x, size, 1, size // 2, size // 2, 0.0)
  return seen @ np.outer(weights, weights).ravel()


class TypeTest(parameterized.TestCase):
  """Each type beside NumPy, before a head that is read linearly."""

  def _run(self, middle, params=None, reads='data', side=12):
    """(images, parameters, logits) of a network with these layers."""
    layers, params = texts.small(middle, params, reads=reads)
    network = towers.pair(parse(layers, params, side=side))
    model = CudaConvnet(network)
    x = images(2, side)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    logits = jax.jit(model.apply)(variables, x)
    tree = jax.tree.map(np.asarray, variables['params'])
    self.model, self.variables = model, variables
    return x, tree, np.asarray(logits)

  def _check(self, wanted, tree, logits):
    """The head's product with what it should have read."""
    out = tree['out']
    product = wanted.reshape(2, -1) @ out['kernel'] + out['bias']
    np.testing.assert_allclose(
        logits, product, rtol=2e-4, atol=2e-4 * np.abs(product).max()
    )

  @parameterized.parameters(
      ('ident', lambda x: x),
      ('relu', lambda x: np.maximum(x, 0)),
      ('logistic', lambda x: 1 / (1 + np.exp(-x))),
      ('abs', np.abs),
      ('softrelu', lambda x: np.log1p(np.exp(x))),
      ('square', lambda x: x * x),
      ('tanh[1.7,0.5]', lambda x: 1.7 * np.tanh(0.5 * x)),
      ('brelu[0.5]', lambda x: np.clip(x, 0, 0.5)),
      ('linear[2,-3]', lambda x: 2 * x - 3),
      ('drelu[2]', lambda x: x - 2 * np.tanh(x / 2)),
  )
  def test_neuron(self, name, function):
    middle = {
        'small': dict(type='neuron', inputs='data', neuron='linear[0.02,0]'),
        'act': {'type': 'neuron', 'inputs': 'small', 'neuron': name},
    }
    x, tree, logits = self._run(middle, reads='act')
    self._check(function(np.float64(0.02) * x), tree, logits)

  def test_neuron_of_another_layer(self):
    middle = {'sum': dict(type='eltsum', inputs='data,data', neuron='relu')}
    x, tree, logits = self._run(middle, reads='sum')
    self._check(np.maximum(2 * x, 0), tree, logits)

  def test_sqrt(self):
    middle = {'act': dict(type='neuron', inputs='data', neuron='abs'),
              'root': dict(type='neuron', inputs='act', neuron='sqrt')}
    x, tree, logits = self._run(middle, reads='root')
    self._check(np.sqrt(np.abs(x)), tree, logits)

  @parameterized.parameters((3, 2, 0), (4, 3, 1), (5, 1, 2), (3, 4, 0))
  def test_conv(self, size, stride, padding):
    middle = {'conv': dict(
        type='conv', inputs='data', channels=3, filters=4, filterSize=size,
        stride=stride, padding=padding, initW=0.1, initB=0.5,
    )}
    x, tree, logits = self._run(middle, {'conv': texts.trained()}, 'conv')
    free = 12 + 2 * padding - size
    behind = padding - free % -stride
    layer = tree['conv']
    np.testing.assert_array_equal(layer['bias'], 0.5 * np.ones(4))
    self._check(
        oracle_conv(x, layer['kernel'], 0.5, stride, padding, behind), tree,
        logits,
    )

  def test_conv_of_two_inputs_with_a_bias_for_each_pixel(self):
    """The second input is half as large, so it has another stride."""
    middle = {
        'nails': dict(type='nailbed', inputs='data', channels=3, stride=2),
        'conv': dict(
            type='conv', inputs='data,nails', channels='3,3', filters='4,4',
            filterSize='3,5', stride='2,1', padding='0,2', initW='0.1,0.2',
            sharedBiases='false', initB=0.5,
        ),
    }
    x, tree, logits = self._run(middle, {'conv': texts.trained(2)}, 'conv')
    layer = tree['conv']
    self.assertEqual(layer['kernel'].shape, (3, 3, 3, 4))
    self.assertEqual(layer['kernel1'].shape, (5, 5, 3, 4))
    self.assertEqual(layer['bias'].shape, (6, 6, 4))
    # 12 pixels by 2: the first of the six is pixel (12 - 2 * 5) // 2.
    nails = x[:, 1::2, 1::2]
    wanted = oracle_conv(x, layer['kernel'], 0.0, 2, 0, 1)
    wanted = wanted + oracle_conv(nails, layer['kernel1'], 0.5, 1, 2, 2)
    self._check(wanted, tree, logits)

  def test_conv_in_groups(self):
    middle = {
        'wide': dict(type='concat', inputs='data,data'),
        'conv': dict(type='conv', inputs='wide', channels=6, filters=2,
                     groups=2, filterSize=3, initW=0.1),
    }
    x, tree, logits = self._run(middle, {'conv': texts.trained()}, 'conv')
    kernel = tree['conv']['kernel']
    self.assertEqual(kernel.shape, (3, 3, 3, 4))
    halves = [oracle_conv(x, kernel[..., :2], 0, 1, 0, 0),
              oracle_conv(x, kernel[..., 2:], 0, 1, 0, 0)]
    self._check(np.concatenate(halves, -1), tree, logits)

  def test_groups_that_read_random_channels(self):
    """Dealt out like cards, from the name of the layer alone."""
    middle = {'conv': dict(
        type='conv', inputs='data', channels=3, filters=2, groups=3,
        filterChannels=1, randSparse=1, filterSize=3, initW=0.1,
    )}
    x, tree, logits = self._run(middle, {'conv': texts.trained()}, 'conv')
    layers, _ = texts.small(middle, reads='conv')
    definition = parse(layers, {**texts.small({})[1], 'conv': texts.trained()})
    order = definition.layers[1].matrices[0].connections
    self.assertCountEqual(order, [0, 1, 2])
    kernel = tree['conv']['kernel']
    self.assertEqual(kernel.shape, (3, 3, 1, 6))
    parts = [
        oracle_conv(x[..., [c]], kernel[..., 2 * g : 2 * g + 2], 0, 1, 0, 0)
        for g, c in enumerate(order)
    ]
    self._check(np.concatenate(parts, -1), tree, logits)

  @parameterized.parameters((3, 2), (2, 2), (5, 3))
  def test_average_pooling(self, size, stride):
    middle = {'pool': dict(type='pool', pool='avg', inputs='data', channels=3,
                           sizeX=size, stride=stride)}
    x, tree, logits = self._run(middle, reads='pool')
    self._check(oracle_average(x, size, stride), tree, logits)

  def test_max_pooling(self):
    middle = {'pool': dict(type='pool', pool='max', inputs='data', channels=3,
                           sizeX=3, stride=2)}
    x, tree, logits = self._run(middle, reads='pool')
    self._check(windows(x, 3, 2, 0, 1, -np.inf).max(-1), tree, logits)

  def test_cmrnorm_and_rnorm(self):
    middle = {
        'maps': dict(type='concat', inputs='data,data'),
        'norm': dict(type='cmrnorm', inputs='maps', channels=6, size=3),
    }
    x, tree, logits = self._run(
        middle, {'norm': dict(scale=0.01, pow=0.75, minDiv=2)}, 'norm'
    )
    maps = np.concatenate([x, x], -1)
    squares = np.pad(maps**2, [(0, 0)] * 3 + [(1, 1)])
    sums = squares[..., :-2] + squares[..., 1:-1] + squares[..., 2:]
    self._check(maps / (2 + 0.01 / 3 * sums) ** 0.75, tree, logits)
    middle = {'norm': dict(type='rnorm', inputs='data', channels=3, size=3)}
    x, tree, logits = self._run(
        middle, {'norm': dict(scale=0.01, pow=0.5)}, 'norm'
    )
    sums = windows(x**2, 3, 1, 1, 1, 0.0).sum(-1)
    self._check(x / (1 + 0.01 / 9 * sums) ** 0.5, tree, logits)

  @parameterized.parameters(3, 4, 5)
  def test_cnorm(self, size):
    middle = {'norm': dict(type='cnorm', inputs='data', channels=3, size=size)}
    x, tree, logits = self._run(
        middle, {'norm': dict(scale=0.01, pow=0.75)}, 'norm'
    )
    self._check(oracle_cnorm(x, size, 0.01, 0.75), tree, logits)

  def test_blur(self):
    middle = {'blur': dict(type='blur', inputs='data', channels=3,
                           filterSize=5, stdev=1.5)}
    x, tree, logits = self._run(middle, reads='blur')
    self._check(oracle_blur(x, 5, 1.5), tree, logits)

  @parameterized.parameters((12, 4, 2, 3), (13, 4, 0, 4), (12, 5, 1, 3))
  def test_nailbed(self, side, stride, start, count):
    middle = {'nails': dict(type='nailbed', inputs='data', channels=3,
                            stride=stride)}
    x, tree, logits = self._run(middle, reads='nails', side=side)
    pixels = start + stride * np.arange(count)
    self._check(x[:, pixels][:, :, pixels], tree, logits)

  def test_href(self):
    middle = {'mirror': dict(type='href', inputs='data', channels=3)}
    x, tree, logits = self._run(middle, reads='mirror')
    self._check(x[:, :, ::-1], tree, logits)

  def test_sum_maximum_and_concatenation(self):
    middle = {
        'mirror': dict(type='href', inputs='data', channels=3),
        'sum': dict(type='eltsum', inputs='data,mirror', coeffs='2,-1'),
        'most': dict(type='eltmax', inputs='sum,data'),
        'all': dict(type='concat', inputs='mirror,most'),
    }
    x, tree, logits = self._run(middle, reads='all')
    mirror = x[:, :, ::-1]
    self._check(
        np.concatenate([mirror, np.maximum(2 * x - mirror, x)], -1), tree,
        logits,
    )

  @parameterized.parameters('true', 'false')
  def test_hs(self, enabled):
    """Disabled it drops nothing, but multiplies by keep all the same."""
    middle = {'hs': dict(type='hs', inputs='data', keep=0.75)}
    x, tree, logits = self._run(middle, {'hs': dict(enable=enabled)}, 'hs')
    self._check(0.75 * x, tree, logits)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    trained = testing.apply_of(self.model)(
        self.variables, x, dropout_keys=keys
    )
    if enabled == 'false':
      np.testing.assert_allclose(trained, logits, rtol=1e-5, atol=1e-3)
    else:
      keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
      mask = jax.vmap(
          lambda key: jax.random.bernoulli(key, 0.75, (12, 12, 3))
      )(keys)
      self._check(x * np.asarray(mask), tree, np.asarray(trained))

  def test_derivative_of_cnorm_takes_means_for_constants(self):
    """As convContrastNormUndo does; the full derivative differs."""
    from alexnet.ops import normalization

    x = images(1, 6).astype(np.float64) / 60

    def value(x):
      return jnp.sum(normalization.contrast_normalization(
          x, size=3, k=1.0, alpha=0.9, beta=0.75) * jnp.cos(jnp.arange(3.0)))

    got = jax.grad(value)(jnp.asarray(x, jnp.float32))
    around = lambda y, fill: windows(y, 3, 1, 1, 1, fill)
    m = x - np.nanmean(around(x, np.nan), -1)
    d = 1 + 0.1 * around(m**2, 0.0).sum(-1)
    g = np.broadcast_to(np.cos(np.arange(3.0)), x.shape)
    through = around(g * x * d**-1.75, 0.0).sum(-1)
    wanted = g * d**-0.75 - 2 * 0.75 * 0.1 * m * through
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


class PairingTest(absltest.TestCase):

  def test_run_145(self):
    network = towers.pair(parse(*texts.run_145()))
    self.assertEqual(network.towers, 2)
    reads = {
        node.name: [(source.node, source.reads) for source in node.sources]
        for node in network.nodes if node.kernels
    }
    self.assertEqual(reads, {
        'conv1': [('data', 'image')],
        'conv2': [('pool1', 'own')],
        'conv3': [('pool2', 'both')],
        'conv4': [('conv3', 'own')],
        'conv5': [('conv4', 'own')],
        'fcx': [('pool3', 'both')],
        'fcxb': [('hs1', 'both')],
        'head': [('hs2', 'both')],
    })

  def test_what_does_not_pair_up_runs_as_one_tower(self):
    def half(layers, params):
      del params
      head = {name: layers.pop(name) for name in ('head', 'probs', 'logprob')}
      layers['half'] = dict(type='neuron', inputs='hs2a', neuron='abs')
      head['head']['inputs'] = 'half,hs2b'
      layers.update(head)

    def changed(file, layer, **options):
      return lambda *files: files[file == 'params'][layer].update(options)

    changes = {
        'other functions': changed('layers', 'conv3b', neuron='abs'),
        'other sizes': changed(
            'layers', 'conv3b', filterSize='3,5', padding='1,2'),
        'the other tower': lambda layers, params: (
            layers['conv2a'].update(inputs='pool1b'),
            layers['conv2b'].update(inputs='pool1a')),
        'other rates': changed('params', 'conv3b', epsW='0.01,0.02'),
        'other rates of biases': changed('params', 'conv3b', epsB=0.03),
        'other decays': changed('params', 'fcxbb', wc='0,0'),
        'bounds of what reads both': lambda layers, params: [
            params[name].update(wball='1,1') for name in ('conv3a', 'conv3b')],
        'one half': half,
    }
    layers, params = texts.run_145()
    self.assertEqual(towers.pair(parse(layers, params)).towers, 2)
    for name, change in changes.items():
      with self.subTest(name):
        layers, params = texts.run_145()
        change(layers, params)
        network = towers.pair(parse(layers, params))
        self.assertEqual(network.towers, 1)
        self.assertFalse(any(node.paired for node in network.nodes))

  def test_bounds_of_what_reads_its_own_tower(self):
    layers, params = texts.run_145()
    for name in ('conv4a', 'conv4b'):
      params[name].update(wcNormMin=0.1, wcNormMax=0.2, wball=3)
    network = towers.pair(parse(layers, params))
    self.assertEqual(network.towers, 2)
    self.assertEqual(
        network.rules()['conv4']['kernel'].bounds,
        rates_lib.Bounds(0.1, 0.2, 3),
    )

  def test_four_towers_run_as_one(self):
    layers, params = texts.run_145(**texts.NARROW)
    for layer in ('conv1', 'rnorm1', 'pool1'):
      for letter in 'cd':
        copy = dict(layers[layer + 'a'])
        copy['inputs'] = copy['inputs'].replace('1a', '1' + letter)
        layers[layer + letter] = copy
        if layer + 'a' in params:
          params[layer + letter] = params[layer + 'a']
    # Each reads two of four.
    order = ['data', 'labels', *(n + t for n in ('conv1', 'rnorm1', 'pool1')
                                 for t in 'abcd')]
    layers = {**{n: layers[n] for n in order}, **layers}
    for tower, inputs in (('a', 'pool1a,pool1c'), ('b', 'pool1d,pool1b')):
      layers['conv2' + tower].update(
          inputs=inputs, channels='4,4', filters='6,6', filterSize='5,5',
          padding='2,2', stride='1,1', initW='0.01,0.01',
      )
      params['conv2' + tower] = texts.trained(2)
    network = towers.pair(parse(layers, params))
    self.assertEqual(network.towers, 1)
    model = CudaConvnet(network)
    x = images(2)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    self.assertEqual(
        set(variables['params']['conv2b']), {'kernel', 'kernel1', 'bias'}
    )
    self.assertEqual(jax.jit(model.apply)(variables, x).shape, (2, 10))

  def test_lists_belong_to_the_inputs_that_they_name(self):
    """Layer fcxbb reads b first: its first deviation is that of b's rows."""
    layers, params = texts.run_145(**texts.NARROW)
    layers['fcxba'].update(inputs='hs1a,hs1b', initW='1,2')
    layers['fcxbb'].update(inputs='hs1b,hs1a', initW='3,4')
    network = towers.pair(parse(layers, params))
    self.assertEqual(network.towers, 2)
    model = CudaConvnet(network)
    shapes = dict(fc6=200, fc7=200)
    layers, params = texts.run_145(**{**texts.NARROW, **shapes})
    layers['fcxba'].update(inputs='hs1a,hs1b', initW='1,2', initB=5)
    layers['fcxbb'].update(inputs='hs1b,hs1a', initW='3,4', initB=6)
    # And with pixels: the channels of a tower are not all in one block.
    layers['fcxb'].update(inputs='pool3b,pool3a', initW='7,8')
    model = CudaConvnet(towers.pair(parse(layers, params)))
    tree = jax.jit(model.init)(jax.random.key(0), images(1))['params']
    kernel = np.asarray(tree['fcxb']['kernel']).reshape(2, 200, 2, 200)
    np.testing.assert_allclose(
        # [part that is read, tower that reads]
        kernel.std(axis=(1, 3)), [[1, 4], [2, 3]], rtol=0.03
    )
    np.testing.assert_array_equal(
        tree['fcxb']['bias'], [5.0] * 200 + [6.0] * 200
    )
    kernel = np.asarray(tree['fcx']['kernel']).reshape(6 * 6, 2, 6, 2, 200)
    np.testing.assert_allclose(
        kernel.std(axis=(0, 2, 4)), [[0.01, 8], [0.01, 7]], rtol=0.05
    )

  def test_kernels_of_several_nodes(self):
    """A tower reads the thinned image and its own maps, as in run #120."""
    layers, params = texts.run_145(**texts.NARROW)
    extra = {
        'blur0': dict(type='blur', inputs='data', channels=3, filterSize=9,
                      stdev=4),
        'nails0': dict(type='nailbed', inputs='blur0', channels=3, stride=4),
    }
    layers = {'data': layers['data'], **extra, **layers}
    for tower in 'ab':
      layers['conv2' + tower].update(
          inputs=f'nails0,pool1{tower}', channels='3,4', filters='6,6',
          filterSize='5,5', padding='0,2', stride='2,1', initW='0.01,0.02',
      )
      params['conv2' + tower] = {
          **texts.trained(2), 'epsW': '0.01,0.001', 'wc': '0,0.0005',
      }
    network = towers.pair(parse(layers, params))
    self.assertEqual(network.towers, 2)
    shapes = jax.eval_shape(
        CudaConvnet(network).init, jax.random.key(0), images(1)
    )['params']
    self.assertEqual(shapes['conv2']['kernel'].shape, (5, 5, 3, 12))
    self.assertEqual(shapes['conv2']['kernel1'].shape, (5, 5, 4, 12))
    rules = network.rules()['conv2']
    self.assertEqual(
        {name: (rule.rate, rule.decay) for name, rule in rules.items()},
        {'kernel': (0.01, 0.0), 'kernel1': (0.001, 0.0005),
         'bias': (0.02, 0.0)},
    )


class SameAsAlexNetTest(parameterized.TestCase):
  """A definition of run #145 and configs/alexnet_2012.py are one network."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = config_of(*texts.run_145(**texts.NARROW))
    cls.other = narrow_2012()
    cls.model = create_model(cls.config.model)
    cls.other_model = create_model(cls.other.model)
    cls.images = images(2)
    cls.params = jax.jit(cls.other_model.init)(jax.random.key(0), cls.images)[
        'params'
    ]

  def test_count_at_full_width(self):
    config = config_of(*texts.run_145())
    shapes = jax.eval_shape(
        create_model(config.model).init, jax.random.key(0), images(1)
    )['params']
    leaves = jax.tree.leaves(shapes)
    self.assertEqual(sum(leaf.size for leaf in leaves), 60_965_224)
    self.assertEqual(shapes['conv2']['kernel'].shape, (5, 5, 48, 256))
    self.assertEqual(shapes['fcx']['kernel'].shape, (9216, 4096))
    self.assertEqual(config.model.towers, 2)
    self.assertEqual(config.model.num_classes, 1000)

  def test_parameters(self):
    params = jax.jit(self.model.init)(jax.random.key(0), self.images)['params']
    for node, layer in LAYERS.items():
      self.assertEqual(set(params[node]), {'kernel', 'bias'})
      for name, value in params[node].items():
        self.assertEqual(value.shape, self.params[layer][name].shape)
      np.testing.assert_array_equal(
          params[node]['bias'], self.params[layer]['bias']
      )
      stddev = self.other.model[layer].stddev
      kernel = params[node]['kernel']
      self.assertAlmostEqual(
          kernel.std() / stddev, 1, delta=5 / np.sqrt(2 * kernel.size)
      )
    self.assertEqual(self.model.head, 'head')
    self.assertEqual(self.other_model.head, 'fc8')

  @parameterized.parameters(False, True)
  def test_logits(self, training):
    keys = jax.vmap(jax.random.key)(jnp.arange(2)) if training else None
    # Larger, so that the images matter.
    params = jax.tree.map(lambda x: 3 * x, self.params)
    one = testing.apply_of(self.model)(
        {'params': renamed(params)}, self.images, dropout_keys=keys
    )
    other = testing.apply_of(self.other_model)(
        {'params': params}, self.images, dropout_keys=keys
    )
    np.testing.assert_array_equal(one, other)
    self.assertGreater(np.abs(one[0] - one[1]).max(), 1e-3)

  def test_rates_and_decays(self):
    rules = definitions.parameter_rules(self.config)
    self.other.schedule.name = 'constant'
    rates = [
        schedules.rates_at(
            config, layers, step=5, total_steps=10, steps_per_epoch=1.0,
            plateau=schedules.Plateau(), rules=of_rules,
        )
        for config, layers, of_rules in (
            (self.config, rules, rules), (self.other, self.params, None)
        )
    ]
    self.assertEqual(rates[0], renamed(rates[1]))
    self.assertEqual(self.config.optimizer.momentum, 0.9)

    def update(config, params, rates, rules):
      rule = optimizer.create_optimizer(config.optimizer, rules)
      gradients = jax.tree.map(jnp.cos, params)
      state = rule.init(params)
      for _ in range(2):
        updates, state = rule.update(gradients, state, params, rates=rates)
      return updates

    one = update(self.config, renamed(self.params), rates[0], rules)
    other = update(self.other, self.params, rates[1], None)
    jax.tree.map(np.testing.assert_array_equal, one, renamed(other))

  def test_history_as_a_schedule(self):
    """What configs/cuda_convnet.py has as an example, beside the recipe's."""
    config = config_of(
        *texts.run_145(**texts.NARROW, schedules=dict(schedW='exp[2]')),
        restart_rates=True,
    )
    config.schedule.steps = alexnet_2012.get_config(
        'imagenet2012'
    ).schedule.steps
    rules = definitions.parameter_rules(config)
    schedules.check_paths(config, rules)
    self.other.schedule.name = 'steps'
    for epoch in (25, 30, 51, 67, 72, 79, 90):
      step = dict(step=epoch, total_steps=91, steps_per_epoch=1.0,
                  plateau=schedules.Plateau())
      one = schedules.rates_at(config, rules, rules=rules, **step)
      other = schedules.rates_at(self.other, self.params, **step)
      self.assertEqual(one, renamed(other))

  def test_restart(self):
    layers, params = texts.run_145(
        **texts.NARROW, schedules=dict(schedW='dexp[250,0,4]')
    )
    for tower in 'ab':
      params['conv1' + tower].update(epsW=0, epsB=0)
      params['conv2' + tower].update(epsW=1e-5)
    rules = definitions.parameter_rules(config_of(layers, params))
    self.assertEqual(rules['conv1']['kernel'].rate, 0.0)
    self.assertEqual(rules['conv2']['kernel'].rate, 1e-5)
    rules = definitions.parameter_rules(
        config_of(layers, params, restart_rates=True)
    )
    for of_layer in rules.values():
      self.assertEqual(of_layer['kernel'], Rule(
          0.01, Schedule('dexp', 250.0, 0.0, 4), 0.0005
      ))
      self.assertEqual(of_layer['bias'], Rule(0.02))

  def test_other_schedules_know_every_kernel(self):
    config = config_of(*texts.run_145(**texts.NARROW))
    config.schedule.name = 'steps'
    config.schedule.steps = ((1.0, 'conv2', 'kernel', 0.5),)
    rules = definitions.parameter_rules(config)
    rules['conv2']['kernel1'] = rules['conv2']['kernel']
    rates = schedules.rates_at(
        config, rules, step=1, total_steps=2, steps_per_epoch=1.0,
        plateau=schedules.Plateau(), rules=rules,
    )
    self.assertEqual(
        rates['conv2'], {'kernel': 0.5, 'kernel1': 0.5, 'bias': 0.02}
    )
    self.assertEqual(rates['conv1'], {'kernel': 0.01, 'bias': 0.02})


class MeshTest(parameterized.TestCase):

  def _losses(self, config, mesh_shape):
    config.mesh.data, config.mesh.tower = mesh_shape
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    rules = definitions.parameter_rules(config)
    rule = optimizer.create_optimizer(config.optimizer, rules)
    create = lambda key: train_step.create_state(model, rule, key)
    state = sharding.initialize(create, mesh, 0)
    step = train_step.make_train_step(
        model=model, optimizer=rule, mesh=mesh, state=state,
        images=lambda batch: batch['image'], seed=1,
    )
    rng = np.random.default_rng(0)
    losses = []
    for index in range(3):
      batch = testing.random_batch(rng, 8, 10)
      rates = schedules.rates_at(
          config, rules, step=index, total_steps=3, steps_per_epoch=1.0,
          plateau=schedules.Plateau(), rules=rules,
      )
      state, result = step(
          state, sharding.put_batch(batch, mesh),
          jax.tree.map(np.float32, rates),
      )
      losses.append(float(result['loss']))
    return losses

  def test_two_devices(self):
    layers, params = texts.run_145(**texts.NARROW)
    # Of everything one: an image that no tower owns and its own maps in a sum,
    # layers without a partner in the middle, with an odd number of outputs too.
    layers = {
        'data': layers['data'],
        'nails0': dict(type='nailbed', inputs='data', channels=3, stride=4),
        **layers,
    }
    for tower in 'ab':
      layers['conv2' + tower].update(
          inputs=f'nails0,pool1{tower}', channels='3,4', filters='6,6',
          filterSize='5,5', padding='0,2', stride='2,1', initW='0.02,0.05',
      )
      params['conv2' + tower] = texts.trained(2, rate=0.001)
    order = list(layers)
    layers['one'] = dict(type='fc', inputs='hs2a,hs2b', outputs=7, initW='1,1',
                         neuron='relu')
    layers['two'] = dict(type='fc', inputs='hs2b,hs2a', outputs=4, initW='1,2')
    layers['join'] = dict(type='concat', inputs='one,two,hs2a,hs2b')
    layers['drop'] = dict(type='hs', inputs='join', keep=0.8)
    at = order.index('head')
    order[at:at] = ['one', 'two', 'join', 'drop']
    layers = {name: layers[name] for name in order}
    layers['head'].update(inputs='drop', initW=0.05)
    params.update(
        one=texts.trained(2, rate=1e-4), two=texts.trained(2, rate=1e-4),
        head=texts.trained(1, rate=1e-4), drop=dict(enable='true'),
    )
    for name, sizes in (('conv1', 0.02), ('conv4', 0.1), ('conv5', 0.1)):
      for tower in 'ab':
        layers[name + tower]['initW'] = sizes
    config = config_of(layers, params)
    self.assertEqual(config.model.towers, 2)
    base = self._losses(config, (1, 1))
    self.assertGreater(max(base) - min(base), 0.01)
    for shape in ((1, 2), (2, 2)):
      np.testing.assert_allclose(self._losses(config, shape), base, rtol=2e-5)

  def test_one_tower_on_two_devices(self):
    layers, params = texts.small({})
    config = config_of(layers, params)
    config.mesh.tower = 2
    with self.assertRaisesRegex(ConfigError, 'mesh.*towers.*mesh.tower=1'):
      mesh_lib.create_mesh(config)


class RunTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    testing.write_images(self.directory / 'images', 3, 8)
    layers, params = texts.run_145(
        schedules=dict(schedW='dexp[100,0,2]', schedB='linear[2]'),
        **texts.NARROW,
    )
    for tower in 'ab':
      layers['conv1' + tower]['initW'] = 0.02
      for name in ('conv2', 'conv4', 'conv5'):
        layers[name + tower]['initW'] = 0.1
    layers['head']['initW'] = '0.1,0.1'
    params = {
        name: {**options, 'epsW': options['epsW'].replace('0.01', '0.001'),
               'epsB': 0.002} if 'epsW' in options else options
        for name, options in params.items()
    }
    self.layers, self.params = (
        self.directory / name for name in ('layers-1.cfg', 'layer-params-1.cfg')
    )
    self.layers.write_text(texts.text(layers))
    self.params.write_text(texts.text(params))

  def _config(self):
    config = recipe.get_config(str(self.layers))
    config.layer_params = str(self.params)
    config.dataset.name = 'folder'
    config.dataset.train_dir = str(self.directory / 'images')
    config.batch_size = config.evaluation_batch_size = 8
    config.duration, config.log_every = '6 steps', '1 steps'
    config.evaluate_every = config.checkpoint_every = '3 steps'
    config.ten_views = False
    config.dataset.eval_fraction = 0.2
    return config

  def _run(self, config=None, **kwargs):
    return trainer.create(
        config or self._config(), self.directory / 'run',
        Console(io.StringIO()), **kwargs,
    )

  def test_trains_restarts_and_opens(self):
    run = self._run()
    augmentation = run.task.config.augmentation
    self.assertEqual(augmentation.lighting, 'standard_deviation')
    self.assertTrue(augmentation.flip)
    self.assertEqual(run.train()['step'], 6)
    records = [
        record for record in
        read_records(self.directory / 'run' / 'metrics.jsonl')
        if record['kind'] == 'train'
    ]
    # Three steps to the end of the first stage, which includes it. The line of
    # a step has the rate of the next.
    rates = [record['learning_rate'] for record in records]
    np.testing.assert_allclose(rates, [1e-3] * 3 + [1e-5] * 3)
    losses = [record['loss'] for record in records]
    self.assertLess(losses[-1], losses[0])
    # The workdir has all that it needs.
    shutil.move(self.layers, self.directory / 'elsewhere.cfg')
    opened = session.open_run(
        self.directory / 'run', Console(io.StringIO())
    )
    self.assertEqual(opened.task.parameters, run.task.parameters)
    # From a copy of the same files it goes on, with other files it does not.
    config = self._config()
    config.layers = str(self.directory / 'elsewhere.cfg')
    self.assertEqual(self._run(config).progress.step, 6)
    text = self.params.read_text()
    self.params.write_text(text.replace('epsB=0.002', 'epsB=0.003'))
    with self.assertRaisesRegex(
        CheckpointError, 'model.params_text was a different text'
    ) as caught:
      self._run(config)
    self.assertLess(len(str(caught.exception)), 500)

  def test_what_the_user_forgets(self):
    config = self._config()
    config.layer_params = None
    with self.assertRaisesRegex(ConfigError, '--config.layer_params=PATH'):
      self._run(config)
    config.layer_params = str(self.directory / 'none.cfg')
    with self.assertRaisesRegex(ConfigError, 'cannot read .*none.cfg .No such'):
      self._run(config)
    config = self._config()
    config.layers = ''
    with self.assertRaisesRegex(ConfigError, 'behind the colon'):
      self._run(config)
    config = self._config()
    config.model.num_classes = 3
    with self.assertRaisesRegex(ConfigError, 'has 10 outputs: leave'):
      self._run(config)
    text = self.layers.read_text().replace('outputs=10', 'outputs=2')
    self.layers.write_text(text)
    with self.assertRaisesRegex(ConfigError, 'num_classes is 2.*3 classes: g'):
      self._run()

  def test_digits_are_neither_mirrored_nor_lit(self):
    config = config_of(*texts.run_145(**texts.NARROW))
    self.assertFalse(config.augmentation.flip)
    self.assertEqual(config.augmentation.lighting, 'none')
    self.assertEqual(config.augmentation.lighting_divisor, 1.0)
    config = config_of(
        *texts.run_145(**texts.NARROW), **{'augmentation.flip': True}
    )
    self.assertTrue(config.augmentation.flip)


if __name__ == '__main__':
  absltest.main()
