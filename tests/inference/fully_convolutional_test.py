"""Dense views: against the crop network, PyTorch's convolutions and NumPy."""

import functools
import io
import pathlib
import tempfile
import types
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet import models
from alexnet.config.errors import ConfigError
from alexnet.cuda_convnet import parser
from alexnet.cuda_convnet import towers as towers_lib
from alexnet.cuda_convnet.model import CudaConvnet
from alexnet.evaluation import dense_views, session
from alexnet.inference import fully_convolutional, loading
from alexnet.inference.views import Views
from alexnet.metrics.console import Console
from alexnet.models import create_model
from alexnet.training import trainer
from input_pipeline.errors import ImageError
from tests import definitions, oracle, testing, tiny
from tests.training.trainer_test import logits_of

try:
  import torch
  from torch.nn import functional

  from tests.models import torch_test
except ImportError:
  torch = None

CLASSES = 10


@functools.cache
def network(recipe):
  """(the model, its parameters as NumPy, none of which is alike)."""
  config = testing.narrow_config(recipe=testing.RECIPES[recipe])
  config.model.num_classes = CLASSES
  model = create_model(config.model)
  params = testing.init_of(model)(
      jax.random.key(0), np.zeros((1, 224, 224, 3))
  )['params']
  return model, jax.tree.map(np.asarray, params)


def noise(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return 60 * rng.standard_normal((2, height, width, 3), np.float32)


def ours(recipe, images):
  model, params = network(recipe)
  apply = testing.apply_of(models.everywhere(model))
  logits = apply({'params': params}, images)
  return np.asarray(logits)


class NetworkTest(parameterized.TestCase):

  @parameterized.parameters('paper', '2012')
  def test_one_place_is_the_ordinary_network(self, recipe):
    model, params = network(recipe)
    images = noise(224, 224)
    got = ours(recipe, images)
    self.assertEqual(got.shape, (2, 1, 1, CLASSES))
    ordinary = jax.jit(model.apply)({'params': params}, images)
    np.testing.assert_allclose(got[:, 0, 0], ordinary, rtol=1e-4, atol=1e-6)

  @parameterized.product(
      recipe=('paper', '2012'), size=((288, 288), (320, 320), (256, 300))
  )
  def test_pytorchs_convolutions(self, recipe, size):
    if torch is None:
      self.skipTest('no PyTorch: pip install -r requirements-bench.txt')
    images = noise(*size)
    expected = by_torch(network(recipe)[1], images, recipe)
    got = ours(recipe, images)
    self.assertEqual(got.shape, expected.shape)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    self.assertLess(error, 1e-5)

  @parameterized.parameters('paper', '2012')
  def test_every_window_by_numpy(self, recipe):
    """Maps by NumPy; then fc6 to fc8 of each of their 3 x 4 windows."""
    settings = oracle.PAPER if recipe == 'paper' else oracle.RUN_145
    params = jax.tree.map(np.float64, network(recipe)[1])
    images = noise(288, 320)[:1]
    maps = maps_by_numpy(settings, params, images.astype(np.float64))
    self.assertEqual(maps.shape, (1, 8, 9, 12))
    expected = np.empty((1, 3, 4, CLASSES))
    for i, j in np.ndindex(3, 4):
      x = maps[:, i : i + 6, j : j + 6].reshape(1, -1)
      for name in ('fc6', 'fc7'):
        x = x @ params[name]['kernel'] + params[name]['bias']
        x = np.maximum(x, 0) * 0.5  # Dropout in testing (§4.2).
      expected[:, i, j] = x @ params['fc8']['kernel'] + params['fc8']['bias']
    got = ours(recipe, images)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    self.assertLess(error, 1e-5)

  def test_layers_of_separate_towers(self):
    """Run #150: fc6 and fc7 read their own tower; one window, by crops."""
    config = testing.narrow_config()
    config.model.num_classes = CLASSES
    for name in ('conv3', 'fc6', 'fc7'):
      config.model[name].reads = 'own'
    model = create_model(config.model)
    images = noise(224, 224)
    params = testing.init_of(model)(jax.random.key(1), images)
    got = testing.apply_of(models.everywhere(model))(params, images)
    np.testing.assert_allclose(
        got[:, 0, 0], testing.apply_of(model)(params, images), rtol=1e-4,
        atol=1e-6,
    )

  def test_small_images(self):
    with self.assertRaisesRegex(ValueError, '5 x 5 are smaller than the 6 x 6'):
      ours('paper', noise(192, 192))

  def test_definition_files(self):
    texts = map(definitions.text, definitions.run_145(**definitions.NARROW))
    of_file = CudaConvnet(towers_lib.pair(parser.parse(*texts)))
    with self.assertRaisesRegex(ConfigError, 'definition file: use --views'):
      models.everywhere(of_file)


def by_torch(params, images, recipe):
  """[batch, down, across, classes]: every layer a convolution, in float64."""
  params = torch_test.to_torch(params, torch.float64)
  weights = lambda name: (params[name]['kernel'], params[name]['bias'])
  relu, normalize = functional.relu, torch_test.normalize
  border = (1, 2) * 2 if recipe == 'paper' else (0, 3) * 2
  x = torch.tensor(images.transpose(0, 3, 1, 2).copy(), dtype=torch.float64)
  x = functional.conv2d(functional.pad(x, border), *weights('conv1'), stride=4)
  if recipe == 'paper':
    x = torch_test.pool(normalize(relu(x), recipe))
  else:
    x = relu(torch_test.pool(normalize(x, recipe)))
  for name, padding, groups in (
      ('conv2', 2, 2), ('conv3', 1, 1), ('conv4', 1, 2), ('conv5', 1, 2)
  ):
    x = functional.conv2d(x, *weights(name), padding=padding, groups=groups)
    x = relu(x)
    if name == 'conv2':
      x = normalize(x, recipe)
      x = torch_test.spatial(x) if recipe == '2012' else x
    if name in ('conv2', 'conv5'):
      x = torch_test.pool(x)
  for name, side in (('fc6', 6), ('fc7', 1), ('fc8', 1)):
    kernel, bias = weights(name)  # [features, rows * columns * channels]
    kernel = kernel.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)
    x = functional.conv2d(x, kernel, bias)
    x = x if name == 'fc8' else relu(x) * 0.5
  return x.detach().numpy().transpose(0, 2, 3, 1)


def maps_by_numpy(settings, params, images):
  """What fc6 reads, by tests/oracle.py's operations."""
  towers = [images, images]
  operations = {
      'relu': oracle.relu,
      'lrn': lambda x: oracle.lrn(x, settings.lrn_alpha),
      'spatial': oracle.spatial,
      'pool': lambda x: oracle.max_pool(x, 3),
  }
  for name, stride, border, order in (
      ('conv1', 4, settings.conv1_border, settings.conv1_order),
      ('conv2', 1, (2, 2), settings.conv2_order),
      ('conv3', 1, (1, 1), 'relu'),
      ('conv4', 1, (1, 1), 'relu'),
      ('conv5', 1, (1, 1), settings.conv5_order),
  ):
    if name == 'conv3':
      towers = [np.concatenate(towers, -1)] * 2
    kernels = np.split(params[name]['kernel'], 2, -1)
    biases = np.split(params[name]['bias'], 2, -1)
    towers = [
        oracle.convolution(x, kernel, bias, stride, border)[0]
        for x, kernel, bias in zip(towers, kernels, biases)
    ]
    for operation in order.split():
      towers = [operations[operation](x)[0] for x in towers]
  return np.concatenate(towers, -1)


class ViewsTest(absltest.TestCase):

  def test_the_mean_is_resized(self):
    """A mean that rises from left to right by a level in a pixel of four."""
    ramp = np.arange(8, dtype=np.float32)
    mean = np.broadcast_to(ramp[None, :, None], (8, 8, 3))
    views = Views(mean, 'centre', mirror=True, crop=6)
    image = np.full((1, 16, 16, 3), 100, np.uint8)
    one, mirrored = np.asarray(views.dense({'image': image}))[0]
    # Middles of pixels: of pixel 5 of 16 at 2.75 of 8, less a half.
    np.testing.assert_allclose(one[:, 5], 100 - 2.25, rtol=1e-6)
    np.testing.assert_array_equal(mirrored, one[:, ::-1])
    same = np.full((1, 8, 8, 3), 7, np.uint8)
    got = Views(mean, 'under', mirror=False, crop=6).dense({'image': same})
    np.testing.assert_array_equal(got[0, 0], 7 - mean)


class HeatMapTest(absltest.TestCase):

  def test_by_hand(self):
    """1 x 2 places, 32 pixels apart, of an image of 224 x 256."""
    probabilities = np.array([[[0.2, 0.8], [0.6, 0.4]]], np.float32)
    one = fully_convolutional.Map(probabilities, (224, 256))
    heat = fully_convolutional.heat_map([one], 0, (224, 256), 32, 224)
    self.assertEqual(heat.shape, (224, 256))
    # Middles at 112 and 144; between these linear.
    np.testing.assert_allclose(heat[:, [0, 100, 111]], 0.2, atol=0.01)
    np.testing.assert_allclose(heat[:, 127], 0.2 + 0.4 * 15.5 / 32, atol=1e-6)
    np.testing.assert_allclose(heat[:, [145, 255]], 0.6, rtol=1e-6)
    # Another scale, of which this size is a half.
    half = np.full((9, 10, 2), 0.5, np.float32)
    other = fully_convolutional.Map(half, (480, 512))
    both = fully_convolutional.heat_map(
        [one, other], 0, (224, 256), 32, 224
    )
    np.testing.assert_allclose(both, (heat + 0.5) / 2, rtol=1e-6)

  def test_scales_that_are_cut_to_other_multiples(self):
    """A photo of 640 x 560: 352 x 320 and 480 x 448 of 366 x 320, 512 x 448."""
    hot = np.zeros((4, 5, 2), np.float32)
    hot[:, 4, 0] = 1  # Its middle is at 240 of 352, 64 from that of the photo.
    one = fully_convolutional.Map(hot, (320, 352))
    heat = fully_convolutional.heat_map([one], 0, (448, 480), 32, 224)
    # So it is 64 * 448 / 320 = 89.6 from 240 here. Pixel 328's middle is 1.1
    # before that, 11 / 14 of a pixel of the map; 329's is 0.1 before.
    np.testing.assert_allclose(heat[:, 328], 1 - 11 / 14 / 32, atol=1e-6)
    np.testing.assert_allclose(heat[:, 329], 1 - 1 / 14 / 32, atol=1e-6)
    np.testing.assert_allclose(heat[:, 330:], 1, atol=1e-6)

  def test_scale_of_a_map(self):
    config = testing.narrow_config()
    self.assertEqual(fully_convolutional.map_scale(config), 448)
    config.dataset.size = 512
    self.assertEqual(fully_convolutional.map_scale(config), 512)

  def test_stride(self):
    config = testing.narrow_config()
    config.model.num_classes = CLASSES
    self.assertEqual(create_model(config.model).stride, 32)
    # Left out, but for its pooling.
    config.model.conv2.features = 0
    self.assertEqual(create_model(config.model).stride, 32)
    config.model.conv1.after = ('activation',)
    self.assertEqual(create_model(config.model).stride, 16)


class StreamTest(absltest.TestCase):
  """Photos of many shapes, and a network that says how bright they are."""

  def setUp(self):
    super().setUp()
    self.batches = []
    self.read = 0
    self.enterContext(
        mock.patch.object(fully_convolutional, '_maps_of', lambda model: model)
    )

  def compiled(self, name, function):
    def brightness(batch):
      self.batches.append(batch.shape)
      return batch.mean((1, 2, 3), keepdims=True)
    return brightness

  def stream(self, sizes, scales=None, batch_size=8):
    config = testing.narrow_config()
    network = types.SimpleNamespace(
        config=config, class_names=('a',), compiled=self.compiled,
        inputs=types.SimpleNamespace(aspect='keep', background=()),
        model=types.SimpleNamespace(stride=32),
    )

    def photo(number, size):
      self.read += 1
      return np.full((*size, 3), number, np.uint8)

    photos = [
        size if isinstance(size, pathlib.Path)
        else functools.partial(photo, number, size)
        for number, size in enumerate(sizes)
    ]
    return fully_convolutional.stream(network, photos, scales, batch_size)

  def check(self, results, sizes):
    self.assertEqual(len(results), len(sizes))
    for number, (maps, size) in enumerate(zip(results, sizes)):
      if isinstance(size, pathlib.Path):
        self.assertIsInstance(maps, ImageError)
        continue
      for one in maps:
        self.assertEqual(one.size, size)
        np.testing.assert_allclose(one.probabilities, number)

  def test_waits_for_others_of_a_shape(self):
    """20 of each of three shapes in turn: two batches of eight, one of four."""
    sizes = [(256, 256), (256, 288), (320, 256)] * 20
    self.check([*self.stream(sizes)], sizes)
    self.assertEqual(sorted(shape[0] for shape in self.batches),
                     [4] * 3 + [8] * 6)

  def test_order_with_errors_and_rare_shapes(self):
    sizes = [(512, 256), *[(256, 256)] * 20, pathlib.Path('gone.jpg'),
             (256, 640), *[(256, 288)] * 3]
    self.check([*self.stream(sizes)], sizes)

  def test_a_rare_shape_does_not_fill_the_memory(self):
    """The first is alone of its shape; four of the others are held."""
    sizes = [(288, 256), *[(256, 256)] * 200]
    room = 5 * 256 * 256 * 3
    self.enterContext(mock.patch.object(fully_convolutional, '_WAITING', room))
    stream = self.stream(sizes, batch_size=2)
    results = [next(stream)]
    # Four wait, one is over; two times two (and one) are read ahead.
    self.assertLess(self.read, 16)
    self.check([*results, *stream], sizes)

  def test_scales(self):
    """Each of two photos at two scales; one that is given twice counts once."""
    results = [*self.stream([(256, 256)] * 2, scales=(256, 288, 256))]
    self.assertEqual([[one.size for one in maps] for maps in results],
                     [[(256, 256), (288, 288)]] * 2)
    self.assertEqual(sorted(self.batches), [(4, 256, 256, 3), (4, 288, 288, 3)])
    with self.assertRaisesRegex(ConfigError, '--scales is 256,2049: expected'):
      next(self.stream([(256, 256)], scales=(256, 2049)))


class RunTest(parameterized.TestCase):
  """Evaluation and photos of a run, against its own module by hand."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    images = testing.write_images(cls.directory / 'images', 3, 4)
    config = tiny.get_config()
    config.dataset.train_dir = str(images)
    config.duration = '2 steps'
    config.ten_views = False
    cls.workdir = cls.directory / 'run'
    console = Console(io.StringIO())
    trainer.create(config, cls.workdir, console).train()
    cls.finished = session.open_run(cls.workdir, console)
    cls.network = loading.load(cls.workdir)
    cls.mean = np.float64(cls.finished.task.pipeline.mean_image)

  def by_hand(self, image):
    """[down, across, classes] of [height, width, 3] pixels, less the mean."""
    model = models.everywhere(self.finished.task.model)
    mirrored = image[:, ::-1]
    logits = logits_of(model, self.finished, np.stack([image, mirrored]))
    exp = np.exp(logits)
    one, two = exp / exp.sum(-1, keepdims=True)
    return (one + two[:, ::-1]) / 2

  def test_evaluation(self):
    """Of the squares at 256 and 288 pixels, and the mean of both."""
    source = self.finished.task.pipeline.evaluation
    expected = []
    for scale in (256, 288):
      mean = np.asarray(
          jax.image.resize(self.mean, (scale, scale, 3), 'linear')
      )
      of_scale = []
      for index in range(len(source)):
        image = Image.open(source.describe(index)).resize(
            (scale, scale), Image.Resampling.BICUBIC, box=(5, 0, 45, 40)
        )
        maps = self.by_hand(np.asarray(image) - mean)
        of_scale.append(maps.mean((0, 1)))
      expected.append(np.stack(of_scale))
    got = dense_views.predict(self.finished, (256, 288))
    np.testing.assert_allclose(
        np.exp(got.log_probabilities), np.mean(expected, 0), rtol=2e-3
    )
    self.assertEqual(got.views, 2 * (2 * 2 + 3 * 3))
    output = io.StringIO()
    dense_views.evaluate(
        self.finished, (256, 288), Console(output)
    )
    lines = output.getvalue().splitlines()
    self.assertLen(lines, 3)
    self.assertRegex(lines[0], r'^dense views  top-1 .*8 places\), 256 pixels')
    self.assertRegex(lines[2], r'26 places\), mean of 2 scales')

  def test_photos(self):
    """Whole photos of three shapes, in one go, in their order."""
    rng = np.random.default_rng(0)
    photos = [
        rng.integers(0, 255, (height, width, 3), np.uint8)
        for height, width in ((256, 256), (256, 342), (300, 256), (256, 340))
    ]
    # What is over a multiple of 32 pixels goes, half at each end.
    cut = [
        photos[0], photos[1][:, 11:331], photos[2][6:294], photos[3][:, 10:330]
    ]
    results = [*fully_convolutional.stream(self.network, photos, None)]
    for seen, (one,) in zip(cut, results):
      mean = jax.image.resize(self.mean, seen.shape, 'linear')
      expected = self.by_hand(np.float64(seen) - np.asarray(mean))
      self.assertEqual(one.size, seen.shape[:2])
      np.testing.assert_allclose(one.probabilities, expected, rtol=1e-3)
    np.testing.assert_allclose(
        self.network.predict(photos[:1], views='dense')[0],
        results[0][0].probabilities.mean((0, 1)),
        rtol=1e-5,
    )

  def test_scales(self):
    config = self.network.config
    self.assertEqual(fully_convolutional.check_scales(None, config), (256,))
    parse = fully_convolutional.parse_scales
    self.assertEqual(parse(['224', '300']), (224, 300))
    self.assertIsNone(parse(None))
    with self.assertRaisesRegex(ConfigError, '--scales is 256,200: expected'):
      fully_convolutional.check_scales((256, 200), config)
    with self.assertRaisesRegex(ConfigError, '--scales is large: expected num'):
      fully_convolutional.parse_scales(['large'])


if __name__ == '__main__':
  absltest.main()
