"""The update and its rates against numbers worked by hand."""

import collections
import importlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from alexnet import models
from alexnet.checkpointing.workdir import flatten
from alexnet.config import intervals
from alexnet.config.errors import ConfigError
from alexnet.cuda_convnet.rates import Rule
from alexnet.training import optimizer, schedules
from configs import (
  alexnet,
  alexnet_2012,
  alexnet_2012_geometric,
  cuda_convnet,
)

LAYERS = ('conv1', 'conv2', 'fc8')
# As a network with blocks and batch normalization has them.
BLOCKS = {
    'stem': {'conv': {'kernel': 2.0}},
    'block1': {
        'conv': {'kernel': 2.0},
        'norm': {'scale': 2.0, 'bias': 2.0},
        'shortcut': {'conv': {'kernel': 2.0}},
    },
    'head': {'kernel': 2.0, 'bias': 2.0},
}


def of_layers(names):
  """Parameters of which only the names are asked."""
  return {name: {'kernel': None, 'bias': None} for name in names}


class UpdateTest(absltest.TestCase):

  def _run(self, config, gradients, rates):
    rule = optimizer.create_optimizer(config)
    params = {'fc8': {'kernel': jnp.array([2.0]), 'bias': jnp.array([1.0])}}
    state = rule.init(params)
    history = []
    for gradient, (kernel, bias) in zip(gradients, rates):
      tree = {'fc8': {'kernel': jnp.array([gradient[0]]),
                      'bias': jnp.array([gradient[1]])}}
      updates, state = rule.update(
          tree, state, params, rates={'fc8': {'kernel': kernel, 'bias': bias}}
      )
      params = optax.apply_updates(params, updates)
      history.append(
          (float(params['fc8']['kernel'][0]), float(params['fc8']['bias'][0]))
      )
    return history

  def test_two_updates_and_a_drop_of_the_rate(self):
    """On paper: v <- 0.9 v - 0.0005 e w - e g; w <- w + v.

    w = 2, e = 0.1: v = -0.1 * 0.0005 * 2 - 0.1 * 3 = -0.3001; w = 1.6999
    e = 0.01:  v = 0.9 * -0.3001 - 0.01 * 0.0005 * 1.6999 - 0.01 * -1
                 = -0.27009 - 0.0000084995 + 0.01 = -0.2600984995
               w = 1.4398015005
    b = 1, e = 0.2, no decay: v = -0.2 * 0.5 = -0.1; b = 0.9
    e = 0.2: v = -0.09 - 0.2 * 1 = -0.29; b = 0.61
    """
    config = alexnet_2012.get_config().optimizer
    history = self._run(
        config, [(3.0, 0.5), (-1.0, 1.0)], [(0.1, 0.2), (0.01, 0.2)]
    )
    np.testing.assert_allclose(history[0], (1.6999, 0.9), rtol=1e-6)
    np.testing.assert_allclose(history[1], (1.4398015005, 0.61), rtol=1e-6)

  def test_the_paper_decays_biases_too(self):
    config = alexnet.get_config().optimizer
    history = self._run(config, [(3.0, 0.5)], [(0.1, 0.1)])
    # b = 1 - 0.1 * 0.0005 * 1 - 0.1 * 0.5
    np.testing.assert_allclose(history[0], (1.6999, 0.94995), rtol=1e-6)

  def test_rate_zero_freezes_and_momentum_does_not_coast(self):
    config = alexnet_2012.get_config().optimizer
    history = self._run(
        config,
        [(3.0, 0.5), (5.0, 5.0), (0.0, 0.0)],
        [(0.1, 0.2), (0.0, 0.0), (0.1, 0.2)],
    )
    self.assertEqual(history[0], history[1])
    # The velocity waited: v = 0.9 * -0.3001 - 0.1 * 0.0005 * 1.6999.
    np.testing.assert_allclose(
        history[2][0], 1.6999 - 0.27009 - 8.4995e-5, rtol=1e-6
    )

  def test_a_frozen_parameter_does_not_mind_its_gradient(self):
    config = alexnet_2012.get_config().optimizer
    history = self._run(
        config,
        [(3.0, 0.5), (np.nan, np.inf)],
        [(0.1, 0.2), (0.0, 0.0)],
    )
    self.assertEqual(history[0], history[1])

  def test_differs_from_the_usual_rule_after_a_drop(self):
    """optax.sgd keeps the rate outside the velocity."""
    config = alexnet_2012.get_config().optimizer
    config.weight_decay = 0.0
    ours = self._run(config, [(1.0, 0.0)] * 2, [(0.1, 0.1), (0.01, 0.1)])
    # Theirs: v = 1, then 1.9; w = 2 - 0.1 - 0.01 * 1.9 = 1.881.
    self.assertAlmostEqual(ours[1][0], 2 - 0.1 - 0.09 - 0.01, places=6)


class PlateauTest(absltest.TestCase):

  def test_written_sequence(self):
    schedule = alexnet.get_config('imagenet2012').schedule
    schedule.plateau.patience = 2
    plateau = schedules.Plateau()
    errors = [.9, .8, .8, .85, .7, .7, .7, .7, .7, .7, .7, .7, .6, .7, .7]
    drops = [plateau.observe(error, schedule) for error in errors]
    # Two evaluations that are no better than the best: a drop, three at most.
    expected = [0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    self.assertEqual(list(map(int, drops)), expected)
    self.assertEqual(plateau.drops, 3)

  def test_state_survives_json_in_the_middle(self):
    schedule = alexnet.get_config('imagenet2012').schedule
    schedule.plateau.patience = 2
    errors = [.9, .8, .8, .85, .7, .7, .7]
    whole, parts = schedules.Plateau(), schedules.Plateau()
    for error in errors:
      whole.observe(error, schedule)
      parts.observe(error, schedule)
      parts = schedules.Plateau(**json.loads(json.dumps(vars(parts))))
    self.assertEqual(whole, parts)


class RatesTest(parameterized.TestCase):

  def _rates(
      self, config, step, plateau=None, total=9000, layers=LAYERS, rules=None
  ):
    params = rules or of_layers(layers)
    schedules.check_paths(config, params)
    return schedules.rates_at(
        config,
        params,
        step=step,
        total_steps=total,
        steps_per_epoch=100,
        plateau=plateau or schedules.Plateau(),
        rules=rules,
    )

  def test_plateau(self):
    config = alexnet.get_config('imagenet2012')
    for drops, rate in enumerate((0.01, 1e-3, 1e-4, 1e-5)):
      rates = self._rates(config, 5, schedules.Plateau(drops=drops))
      self.assertAlmostEqual(rates['fc8']['kernel'], rate)
      self.assertAlmostEqual(rates['fc8']['bias'], rate)

  @parameterized.parameters(
      (0, 0.01, 0.01, 0.02),
      (2499, 0.01, 0.01, 0.02),
      (2500, 1e-3, 1e-3, 0.02),
      (5100, 1e-4, 1e-4, 0.02),
      (6700, 1e-4, 1e-5, 0.02),
      (7199, 1e-4, 1e-5, 0.02),
      (7200, 1e-4, 0.0, 0.0),
      (7900, 1e-5, 0.0, 0.0),
      (9000, 1e-5, 0.0, 0.0),
  )
  def test_run_145(self, step, others, conv1, conv1_bias):
    layers = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
    config = alexnet_2012.get_config('imagenet2012')
    rates = self._rates(config, step, layers=layers)
    self.assertEqual(rates['conv1'], {'kernel': conv1, 'bias': conv1_bias})
    for layer in layers[1:]:
      self.assertEqual(rates[layer], {'kernel': others, 'bias': 0.02})

  @parameterized.parameters(
      (0, 0.01, 0.02), (2250, 0.01, 0.02), (2251, 1.5874e-3, 0.02),
      (4500, 1.5874e-3, 0.02), (4501, 2.5198e-4, 0.002),
      (6750, 2.5198e-4, 0.002), (6751, 4e-5, 0.002), (7399, 4e-5, 0.002),
      (7400, 4e-5, 0.002), (9000, 4e-5, 0.002),
  )
  def test_run_170(self, step, kernel, bias):
    config = alexnet_2012_geometric.get_config('imagenet2012')
    rates = self._rates(config, step, layers=('conv1', 'conv2'))
    frozen = step >= 7400
    for name, wanted in (
        ('conv2', (kernel, bias)),
        ('conv1', (0, 0) if frozen else (kernel, bias)),
    ):
      self.assertAlmostEqual(rates[name]['kernel'], wanted[0], places=8)
      self.assertAlmostEqual(rates[name]['bias'], wanted[1], places=8)

  def test_factors_of_layers(self):
    """On top of the schedule: biases of conv1 are frozen at 7,200 anyway."""
    layers = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')
    config = alexnet_2012.get_config('imagenet2012')
    config.optimizer.layer_rate_factors = (
        ('conv1', 0.5), ('conv2', 0), ('fc8', 10.0)
    )
    for step, conv1, fc7, fc8 in (
        (0, (0.005, 0.01), (0.01, 0.02), (0.1, 0.2)),
        (6700, (5e-6, 0.01), (1e-4, 0.02), (1e-3, 0.2)),
        (7200, (0.0, 0.0), (1e-4, 0.02), (1e-3, 0.2)),
    ):
      rates = self._rates(config, step, layers=layers)
      for layer, expected in (
          ('conv1', conv1), ('conv2', (0, 0)), ('fc7', fc7), ('fc8', fc8)
      ):
        np.testing.assert_allclose(
            (rates[layer]['kernel'], rates[layer]['bias']), expected
        )
    config = alexnet.get_config('imagenet2012')
    config.optimizer.layer_rate_factors = (('fc8', 3.0),)
    rates = self._rates(config, 0, schedules.Plateau(drops=1))
    self.assertAlmostEqual(rates['fc8']['bias'], 0.003)

  @parameterized.parameters(
      ('pretraining', 0.0, 1e-3, 1e-3, 1e-2, 0.02),
      ('pretraining', 2.15, 1e-3, 1e-3, 1e-2, 0.02),
      ('pretraining', 2.16, 1e-3, 1e-3, 1e-3, 0.02),
      ('finetuning', 0.0, 1e-4, 1e-3, 1e-3, 0.02),
      ('finetuning', 3.0, 1e-5, 1e-3, 1e-3, 0.02),
      ('finetuning', 4.0, 0.0, 1e-3, 1e-3, 0.0),
      ('finetuning', 22.0, 0.0, 1e-4, 1e-4, 0.0),
      ('finetuning', 42.0, 0.0, 1e-5, 1e-5, 0.0),
  )
  def test_run_146(self, stage, epoch, conv1, conv2, others, conv1_bias):
    """The notes of the log: rates of kernels at the epochs they name."""
    recipe = importlib.import_module(f'configs.alexnet_2012_six_{stage}')
    layers = (
        'conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6', 'fc6', 'fc7',
        'fc8',
    )
    rates = self._rates(
        recipe.get_config('imagenet2012'), round(100 * epoch), layers=layers
    )
    self.assertEqual(rates['conv1'], {'kernel': conv1, 'bias': conv1_bias})
    for layer in layers[1:5]:
      self.assertEqual(rates[layer], {'kernel': conv2, 'bias': 0.02})
    for layer in layers[5:]:
      self.assertEqual(rates[layer], {'kernel': others, 'bias': 0.02})

  def test_constant(self):
    config = alexnet_2012.get_config('imagenet2012')
    config.schedule.name = 'constant'
    rates = self._rates(config, 8000)
    self.assertEqual(rates['conv1'], {'kernel': 0.01, 'bias': 0.02})

  @parameterized.parameters(
      ('none', 128, 1.0), ('linear', 128, 1.0), ('sqrt', 128, 1.0),
      ('none', 1024, 1.0), ('linear', 1024, 8.0), ('sqrt', 512, 2.0),
      ('linear', 32, 0.25), ('sqrt', 32, 0.5),
  )
  def test_batch_scaling(self, scaling, batch_size, factor):
    """By the batch over 128, or its root; whatever the schedule."""
    config = alexnet.get_config('imagenet2012')
    config.batch_size = batch_size
    config.schedule.batch_scaling = scaling
    rates = self._rates(config, 0, schedules.Plateau(drops=1))
    self.assertAlmostEqual(rates['fc8']['kernel'], 0.001 * factor)
    config = alexnet_2012_geometric.get_config('imagenet2012')
    config.batch_size = batch_size
    config.schedule.batch_scaling = scaling
    rates = self._rates(config, 9000)
    self.assertAlmostEqual(rates['fc8']['kernel'], 4e-5 * factor, places=8)
    self.assertAlmostEqual(rates['fc8']['bias'], 0.002 * factor)
    self.assertEqual(rates['conv1'], {'kernel': 0, 'bias': 0})

  def test_batch_scaling_of_digits_is_from_their_own_batch(self):
    config = alexnet.get_config()
    config.schedule.batch_scaling = 'linear'
    self.assertEqual(self._rates(config, 0)['fc8']['kernel'], 0.005)
    config.batch_size = 64
    self.assertEqual(self._rates(config, 0)['fc8']['kernel'], 0.01)

  @parameterized.parameters(
      # 2.5 epochs of 100 steps: 1 / 250, 2 / 250, ...
      (0, 0.004), (1, 0.008), (124, 0.5), (248, 0.996), (249, 1.0), (250, 1.0),
      (2499, 1.0),
  )
  def test_warmup(self, step, factor):
    config = alexnet_2012.get_config('imagenet2012')
    config.schedule.warmup_epochs = 2.5
    config.schedule.steps = ()
    rates = self._rates(config, step)
    self.assertAlmostEqual(rates['fc8']['kernel'], 0.01 * factor)
    self.assertAlmostEqual(rates['conv1']['bias'], 0.02 * factor)

  def test_warmup_scaling_and_factors_multiply(self):
    """Step 24 of 50, batch 512: 0.5 * 4; conv1 frozen, fc8 ten times."""
    config = alexnet_2012.get_config('imagenet2012')
    config.batch_size = 512
    config.schedule.update(
        name='steps', steps=((0.0, 'conv1', 'both', 0.0),),
        batch_scaling='linear', warmup_epochs=0.5,
    )
    config.optimizer.layer_rate_factors = (('fc8', 10.0), ('conv2', 0))
    rates = self._rates(config, 24)
    self.assertEqual(rates['conv1'], {'kernel': 0, 'bias': 0})
    self.assertEqual(rates['conv2'], {'kernel': 0, 'bias': 0})
    self.assertAlmostEqual(rates['fc8']['kernel'], 0.2)
    self.assertAlmostEqual(rates['fc8']['bias'], 0.4)

  def test_a_definition_is_scaled_and_warmed_up_too(self):
    rule = types.SimpleNamespace(rate_at=lambda progress, normal: 0.004)
    frozen = types.SimpleNamespace(rate_at=lambda progress, normal: 0.0)
    rules = {'conv1': {'kernel': frozen}, 'fc8': {'kernel': rule, 'bias': rule}}
    config = alexnet.get_config('imagenet2012')
    config.batch_size = 2048
    config.schedule.update(
        name='definition', batch_scaling='sqrt', warmup_epochs=0.1
    )
    # Step 4 of 10, sixteen times the batch: 0.5 * 4.
    rates = self._rates(config, 4, rules=rules)
    self.assertEqual(rates['conv1'], {'kernel': 0})
    self.assertAlmostEqual(rates['fc8']['kernel'], 0.008)
    self.assertAlmostEqual(rates['fc8']['bias'], 0.008)

  @parameterized.parameters(
      (dict(batch_scaling='cubic'), "batch_scaling is 'cubic'.*'linear'"),
      (dict(reference_batch_size=0), 'reference_batch_size is 0'),
      (dict(warmup_epochs=-1.0), 'warmup_epochs is -1.0'),
      (dict(warmup_epochs=float('nan')), 'warmup_epochs is nan'),
      (dict(warmup_epochs=float('inf')), 'warmup_epochs is inf'),
      (dict(name='cosine'), "'cosine'.*'plateau'"),
      (dict(learning_rate=-0.1), 'learning_rate is -0.1'),
      (dict(steps=((1.0, 'conv9', 'kernel', 0.1),)), 'conv9'),
      (dict(steps=((1.0, 'fc8/bias', 'kernel', 0.1),)), 'has .*fc8/bias'),
      (dict(steps=((1.0, 'conv1', 'kernel'),)), 'schedule.steps'),
      (dict(steps=(1,)), 'schedule.steps'),
  )
  def test_message(self, fields, message):
    config = alexnet.get_config('imagenet2012')
    config.schedule.update(fields)
    with self.assertRaisesRegex(ConfigError, message):
      models.check(config)
      self._rates(config, 0)

  def test_every_schedule_may_be_set(self):
    names = {*schedules.SCHEDULES, 'cosine'}
    for recipe, own in (
        (alexnet.get_config('imagenet2012'), ('definition', 'cosine')),
        (cuda_convnet.get_config('layers.cfg'), ('cosine',)),
    ):
      row = models.fields(recipe)['schedule.name']
      self.assertEqual(
          {name for name in names if not row.accepts(name)}, set(own)
      )


class PathsTest(parameterized.TestCase):
  """Of networks with blocks of layers, by path; oracles by hand."""

  def _rates(self, config, step=0):
    schedules.check_paths(config, BLOCKS)
    return flatten(schedules.rates_at(
        config, BLOCKS, step=step, total_steps=100, steps_per_epoch=10,
        plateau=schedules.Plateau(),
    ))

  def _config(self, **schedule):
    config = alexnet_2012.get_config('imagenet2012')
    config.schedule.update(
        {'name': 'steps', 'learning_rate': 0.5, 'steps': (), **schedule}
    )
    return config

  def test_only_biases_have_the_rate_of_biases(self):
    self.assertEqual(self._rates(self._config()), {
        'stem.conv.kernel': 0.5,
        'block1.conv.kernel': 0.5,
        'block1.norm.scale': 0.5,
        'block1.norm.bias': 1.0,
        'block1.shortcut.conv.kernel': 0.5,
        'head.kernel': 0.5,
        'head.bias': 1.0,
    })

  @parameterized.parameters(
      (('block1', 0),),
      (('block1/*', 0),),
      (('block?', 0),),
      (('*', 0), ('stem', 1), ('head', 1)),
      (('block1', 3), ('head', 7), ('b*', 0), ('head/*', 1)),
  )
  def test_a_frozen_block(self, *factors):
    """A layer, or a pattern; of those that match, the last one counts."""
    config = self._config()
    config.optimizer.layer_rate_factors = factors
    self.assertEqual(self._rates(config), {
        'stem.conv.kernel': 0.5,
        'block1.conv.kernel': 0.0,
        'block1.norm.scale': 0.0,
        'block1.norm.bias': 0.0,
        'block1.shortcut.conv.kernel': 0.0,
        'head.kernel': 0.5,
        'head.bias': 1.0,
    })

  def test_factors_of_single_parameters(self):
    config = self._config()
    config.optimizer.layer_rate_factors = (
        ('*/norm', 10.0), ('block1/norm/bias', 0.25), ('head/kernel', 4)
    )
    rates = self._rates(config)
    self.assertEqual(rates['block1.norm.scale'], 5.0)
    self.assertEqual(rates['block1.norm.bias'], 0.25)
    self.assertEqual(rates['head.kernel'], 2.0)
    self.assertEqual(rates['head.bias'], 1.0)
    self.assertEqual(rates['block1.conv.kernel'], 0.5)

  @parameterized.parameters(
      (5, {'block1.conv.kernel': 0.1, 'block1.shortcut.conv.kernel': 0.1}),
      (10, {'block1.conv.kernel': 0.1, 'block1.shortcut.conv.kernel': 0.0,
            'block1.norm.bias': 0.0, 'block1.norm.scale': 0.0}),
      (20, {'block1.conv.kernel': 0.1, 'block1.shortcut.conv.kernel': 0.0,
            'block1.norm.bias': 0.3, 'block1.norm.scale': 0.0,
            'head.bias': 0.3}),
  )
  def test_steps(self, step, changed):
    config = self._config(steps=(
        (2.0, 'all', 'bias', 0.3),
        (0.5, 'block1', 'kernel', 0.1),
        (1.0, '*/norm', 'both', 0.0),
        (1.0, 'block1/shortcut', 'both', 0.0),
    ))
    self.assertEqual(
        self._rates(config, step), {**self._rates(config), **changed}
    )

  @parameterized.parameters(
      # w = 2, all gradients 0, rate 1: w - decay * w.
      ((), dict(scale=1.0, bias=1.5, head=1.5)),
      ((('*/norm', 0.0),), dict(scale=2.0, bias=2.0, head=1.5)),
      ((('*', 0.0), ('*/kernel', 1.0)), dict(scale=2.0, bias=2.0, head=2.0)),
      ((('block1/norm/scale', 0.5),), dict(scale=1.5, bias=1.5, head=1.5)),
  )
  def test_decays(self, factors, expected):
    config = alexnet.get_config().optimizer
    config.weight_decay, config.bias_decay_multiplier = 0.5, 0.5
    config.layer_decay_factors = factors
    rule = optimizer.create_optimizer(config)
    params = jax.tree.map(jnp.float32, BLOCKS)
    zeros, ones = (jax.tree.map(like, params)
                   for like in (jnp.zeros_like, jnp.ones_like))
    updates, _ = rule.update(zeros, rule.init(params), params, rates=ones)
    moved = jax.tree.map(float, optax.apply_updates(params, updates))
    self.assertEqual(moved, {
        'stem': {'conv': {'kernel': 1.0}},
        'block1': {
            'conv': {'kernel': 1.0},
            'norm': {'scale': expected['scale'], 'bias': expected['bias']},
            'shortcut': {'conv': {'kernel': 1.0}},
        },
        'head': {'kernel': 1.0, 'bias': expected['head']},
    })

  @parameterized.parameters(
      ('layer_rate_factors', 'block2'), ('layer_rate_factors', 'block'),
      ('layer_rate_factors', 'conv'), ('layer_decay_factors', 'head/scale'),
  )
  def test_a_path_of_nothing(self, field, pattern):
    config = self._config()
    config.optimizer[field] = (('head', 1.0), (pattern, 2.0))
    with self.assertRaisesRegex(
        ConfigError,
        rf"{field} has \('{pattern}', 2.0\): .*of block1, head, stem",
    ):
      self._rates(config)


Bounds = collections.namedtuple('Bounds', 'low high norm')


class BoundsTest(parameterized.TestCase):
  """By constrainWeights in src/layer.cu of the authors' code."""

  def _wanted(self, weights, bounds):
    """Output by output, as that has it: squares first, then one factor."""
    result = np.array(weights, np.float64)
    for place in range(result.shape[-1]):
      w = result[..., place]
      n = w.size
      if bounds.high > 0:
        s = np.sqrt(((w - w.sum() / n) ** 2).sum()) / n
        w *= (bounds.low / s if s < bounds.low else
              bounds.high / s if s > bounds.high else 1)
      if bounds.norm > 0:
        squares, limit = (w**2).sum(), bounds.norm * n
        w *= limit / np.sqrt(squares) if squares > limit**2 else 1
    return result

  @parameterized.parameters(
      (Bounds(0.001, 0.002, 0),), (Bounds(0.01, 0.5, 0),),
      (Bounds(0, 0.02, 0),), (Bounds(0, 0, 0.003),), (Bounds(0, 0, 10),),
      (Bounds(0.03, 0.04, 0.035),),
  )
  def test_by_numpy(self, bounds):
    """Of small, usual and large filters around some mean."""
    rng = np.random.default_rng(0)
    scale = np.geomspace(1e-3, 10, 12)
    for shape in ((5, 5, 3, 12), (40, 12)):
      weights = scale * (rng.standard_normal(shape) + 0.3)
      weights = weights.astype(np.float32)
      got = optimizer.within_bounds(jnp.asarray(weights), bounds)
      np.testing.assert_allclose(
          got, self._wanted(weights, bounds), rtol=1e-5, atol=1e-9
      )

  def test_what_is_within_stays_to_the_bit(self):
    weights = np.random.default_rng(0).standard_normal((9, 4), np.float32)
    got = optimizer.within_bounds(jnp.asarray(weights), Bounds(0.1, 0.9, 0.9))
    np.testing.assert_array_equal(got, weights)

  def test_equal_weights_stay(self):
    weights = jnp.ones((4, 2)).at[:, 0].set(0)
    got = optimizer.within_bounds(weights, Bounds(5, 6, 0))
    np.testing.assert_array_equal(got, weights)

  def test_an_update_ends_within_and_its_velocity_does_not_know(self):
    """Only the bounded parameter, and not while it is frozen."""
    rule = Rule(rate=1.0, decay=0.1)
    bounded = Rule(rate=1.0, decay=0.1, bounds=Bounds(0, 0.1, 0))
    rules = {'conv': {'kernel': bounded, 'kernel1': rule, 'bias': rule}}
    config = alexnet.get_config().optimizer
    update = optimizer.create_optimizer(config, rules).update
    rng = np.random.default_rng(1)
    params = {'conv': {
        name: rng.standard_normal((6, 3), np.float32)
        for name in ('kernel', 'kernel1', 'bias')
    }}
    gradients = jax.tree.map(np.cos, params)
    state = optimizer.create_optimizer(config, rules).init(params)
    rates = {'conv': dict.fromkeys(params['conv'], 0.5)}
    updates, state = update(gradients, state, params, rates=rates)
    moved = optax.apply_updates(params, updates)['conv']
    free = jax.tree.map(
        lambda w, g: w - 0.5 * (g + 0.1 * w), params, gradients
    )['conv']
    for name in ('kernel1', 'bias'):
      np.testing.assert_allclose(moved[name], free[name], rtol=1e-5)
    wanted = self._wanted(free['kernel'], Bounds(0, 0.1, 0))
    np.testing.assert_allclose(moved['kernel'], wanted, rtol=1e-5)
    self.assertGreater(np.abs(wanted - free['kernel']).max(), 0.1)
    (velocity,) = (part.trace for part in state if hasattr(part, 'trace'))
    np.testing.assert_allclose(
        velocity['conv']['kernel'],
        free['kernel'] - params['conv']['kernel'], rtol=1e-4, atol=1e-6,
    )
    rates['conv']['kernel'] = 0.0
    updates, _ = update(gradients, state, params, rates=rates)
    self.assertFalse(np.any(updates['conv']['kernel']))


class DurationTest(parameterized.TestCase):

  @parameterized.parameters(
      ('90 epochs', 901), ('1 epoch', 11), ('0.5 epochs', 6), ('7 steps', 7),
      ('1 step', 1), ('128 examples', 1), ('129 examples', 2), ('never', None),
  )
  def test_steps(self, duration, expected):
    # 1,281 examples by 128: ten steps and one example an epoch.
    steps = intervals.to_steps('d', duration, batch_size=128, examples=1281)
    self.assertEqual(steps, expected)

  def test_no_step_more_by_rounding(self):
    self.assertGreater(0.07 * 100, 7)
    steps = intervals.to_steps('d', '0.07 epochs', batch_size=1, examples=100)
    self.assertEqual(steps, 7)

  @parameterized.parameters(
      '90', 'epochs', '-1 epochs', '0 steps', '5 hours', '1 epoch 2',
      'nan steps', '', 3,
  )
  def test_message(self, duration):
    with self.assertRaisesRegex(ConfigError, r"^duration is .*'90 epochs'"):
      intervals.to_steps('duration', duration, batch_size=8, examples=80)



if __name__ == '__main__':
  absltest.main()
