"""The network: counts, sizes, seams and switches."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet import models
from alexnet.config.errors import ConfigError
from alexnet.models import create_model, layers
from alexnet.ops import pooling
from tests import testing


def model_config(recipe='paper', classes=1000, **fields):
  """A recipe's model with dotted fields replaced; __ stands for the dot."""
  config = testing.RECIPES[recipe].get_config('imagenet2012').model
  config.num_classes = classes
  for name, value in fields.items():
    config.update_from_flattened_dict({name.replace('__', '.'): value})
  return config


def shapes_of(config):
  model = create_model(config)
  image = jnp.zeros((1, 224, 224, 3))
  return jax.eval_shape(model.init, jax.random.key(0), image)['params']


def count(config):
  return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(config)))


class CountTest(parameterized.TestCase):

  @parameterized.parameters('paper', '2012')
  def test_layers(self, recipe):
    shapes = shapes_of(model_config(recipe))
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(layer))
        for name, layer in shapes.items()
    }
    self.assertEqual(
        counts,
        {
            'conv1': 34_944,
            'conv2': 307_456,
            'conv3': 885_120,
            'conv4': 663_936,
            'conv5': 442_624,
            'fc6': 37_752_832,
            'fc7': 16_781_312,
            'fc8': 4_097_000,
        },
    )
    self.assertEqual(sum(counts.values()), 60_965_224)
    self.assertEqual(shapes['conv2']['kernel'].shape, (5, 5, 48, 256))
    self.assertEqual(shapes['fc6']['kernel'].shape, (9216, 4096))

  def test_without_groups(self):
    self.assertEqual(count(model_config(towers=1)), 62_378_344)

  def test_half(self):
    """Run 145-half: one tower, last convolution and fc layers kept whole."""
    config = model_config(
        towers=1,
        conv1__features=48,
        conv2__features=128,
        conv3__features=192,
        conv4__features=192,
    )
    self.assertEqual(count(config), 59_798_312)

  def test_width(self):
    """Half the features; the two towers' counts worked by hand."""
    shapes = shapes_of(model_config(width=0.5))
    self.assertEqual(shapes['conv1']['kernel'].shape, (11, 11, 3, 48))
    self.assertEqual(shapes['conv2']['kernel'].shape, (5, 5, 24, 128))
    self.assertEqual(shapes['conv3']['kernel'].shape, (3, 3, 128, 192))
    self.assertEqual(shapes['fc6']['kernel'].shape, (4608, 2048))
    self.assertEqual(shapes['fc8']['kernel'].shape, (2048, 1000))

  def test_the_config_stays_as_it_is(self):
    config = model_config(width=0.5, conv4__features=0)
    before = config.to_dict()
    create_model(config)
    self.assertEqual(config.to_dict(), before)

  def test_width_keeps_the_size_of_activities(self):
    """Deviations are divided by the root of the width, but for conv1's."""
    config = model_config('2012', classes=10, width=0.25)
    params = testing.init_of(create_model(config))(
        jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )['params']
    for name, stddev in (
        ('conv1', 0.01), ('conv2', 0.02), ('conv3', 0.06), ('conv5', 0.06),
        ('fc6', 0.02), ('fc8', 0.02),
    ):
      np.testing.assert_allclose(
          np.std(params[name]['kernel']), stddev, rtol=0.05
      )
    np.testing.assert_array_equal(params['fc6']['bias'], 1)

  def test_sixth_convolution(self):
    config = model_config(conv6__features=256)
    self.assertEqual(count(config) - 60_965_224, 590_080)
    self.assertEqual(count(config), 61_555_304)

  def test_no_traffic_but_the_logits(self):
    """Run 150."""
    config = model_config(
        conv2__features=320,
        conv3__reads='own',
        fc6__features=8192,
        fc6__reads='own',
        fc7__features=4096,
        fc7__reads='own',
    )
    self.assertEqual(count(config), 60_714_408)

  @parameterized.parameters('conv2', 'conv3', 'conv4', 'conv5')
  def test_a_convolution_left_out(self, name):
    shapes = shapes_of(model_config(**{f'{name}__features': 0}))
    self.assertNotIn(name, shapes)
    # The pooling stays, so that the image still arrives as 6 x 6.
    self.assertEqual(shapes['fc6']['kernel'].shape[0] % 36, 0)
    self.assertLess(shapes['fc6']['kernel'].shape[0], 20_000)


def trace_sizes(config):
  """Heights of the feature maps after each operation of the network."""
  sizes = []
  real = layers.grouped_convolution, pooling.max_pool

  def convolution(*args, **kwargs):
    y = real[0](*args, **kwargs)
    sizes.append(y.shape[1])
    return y

  def pool(*args, **kwargs):
    y = real[1](*args, **kwargs)
    sizes.append(y.shape[1])
    return y

  with (
      absltest.mock.patch.object(layers, 'grouped_convolution', convolution),
      absltest.mock.patch.object(pooling, 'max_pool', pool),
  ):
    shapes_of(config)
  return sizes


class SizeTest(absltest.TestCase):

  def test_paper_and_code(self):
    for recipe in testing.RECIPES:
      self.assertEqual(
          trace_sizes(model_config(recipe)), [55, 27, 27, 13, 13, 13, 13, 6]
      )

  def test_run_147(self):
    config = model_config(
        '2012',
        pool__window=2,
        conv2__padding=(1, 1),
        conv5__padding=(0, 0),
    )
    self.assertEqual(trace_sizes(config), [55, 28, 26, 13, 13, 13, 11, 6])


class InitializationTest(parameterized.TestCase):

  @parameterized.parameters(('paper', 0.01), ('2012', 0.03))
  def test_deviation_and_biases(self, recipe, middle):
    config = model_config(recipe, classes=10)
    config.fc6.features = config.fc7.features = 64
    model = create_model(config)
    params = jax.jit(model.init)(
        jax.random.key(0), jnp.zeros((1, 224, 224, 3))
    )['params']
    for name, layer in params.items():
      wanted = middle if name in ('conv3', 'conv4', 'conv5') else 0.01
      kernel = np.asarray(layer['kernel'])
      error = 5 * wanted / np.sqrt(2 * kernel.size)  # Five sigma.
      self.assertAlmostEqual(kernel.std(), wanted, delta=error)
      one = name in ('conv2', 'conv4', 'conv5', 'fc6', 'fc7')
      np.testing.assert_array_equal(layer['bias'], 1.0 if one else 0.0)


class ForwardTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.images = testing.random_batch(rng, 2, 10)['image']

  def _config(self, recipe='paper', **fields):
    config = testing.narrow_config(recipe=testing.RECIPES[recipe]).model
    config.num_classes = 10
    for name, value in fields.items():
      config.update_from_flattened_dict({name.replace('__', '.'): value})
    return config

  def _logits(self, config, params=None, images=None):
    model = create_model(config)
    images = self.images if images is None else images
    if params is None:
      params = testing.init_of(model)(jax.random.key(0), images)['params']
    apply = testing.apply_of(model)
    return np.asarray(apply({'params': params}, images)), params

  def test_towers_meet_where_the_paper_says(self):
    """A change in tower 1's conv1 reaches tower 2 in conv3 first."""
    config = self._config()
    _, params = self._logits(config)
    changed = jax.tree.map(np.array, params)
    changed['conv1']['kernel'][..., :4] *= 1.5
    model = create_model(config)

    def outputs(params):
      _, state = jax.jit(
          lambda p: model.apply(
              {'params': p}, self.images, capture_intermediates=True
          )
      )(params)
      return {
          name: np.asarray(layer['__call__'][0])
          for name, layer in state['intermediates'].items()
          if isinstance(layer, dict)  # A module's, not what `keep` has kept.
      }

    before, after = outputs(params), outputs(changed)

    def second_tower_differs(name):
      features = before[name].shape[-1] // 2
      return bool(
          np.any(before[name][..., features:] != after[name][..., features:])
      )

    self.assertFalse(second_tower_differs('conv1'))
    self.assertFalse(second_tower_differs('conv2'))
    self.assertTrue(second_tower_differs('conv3'))
    # conv4 reads its own tower only: with conv3 of tower 1 changed alone,
    # tower 2 does not notice before fc6.
    changed = jax.tree.map(np.array, params)
    changed['conv3']['kernel'][..., :8] *= 1.5
    after = outputs(changed)
    self.assertFalse(second_tower_differs('conv4'))
    self.assertFalse(second_tower_differs('conv5'))
    self.assertTrue(second_tower_differs('fc6'))

  @parameterized.parameters(
      dict(activation='tanh'),
      dict(activation='sigmoid'),
      dict(lrn__enabled=False),
      dict(lrn__across_towers=True),
      dict(lrn__divide_alpha_by_n=True),
      dict(lrn__k=1.0),
      dict(spatial_norm__enabled=True),
      dict(conv1__padding=(0, 3)),
      dict(conv1__after=('lrn', 'pool', 'activation')),
      dict(dropout_kind='inverted'),
      dict(fc6__dropout=0.25),
      dict(dtype='bfloat16'),
  )
  def test_every_switch_changes_the_output(self, **fields):
    base, params = self._logits(self._config())
    switched, _ = self._logits(self._config(**fields), params)
    self.assertTrue(np.all(np.isfinite(switched)))
    self.assertGreater(np.abs(switched - base).max(), 1e-6)

  def test_max_pooling_and_relu_commute(self):
    one, params = self._logits(self._config())
    other, _ = self._logits(
        self._config(conv5__after=('pool', 'activation')), params
    )
    np.testing.assert_array_equal(one, other)

  def test_bfloat16_is_near_float32(self):
    base, params = self._logits(self._config())
    low, _ = self._logits(self._config(dtype='bfloat16'), params)
    self.assertEqual(low.dtype, np.float32)
    np.testing.assert_allclose(low, base, atol=0.05 * np.abs(base).max())

  def test_tied_towers_equal_one_dense_tower(self):
    """Grouped layers written into an ungrouped network's zero blocks."""
    config = self._config(lrn__enabled=False)
    grouped, params = self._logits(config)
    wide = jax.tree.map(np.array, params)
    for name in ('conv2', 'conv4', 'conv5'):
      kernel = wide[name]['kernel']
      channels, features = kernel.shape[2], kernel.shape[3] // 2
      full = np.zeros((*kernel.shape[:2], 2 * channels, 2 * features))
      full[:, :, :channels, :features] = kernel[..., :features]
      full[:, :, channels:, features:] = kernel[..., features:]
      wide[name]['kernel'] = full.astype(np.float32)
    plain, _ = self._logits(self._config(lrn__enabled=False, towers=1), wide)
    np.testing.assert_allclose(grouped, plain, rtol=1e-4, atol=1e-5)


class ErrorTest(parameterized.TestCase):

  @parameterized.parameters(
      (dict(towers=3), 'model.towers is 3'),
      (dict(activation='gelu'), "model.activation is 'gelu'.*'relu'"),
      (dict(dtype='float16'), 'model.dtype'),
      (dict(dropout_kind='none'), 'model.dropout_kind'),
      (dict(conv2__features=255), 'model.conv2.features is 255.*2 towers'),
      (dict(fc6__dropout=1.0), 'model.fc6.dropout is 1.0'),
      (dict(conv1__after=('norm',)), r"model.conv1.after is \('norm',\)"),
      (dict(conv3__reads='all'), 'model.conv3.reads'),
      (dict(conv1__features=0), "conv2.reads is 'own': conv2 is the first"),
      (dict(pool__stride=4), 'model.pool has window 3 and stride 4'),
      (dict(num_classes=0), 'num_classes'),
      (dict(conv1__padding=(3,)), 'model.conv1.padding'),
      (dict(conv2__stride=0), 'model.conv2.stride is 0'),
      (dict(lrn__n=0), 'model.lrn.n is 0'),
      (dict(name='vgg'), "model.name is 'vgg'"),
      (dict(num_classes=101, fc8__reads='own'), "fc8.reads is 'own'.*101"),
  )
  def test_message(self, fields, message):
    config = testing.RECIPES['paper'].get_config('imagenet2012')
    config.model = model_config(**fields)
    with self.assertRaisesRegex(ConfigError, message):
      models.check(config)
      create_model(config.model)


if __name__ == '__main__':
  absltest.main()
