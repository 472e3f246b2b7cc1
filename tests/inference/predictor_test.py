"""A network loaded from a copy of its workdir, against Pillow and NumPy."""

import dataclasses
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

import alexnet
from alexnet import models
from alexnet.checkpointing import input_spec, workdir
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.cuda_convnet import towers as towers_lib
from alexnet.cuda_convnet.model import CudaConvnet
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.models import layers
from alexnet.training import trainer
from input_pipeline.errors import DataError, ImageError
from tests import definitions, oracle, testing, tiny
from tests.cuda_convnet import cuda_convnet_test
from tests.training.trainer_test import logits_of, softmax

ROOT = pathlib.Path(__file__).parents[2]


def silent():
  return Console(io.StringIO())


class TrainedTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(cls.directory / 'images', 3, 4)
    config = tiny.get_config()
    config.dataset.train_dir = str(cls.images)
    config.duration = '2 steps'
    config.ten_views = False
    cls.finished = trainer.create(config, cls.directory / 'run', silent())
    cls.finished.train()
    # All that a user has taken with him; the images have gone.
    cls.workdir = shutil.copytree(cls.directory / 'run', cls.directory / 'copy')
    cls.photos = sorted(cls.images.rename(cls.directory / 'x').rglob('*.jpg'))
    cls.network = alexnet.load(str(cls.workdir))  # As a user does.
    # Pixels by Pillow, the plain module.
    cls.squares = np.stack([cls.square_of(photo) for photo in cls.photos])

  @staticmethod
  def square_of(photo):
    """[256, 256, 3]; the photos have 50 x 40 pixels."""
    image = Image.open(photo)
    return np.asarray(
        image.resize((256, 256), Image.Resampling.BICUBIC, box=(5, 0, 45, 40))
    )

  def crops(self):
    """(the five crops less the mean under them, by name)."""
    images = self.squares - np.float64(self.finished.task.pipeline.mean_image)
    cut = lambda top, left: images[:, top : top + 224, left : left + 224]
    return [cut(16, 16)] + [cut(t, left) for t in (0, 32) for left in (0, 32)]

  def by_hand(self, crop):
    model, state = self.finished.task.model, self.finished.state
    return softmax(logits_of(model, state, crop))

  def test_what_it_says_of_itself(self):
    self.assertEqual(
        self.network.class_names, ('class0', 'class1', 'class2')
    )
    self.assertEqual(self.network.step, 2)
    self.assertEqual(
        self.network.layers,
        ('pool1', 'pool2', 'conv3', 'conv4', 'pool5', 'fc6', 'fc7', 'fc8'),
    )
    self.assertEqual(self.network.config.model.num_classes, 3)
    jax.tree.map(
        np.testing.assert_array_equal,
        self.network.params,
        self.finished.state.params,
    )

  def test_api(self):
    """`alexnet` itself is light, and says where its former part has gone."""
    code = 'import sys, alexnet; sys.exit("jax" in sys.modules)'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT)
    self.assertEqual(result.returncode, 0)
    self.assertEqual(alexnet.load(self.workdir, step=2).step, 2)
    with self.assertRaisesRegex(CheckpointError, 'no checkpoint of step 0'):
      alexnet.load(self.workdir, step=0)
    with self.assertRaisesRegex(ImportError, r'write `import alexnet` and'):
      from alexnet import trained  # noqa: F401
    with self.assertRaisesRegex(AttributeError, "no attribute 'nothing'"):
      _ = alexnet.nothing

  def test_fingerprint(self):
    same = self.network.fingerprint()
    self.assertEqual(loading.load(self.workdir).fingerprint(), same)
    params = jax.tree.map(np.array, self.network.params)
    params['fc8']['bias'][-1] += 1e-6
    other = dataclasses.replace(self.network, params=params)
    self.assertNotEqual(other.fingerprint(), same)

  def test_squares(self):
    """Two resizings round twice: at most a level from Pillow's own order."""
    got = self.network.squares(self.photos)
    self.assertEqual(got.dtype, np.uint8)
    self.assertLessEqual(np.abs(got - np.int16(self.squares)).max(), 1)
    arrays = [np.asarray(Image.open(photo)) for photo in self.photos]
    np.testing.assert_array_equal(self.network.squares(arrays), got)
    self.assertEqual(self.network.squares([]).shape, (0, 256, 256, 3))

  @parameterized.parameters(1, 12)
  def test_predict(self, count):
    photos, squares = self.photos[:count], self.squares[:count]
    for given in (photos, [*map(str, photos)], squares):
      got = self.network.predict(given)
      self.assertEqual(got.shape, (count, 3))
      self.assertEqual(got.dtype, np.float32)
      centre = self.by_hand(self.crops()[0])
      np.testing.assert_allclose(got, centre[:count], rtol=2e-3)

  def test_ten_views(self):
    five = self.crops()
    views = five + [crop[:, :, ::-1] for crop in five]
    expected = np.mean([self.by_hand(crop) for crop in views], 0)
    np.testing.assert_allclose(
        self.network.predict(self.squares, views='ten'), expected, rtol=1e-4
    )

  def test_features_of_each_layer(self):
    """By the NumPy network of tests/oracle.py, layer for layer."""
    params = jax.tree.map(np.float64, self.finished.state.params)
    images = self.crops()[0][:2]
    outputs = outputs_by_numpy(params, images)
    for layer in self.network.layers:
      got = self.network.features(self.squares[:2], layer)
      self.assertEqual(got.dtype, np.float32)
      want = outputs[layer]
      np.testing.assert_allclose(
          got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max(), err_msg=layer
      )

  def test_stream_goes_on_after_broken_files(self):
    broken = self.directory / 'broken.jpg'
    broken.write_bytes(self.photos[0].read_bytes()[:300])
    paths = [self.photos[0], broken, self.directory / 'no.png', self.photos[1]]
    results = [*self.network.stream(paths, batch_size=2)]
    expected = self.network.predict(self.photos[:2])
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(results[3], expected[1], rtol=1e-5)
    for place in (1, 2):
      self.assertIsInstance(results[place], ImageError)
      self.assertEqual(results[place].name, str(paths[place]))
    with self.assertRaisesRegex(ImageError, 'broken.jpg'):
      self.network.predict(paths)

  def test_stream_reads_only_a_little_ahead(self):
    read = []

    def image(index):
      read.append(index)
      return self.squares[index % 12]

    images = (lambda i=i: image(i) for i in range(1000))
    stream = self.network.stream(images, layer='fc8', batch_size=4)
    for _ in range(10):
      next(stream)
    self.assertLess(len(read), 40)
    stream.close()

  def test_what_is_not_an_image(self):
    for image in (
        self.squares[0] / 255, self.squares[0, :, :, :2], self.squares[0, 0], 7
    ):
      with self.assertRaisesRegex(DataError, r'\[height, width, 3\] of uint8'):
        self.network.predict([image])

  def test_unknown_views(self):
    with self.assertRaisesRegex(ConfigError, "is 'nine': expected 'dense'"):
      self.network.predict(self.squares[:1], views='nine')

  def test_scales_of_other_views(self):
    for arguments in ({}, {'views': 'ten'}, {'layer': 'fc7'}):
      with self.assertRaisesRegex(ConfigError, r'is \(256,\), which needs'):
        next(self.network.stream(self.squares, scales=[256], **arguments))

  def test_unknown_layer(self):
    with self.assertRaisesRegex(ConfigError, "no layer 'conv1': it has pool1,"):
      self.network.features(self.squares[:1], 'conv1')

  def test_steps(self):
    self.assertEqual(loading.load(self.workdir, step=2).step, 2)
    with self.assertRaisesRegex(CheckpointError, 'step 3: it has 2'):
      loading.load(self.workdir, step=3)
    with self.assertRaisesRegex(CheckpointError, 'is not the workdir of a run'):
      loading.load(self.directory)

  def test_older_run(self):
    """Without inputs.npz the data is asked."""
    older = shutil.copytree(self.workdir, self.directory / 'older')
    (older / input_spec.FILE).unlink()
    with self.assertRaisesRegex(DataError, 'no inputs.npz, .*is not a folder'):
      loading.load(older)
    network = loading.load(
        older, overrides={'dataset.train_dir': str(self.directory / 'x')}
    )
    np.testing.assert_array_equal(
        network.inputs.mean_image, self.network.inputs.mean_image
    )
    self.assertEqual(network.class_names, self.network.class_names)

  def test_older_run_with_some_of_its_classes(self):
    """Two of three would be taken for the first two outputs."""
    older = shutil.copytree(self.workdir, self.directory / 'two classes')
    (older / input_spec.FILE).unlink()
    folder = self.directory / 'two'
    for name in ('class1', 'class2'):
      shutil.copytree(self.directory / 'x' / name, folder / name)
    moved = {'dataset.train_dir': str(folder)}
    with self.assertRaisesRegex(
        DataError, 'two has 2 classes and the network 3 outputs'
    ):
      loading.load(older, overrides=moved)
    # A run may have been asked for more outputs than classes.
    network = loading.load(older, overrides={**moved, 'model.num_classes': 3})
    names = ('class1', 'class2', 'output 2')
    self.assertEqual(network.class_names, names)
    (older / workdir.ENVIRONMENT).write_text(
        '{"sessions": [{"command": ["main.py", "--config.model.num_classes=3"]}'
        ']}'
    )
    self.assertEqual(loading.load(older, overrides=moved).class_names, names)

  def test_damaged_inputs(self):
    damaged = shutil.copytree(self.workdir, self.directory / 'damaged')
    data = (damaged / input_spec.FILE).read_bytes()
    (damaged / input_spec.FILE).write_bytes(data[:1000])
    with self.assertRaisesRegex(CheckpointError, r'inputs\.npz .*copy it'):
      loading.load(damaged)


class DefinitionTest(absltest.TestCase):

  def test_outputs_of_run_145(self):
    """Of the authors' file and of configs/alexnet_2012.py, by their names."""
    texts = definitions.run_145(**definitions.NARROW)
    of_file = CudaConvnet(towers_lib.pair(cuda_convnet_test.parse(*texts)))
    config = cuda_convnet_test.narrow_2012()
    model = models.create_model(config.model)
    images = cuda_convnet_test.images(2)
    params = testing.init_of(model)(jax.random.key(0), images)['params']
    outputs = lambda model, params: testing.apply_of(model)(
        {'params': params}, images, mutable=layers.OUTPUTS
    )[1]
    ours = outputs(model, params)
    theirs = outputs(of_file, cuda_convnet_test.renamed(params))
    names = {
        'pool1': 'pool1', 'pool2': 'pool2', 'conv3': 'conv3', 'conv4': 'conv4',
        'pool5': 'pool3', 'fc6': 'fcx', 'fc7': 'fcxb', 'fc8': 'head',
    }
    self.assertEqual(model.layer_names, tuple(names))
    self.assertContainsSubset(names.values(), of_file.layer_names)
    self.assertNotIn('data', of_file.layer_names)
    for name, node in names.items():
      one, other = layers.kept(ours, name), layers.kept(theirs, node)
      np.testing.assert_allclose(
          one, other, rtol=1e-4, atol=1e-5, err_msg=name
      )


class InputsTest(absltest.TestCase):

  def test_written_and_read(self):
    """Class names may be bytes that are not text, or look like a NumPy text."""
    directory = pathlib.Path(self.create_tempdir().full_path)
    rng = np.random.default_rng(0)
    names = ('a', 'ünï ', b'\xff'.decode(errors='surrogateescape'))
    one = input_spec.Inputs(
        names, rng.random((4, 4, 3), np.float32), 'warp', np.arange(3.0),
        np.eye(3),
    )
    input_spec.save(directory, one)
    other = input_spec.load(directory)
    self.assertEqual(other.class_names, names)
    self.assertEqual(other.aspect, 'warp')
    np.testing.assert_array_equal(other.mean_image, one.mean_image)
    np.testing.assert_array_equal(other.deviations, one.deviations)
    np.testing.assert_array_equal(other.eigenvectors, one.eigenvectors)
    self.assertIsNone(input_spec.load(directory / 'none'))


def outputs_by_numpy(params, images):
  """{layer: output} of the paper's network, both towers side by side."""
  outputs, towers = {}, [images, images]

  def layer(name, operation, reads='own'):
    nonlocal towers
    if reads == 'both':
      towers = [np.concatenate(towers, -1)] * 2
    kernels = np.split(params[name]['kernel'], 2, -1)
    biases = np.split(params[name]['bias'], 2, -1)
    towers = [
        operation(x, *of_tower)[0]
        for x, *of_tower in zip(towers, kernels, biases)
    ]

  def each(operation):
    nonlocal towers
    towers = [operation(x)[0] for x in towers]

  def keep(name):
    outputs[name] = np.concatenate(towers, -1)

  def conv(stride, border):
    return lambda x, k, b: oracle.convolution(x, k, b, stride, border)

  def relu_lrn_pool():
    each(oracle.relu)
    each(lambda x: oracle.lrn(x, 1e-4))
    each(lambda x: oracle.max_pool(x, 3))

  layer('conv1', conv(4, (1, 2)))
  relu_lrn_pool()
  keep('pool1')
  layer('conv2', conv(1, (2, 2)))
  relu_lrn_pool()
  keep('pool2')
  for name, reads in (('conv3', 'both'), ('conv4', 'own'), ('conv5', 'own')):
    layer(name, conv(1, (1, 1)), reads)
    each(oracle.relu)
    if name == 'conv5':
      each(lambda x: oracle.max_pool(x, 3))
    keep('pool5' if name == 'conv5' else name)
  for name in ('fc6', 'fc7'):
    layer(name, oracle.dense, 'both')
    each(oracle.relu)
    keep(name)  # Not yet halved.
    each(lambda x: (x * 0.5, None))
  # The head's classes need not divide by two.
  x = np.concatenate(towers, -1)
  outputs['fc8'] = x @ params['fc8']['kernel'] + params['fc8']['bias']
  return outputs


if __name__ == '__main__':
  absltest.main()
