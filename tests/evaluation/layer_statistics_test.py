"""Statistics of layers: by torch, on every mesh, and beside whole runs."""

import functools
import io
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.config.errors import ConfigError
from alexnet.cuda_convnet import config as definitions
from alexnet.evaluation import image_summaries, layer_statistics
from alexnet.inference import views
from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.models import create_model
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import train_step, trainer
from alexnet.training.optimizer import create_optimizer
from configs import cuda_convnet
from tests import definitions as definitions_text
from tests import testing, tiny

_CROP = 72  # Of an image that the network's maps still fit in.


def small_config(**fields):
  config = testing.narrow_config('digits')
  config.model.num_classes = 10
  for name in ('lrn', 'spatial_norm'):
    config.model[name].enabled = False
  config.update_from_flattened_dict(fields)
  return config


@functools.cache
def _initializer(model, optimizer, crop):
  return jax.jit(
      lambda key: train_step.create_state(
          model, optimizer, key, (crop, crop, 3)
      )
  )


def initial_state(model, optimizer, crop):
  return _initializer(model, optimizer, crop)(jax.random.key(0))


class MeasureTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(3)
    self.batch = {
        'image': rng.integers(0, 256, (8, _CROP + 4, _CROP + 4, 3), np.uint8),
        'label': rng.integers(0, 10, 8).astype(np.int32),
    }
    self.views = views.Views(
        np.full((_CROP + 4, _CROP + 4, 3), 120, np.float32), 'under',
        mirror=True, crop=_CROP,
    )
    config = small_config()
    self.model = create_model(config.model)
    optimizer = create_optimizer(config.optimizer)
    self.state = initial_state(self.model, optimizer, _CROP)
    # A velocity of half of each parameter, and a map that is always 0.
    kernel = self.state.params['conv3']['kernel']
    self.state.params['conv3']['kernel'] = kernel.at[..., :4].set(0)
    velocity = jax.tree.map(lambda p: -0.5 * p, self.state.params)
    self.velocity = velocity

  def measured(self, mesh, params=None, batch=None):
    params = self.state.params if params is None else params
    put = lambda tree: jax.device_put(
        tree, sharding.shardings(tree, mesh)
    )
    variables = {'params': params}
    measure = layer_statistics.make_measure(
        model=self.model, mesh=mesh, variables=variables,
        images=self.views.centre,
    )
    result = measure(
        put(variables), put(self.velocity),
        sharding.put_batch(batch or self.batch, mesh),
    )
    return {name: float(value) for name, value in result.items()}

  def mesh(self, data, tower):
    config = small_config(**{'mesh.data': data, 'mesh.tower': tower})
    return mesh_lib.create_mesh(config)

  def test_by_torch(self):
    """Both passes again, in torch, layer by layer as in Figure 2."""
    try:
      import torch
    except ImportError:
      self.skipTest('no PyTorch: pip install -r requirements-bench.txt')
    from torch.nn import functional as F

    result = self.measured(self.mesh(1, 1))
    params = {
        layer: {
            kind: torch.tensor(np.asarray(array), dtype=torch.float64)
            .requires_grad_()
            for kind, array in arrays.items()
        }
        for layer, arrays in self.state.params.items()
    }
    crop = self.batch['image'][:, 2:-2, 2:-2].astype(np.float64) - 120
    x = torch.tensor(crop).permute(0, 3, 1, 2)
    outputs = {}

    def convolve(name, x, padding, groups, stride=1):
      kernel = params[name]['kernel'].permute(3, 2, 0, 1)
      x = F.pad(x, padding)
      x = F.conv2d(x, kernel, params[name]['bias'], stride, groups=groups)
      return F.relu(x)

    pool = lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)
    x = outputs['pool1'] = pool(convolve('conv1', x, (1, 2, 1, 2), 1, 4))
    x = outputs['pool2'] = pool(convolve('conv2', x, (2,) * 4, 2))
    x = outputs['conv3'] = convolve('conv3', x, (1,) * 4, 1)
    x = outputs['conv4'] = convolve('conv4', x, (1,) * 4, 2)
    x = outputs['pool5'] = pool(convolve('conv5', x, (1,) * 4, 2))
    x = x.permute(0, 2, 3, 1).flatten(1)
    dense = lambda name, x: x @ params[name]['kernel'] + params[name]['bias']
    for name in ('fc6', 'fc7'):
      x = outputs[name] = F.relu(dense(name, x))
      x = 0.5 * x  # Dropout in a test (paper §4.2).
    outputs['fc8'] = dense('fc8', x)
    labels = torch.tensor(self.batch['label'], dtype=torch.int64)
    F.cross_entropy(outputs['fc8'], labels).backward()

    wanted = {}
    for name, x in outputs.items():
      x = x.detach().movedim(1, -1).numpy()
      x = x.reshape(-1, x.shape[-1])
      wanted[f'{name}/mean'] = x.mean()
      wanted[f'{name}/deviation'] = x.std()
      wanted[f'{name}/zeros'] = (x == 0).mean()
      wanted[f'{name}/dead'] = (x == 0).all(0).mean()
    for layer, arrays in params.items():
      for kind, array in arrays.items():
        norm = float(np.sqrt((array.detach().numpy() ** 2).sum()))
        wanted[f'{layer}/{kind}_norm'] = norm
        gradient = float(np.sqrt((array.grad.numpy() ** 2).sum()))
        wanted[f'{layer}/{kind}_gradient'] = gradient
        wanted[f'{layer}/{kind}_update'] = 0.5 if norm else 0.0
    self.assertEqual(set(result), set(wanted))
    layers = list(dict.fromkeys(name.split('/')[0] for name in result))
    self.assertEqual(layers[:8], list(outputs))  # As in the network.
    for name, value in wanted.items():
      np.testing.assert_allclose(
          result[name], value, rtol=2e-4, atol=1e-6, err_msg=name
      )
    # conv3's bias is 0 at first, so a kernel of zeros makes dead features.
    self.assertEqual(result['conv3/dead'], 4 / 16)
    self.assertGreater(result['conv3/zeros'], 4 / 16)

  @parameterized.parameters((1, 2), (2, 2))
  def test_is_the_same_on_every_mesh(self, data, tower):
    one = self.measured(self.mesh(1, 1))
    other = self.measured(self.mesh(data, tower))
    self.assertEqual(set(one), set(other))
    for name, value in one.items():
      np.testing.assert_allclose(
          other[name], value, rtol=1e-4, atol=1e-6, err_msg=name
      )

  def define(self, sections, crop=_CROP):
    """Takes the network of a definition instead."""
    config = cuda_convnet.get_config('layers.cfg')
    layers, params = map(definitions_text.text, sections)
    config.layer_params = 'params.cfg'
    config.model.layers_text, config.model.params_text = layers, params
    config.dataset.size, config.augmentation.crop_size = crop + 4, crop
    definitions.complete(config)
    self.model = create_model(config.model)
    rules = definitions.parameter_rules(config)
    optimizer = create_optimizer(config.optimizer, rules)
    self.state = initial_state(self.model, optimizer, crop)
    self.velocity = self.state.params

  @parameterized.parameters((1, 1), (2, 1), (1, 2))
  def test_layers_that_no_weights_come_before(self, data, tower):
    """The thinned images of run #120 are the same on both towers."""
    crop = definitions_text.SHAPES_SIDE
    self.define(definitions_text.shape(thinned=True), crop)
    self.batch['image'] = self.batch['image'][:, : crop + 4, : crop + 4]
    self.batch['image'][..., 2] = 120  # The mean: a feature that is dead.
    self.views = views.Views(
        np.full((crop + 4, crop + 4, 3), 120, np.float32), 'under',
        mirror=True, crop=crop,
    )
    result = self.measured(self.mesh(data, tower))
    x = self.batch['image'][:, 2:-2, 2:-2].astype(np.float64) - 120
    weights = np.exp(-((np.arange(9) - 4) ** 2) / (2 * 4**2))
    weights /= weights.sum()
    for axis in (1, 2):
      x = np.apply_along_axis(np.convolve, axis, x, weights, mode='same')
    for name, seen in (('blur0', x), ('nails0', x[:, 2::4, 2::4])):
      wanted = dict(
          mean=seen.mean(), deviation=seen.std(), zeros=(seen == 0).mean(),
          dead=1 / 3,
      )
      for what, value in wanted.items():
        np.testing.assert_allclose(
            result[f'{name}/{what}'], value, rtol=1e-4, err_msg=what
        )

  def test_a_definition_file_has_all_of_its_layers(self):
    self.define(definitions_text.run_145(**definitions_text.NARROW))
    one = self.measured(self.mesh(1, 1))
    for name in ('conv1', 'rnorm1', 'cnorm2', 'fcxb', 'head'):
      self.assertGreater(one[f'{name}/deviation'], 0)
    norms = [name for name in one if name.endswith('/kernel_norm')]
    self.assertEqual(
        [name.split('/')[0] for name in norms],
        ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fcx', 'fcxb', 'head'],
    )
    self.assertEqual(one['head/kernel_update'], 1)
    other = self.measured(self.mesh(1, 2))
    for name, value in one.items():
      np.testing.assert_allclose(
          other[name], value, rtol=1e-4, atol=1e-6, err_msg=name
      )

  def test_velocity_is_the_last_update(self):
    """By the formula of §5 on one number, and a frozen one has none."""
    config = small_config()
    optimizer = create_optimizer(config.optimizer)
    params = {'fc8': {'kernel': np.float32([2.0]), 'bias': np.float32([3.0])}}
    state = optimizer.init(params)
    rates = {'fc8': {'kernel': np.float32(0.1), 'bias': np.float32(0.1)}}
    for _ in range(2):
      updates, state = optimizer.update(
          jax.tree.map(np.ones_like, params), state, params, rates=rates
      )
      before, params = params, optax.apply_updates(params, updates)
    velocity = layer_statistics.velocity_of(state, rates)
    jax.tree.map(
        lambda v, new, old: np.testing.assert_allclose(v, new - old, rtol=1e-5),
        velocity, params, before,
    )
    frozen = {'fc8': {'kernel': np.float32(0.1), 'bias': np.float32(0.0)}}
    velocity = layer_statistics.velocity_of(state, frozen)
    self.assertEqual(float(velocity['fc8']['bias'][0]), 0)
    self.assertNotEqual(float(velocity['fc8']['kernel'][0]), 0)


_EVERYTHING = {'layer_statistics_images': 6, 'log_images': True}


class RunTest(absltest.TestCase):
  """A run with everything on beside one with everything off."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(
        cls.directory / 'images', classes=3, per_class=9
    )
    cls.plain = cls.run_in('plain', {})
    cls.plain.train()
    cls.watched = cls.run_in('watched', _EVERYTHING)
    cls.watched.train()

  @classmethod
  def run_in(cls, name, fields):
    config = tiny.get_config()
    config.dataset.train_dir = str(cls.images)
    config.ten_views = False
    config.checkpoint_every = '3 steps'
    config.dataset.size, config.augmentation.crop_size = _CROP + 4, _CROP
    config.augmentation.crop_offsets = 5
    config.update_from_flattened_dict(fields)
    console = Console(io.StringIO())
    return trainer.create(config, cls.directory / name, console)

  def records(self, name, kind='layers'):
    records = read_records(self.directory / name / 'metrics.jsonl')
    return [record for record in records if record['kind'] == kind]

  def test_training_is_the_same_to_the_bit(self):
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(self.plain.state),
        jax.device_get(self.watched.state),
    )
    for kind in ('train', 'eval_centre'):
      for one, other in zip(
          self.records('plain', kind), self.records('watched', kind)
      ):
        self.assertEqual(one['loss'], other['loss'])
    self.assertEmpty(self.records('plain'))
    self.assertFalse((self.directory / 'plain' / 'images').exists())

  def test_records(self):
    first, last = self.records('watched')
    self.assertEqual((first['step'], last['step']), (3, 6))
    kernel = jax.device_get(self.watched.state.params['fc6']['kernel'])
    np.testing.assert_allclose(
        last['fc6/kernel_norm'], np.linalg.norm(kernel), rtol=1e-5
    )
    self.assertLess(0, last['fc6/kernel_update'])
    self.assertLess(last['fc6/kernel_update'], 0.1)
    self.assertLess(0, last['pool1/deviation'])
    # As in the network, not by their letters.
    names = list(dict.fromkeys(key.split('/')[0] for key in last))
    self.assertEqual(
        names[2:10],
        ['pool1', 'pool2', 'conv3', 'conv4', 'pool5', 'fc6', 'fc7', 'fc8'],
    )

  def test_pictures(self):
    folder = self.directory / 'watched' / image_summaries.FOLDER
    self.assertEqual(
        {path.name for path in folder.iterdir()},
        {f'{name}_{step:08d}.png'
         for name in ('filters', 'predictions') for step in (3, 6)},
    )
    with Image.open(folder / 'filters_00000006.png') as image:
      # 4 kernels of 11 pixels a tower, with lines and a seam of 5; times 4.
      self.assertEqual(image.size, (4 * (4 * 12 - 1), 4 * (2 * 11 + 5)))
    with Image.open(folder / 'predictions_00000006.png') as image:
      self.assertGreater(min(image.size), 400)

  def test_more_outputs_than_classes(self):
    """The best five of 30 are not all classes of the data, which has three."""
    more = self.run_in('more', {
        'log_images': True, 'model.num_classes': 30, 'duration': '1 step'
    })
    more.train()
    folder = self.directory / 'more' / image_summaries.FOLDER
    self.assertTrue((folder / 'predictions_00000001.png').exists())

  def test_tensorboard(self):
    from tensorboardX.proto import event_pb2

    tags = {}
    for path in (self.directory / 'watched' / 'tensorboard').iterdir():
      content = path.read_bytes()
      while content:  # Length, its checksum, the event, its checksum.
        size = int.from_bytes(content[:8], 'little')
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        for value in event.summary.value:
          tags.setdefault(value.tag, []).append(value.WhichOneof('value'))
        content = content[16 + size :]
    self.assertEqual(tags['filters'], ['image'] * 2)
    self.assertEqual(tags['predictions'], ['image'] * 2)
    self.assertEqual(tags['conv1/kernel'], ['histo'] * 2)
    self.assertEqual(tags['fc8/bias'], ['histo'] * 2)
    self.assertEqual(tags['layers/fc6/zeros'], ['simple_value'] * 2)
    self.assertEqual(tags['eval_centre/top1'], ['simple_value'] * 2)
    self.assertLen(tags['colourfulness/tower_1'], 2)

  def continued(self, copy_of, name):
    """Goes on from step 3 of a finished run, as if killed at the end."""
    folder = self.directory / name
    shutil.copytree(self.directory / copy_of, folder)
    shutil.rmtree(folder / 'checkpoints' / '6')
    (folder / 'results.json').unlink()
    self.run_in(name, _EVERYTHING).train()

  def test_continued(self):
    """Each record once, and the same as of a run that was not stopped."""
    self.continued('watched', 'stopped')
    self.assertEqual(self.records('stopped'), self.records('watched'))

  def test_is_switched_on_for_a_run_that_is_under_way(self):
    self.continued('plain', 'later')
    self.assertEqual([r['step'] for r in self.records('later')], [6])
    self.assertLen([*(self.directory / 'later' / 'images').iterdir()], 2)

  def test_negative_number(self):
    with self.assertRaisesRegex(
        ConfigError, 'images is -1: expected a whole number'
    ):
      self.run_in('negative', {'layer_statistics_images': -1})


if __name__ == '__main__':
  absltest.main()
