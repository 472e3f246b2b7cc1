"""The network against Caffe's AlexNet, as the onnx package describes it.

That graph comes without weights: onnx's own tests fill it with a constant. Here
both get the same random ones, and photographs. Caffe's network differs from the
paper in what a config can say: images of 227 pixels, which are 224 and our
three rows and columns of zeros at the bottom and right, k = 1, alpha divided by
n, windows of normalization that cross the seam, and inverted dropout.
"""

import functools
import pathlib

import jax
import numpy as np
import onnx
import onnxruntime
import sklearn.datasets
from absl.testing import absltest, parameterized

from alexnet.models import create_model
from configs import alexnet
from input_pipeline import preprocessing
from input_pipeline.statistics import IMAGENET_CHANNEL_MEANS

GRAPH = (
    pathlib.Path(onnx.__file__).parent
    / 'backend/test/data/light/light_bvlc_alexnet.onnx'
)
IMAGENETTE = (
    pathlib.Path(__file__).parents[3] / 'shared/data/imagenette/val'
)
BATCH = 2
# Of the largest number of an array; float32 in both. 3e-6 was seen.
TOLERANCE = 2e-5
# What each of our layers computes, before its activation, by the graph's names.
OUTPUTS = {
    'conv1': 'r0', 'conv2': 'r4', 'conv3': 'r8', 'conv4': 'r10',
    'conv5': 'r12', 'fc6': 'r16', 'fc7': 'r20', 'fc8': 'r24',
}


def caffe_config(**fields):
  """The fields of Caffe's network; others by their dotted names, __ the dot."""
  config = alexnet.get_config('imagenet2012').model
  config.num_classes = 1000
  config.conv1.padding = (0, 3)
  config.lrn.k = 1.0
  config.lrn.divide_alpha_by_n = True
  config.lrn.across_towers = True
  config.dropout_kind = 'inverted'
  for name, value in fields.items():
    config.update_from_flattened_dict({name.replace('__', '.'): value})
  return config


@functools.cache
def weights():
  """Random kernels and biases, {name in the graph: as Caffe lays them out}.

  [out, in, height, width], or [out, in] with inputs in the order [channel,
  height, width]. Deviations keep activities alike from layer to layer, so that
  normalization has about 100 levels to work on.
  """
  rng = np.random.default_rng(0)
  result = {}
  for name, (out, *read) in {
      'conv1': (96, 3, 11, 11), 'conv2': (256, 48, 5, 5),
      'conv3': (384, 256, 3, 3), 'conv4': (384, 192, 3, 3),
      'conv5': (256, 192, 3, 3), 'fc6': (4096, 9216), 'fc7': (4096, 4096),
      'fc8': (1000, 4096),
  }.items():
    kernel = rng.standard_normal((out, *read), np.float32)
    # Logits of a few units, or softmax would know one class only.
    gain = 0.05 if name == 'fc8' else 1.4
    kernel *= np.float32(gain / np.prod(read) ** 0.5)
    result[f'{name}_w_0'] = kernel
    result[f'{name}_b_0'] = rng.normal(0, 1, out).astype(np.float32)
  return result


@functools.cache
def our_parameters():
  """The same as our network has them."""
  params = {}
  for name in OUTPUTS:
    kernel = weights()[f'{name}_w_0']
    if kernel.ndim == 4:
      kernel = kernel.transpose(2, 3, 1, 0)
    elif name == 'fc6':
      planes = kernel.reshape(4096, 256, 6, 6)
      kernel = planes.transpose(2, 3, 1, 0).reshape(9216, 4096)
    else:
      kernel = kernel.T
    params[name] = {
        'kernel': np.ascontiguousarray(kernel), 'bias': weights()[f'{name}_b_0']
    }
  return params


@functools.cache
def session():
  """The graph, with its weights as inputs and all layers as outputs."""
  model = onnx.load(GRAPH)
  graph = model.graph
  tensor = lambda name, shape: onnx.helper.make_tensor_value_info(
      name, onnx.TensorProto.FLOAT, shape
  )
  nodes = [node for node in graph.node if node.op_type != 'ConstantOfShape']
  # What remains of the initializers: the shape of the flattened images.
  (flat,) = (i for i in graph.initializer if i.name == 'OC2_DUMMY_1')
  assert onnx.numpy_helper.to_array(flat).tolist() == [1, 9216]
  flat = onnx.numpy_helper.from_array(np.array([BATCH, 9216]), flat.name)
  inputs = {'data_0': (BATCH, 3, 227, 227)}
  inputs |= {name: array.shape for name, array in weights().items()}
  outputs = [*OUTPUTS.values(), 'prob_1']
  changed = onnx.helper.make_graph(
      nodes,
      graph.name,
      [tensor(name, shape) for name, shape in inputs.items()],
      [tensor(name, None) for name in outputs],
      initializer=[flat],
  )
  changed = onnx.helper.make_model(
      changed, opset_imports=model.opset_import, ir_version=8
  )
  return onnxruntime.InferenceSession(changed.SerializeToString())


def by_onnxruntime(images):
  """{our layer's name or 'prob_1': output} of [batch, 224, 224, 3]."""
  planes = np.pad(images, ((0, 0), (0, 3), (0, 3), (0, 0)))
  planes = np.ascontiguousarray(planes.transpose(0, 3, 1, 2))
  names = [*OUTPUTS.values(), 'prob_1']
  outputs = session().run(names, {'data_0': planes, **weights()})
  outputs = [
      y.transpose(0, 2, 3, 1) if y.ndim == 4 else y for y in outputs
  ]
  return dict(zip([*OUTPUTS, 'prob_1'], outputs))


def ours(images, **fields):
  """The same of our network."""
  model = create_model(caffe_config(**fields))

  @jax.jit
  def run(params, images):
    logits, state = model.apply(
        {'params': params}, images, capture_intermediates=True
    )
    outputs = {
        name: state['intermediates'][name]['__call__'][0] for name in OUTPUTS
    }
    return {**outputs, 'prob_1': jax.nn.softmax(logits)}

  return jax.device_get(run(our_parameters(), images))


def errors(got, expected):
  return {
      name: np.abs(got[name] - y).max() / np.abs(y).max()
      for name, y in expected.items()
  }


def network_input(files):
  """[batch, 224, 224, 3]: the centres of photographs less the mean colour."""
  squares = [
      preprocessing.to_square(file.read_bytes(), file.name) for file in files
  ]
  images = np.stack(squares)[:, 16:240, 16:240] - IMAGENET_CHANNEL_MEANS
  return images.astype(np.float32)


def landmarks():
  """The two photographs that come with scikit-learn."""
  folder = pathlib.Path(sklearn.datasets.__file__).parent / 'images'
  return network_input([folder / 'china.jpg', folder / 'flower.jpg'])


class CaffeTest(parameterized.TestCase):

  def check(self, images):
    expected = by_onnxruntime(images)
    for name, error in errors(ours(images), expected).items():
      self.assertLess(error, TOLERANCE, name)
    # The photographs are told apart, and no class has all the probability.
    one, other = expected['prob_1']
    self.assertGreater(np.abs(one - other).max(), 1e-3)
    self.assertLess(one.max(), 0.5)

  def test_graph(self):
    """It is the network that this file's first lines say."""
    nodes = [
        n for n in onnx.load(GRAPH).graph.node if n.op_type != 'ConstantOfShape'
    ]
    self.assertEqual(
        ' '.join(n.op_type for n in nodes),
        'Conv Relu LRN MaxPool Conv Relu LRN MaxPool Conv Relu Conv Relu Conv '
        'Relu MaxPool Reshape Gemm Relu Dropout Gemm Relu Dropout Gemm Softmax',
    )

  def test_photographs_of_scikit_learn(self):
    self.check(landmarks())

  def test_photographs_of_imagenette(self):
    files = sorted(IMAGENETTE.glob('*/*'))
    if len(files) < BATCH:
      self.skipTest(f'no photographs in {IMAGENETTE}')
    self.check(network_input([files[0], files[-1]]))

  @parameterized.parameters(
      ('conv1', dict(conv1__padding=(1, 2))),
      ('conv2', dict(lrn__k=2.0)),
      ('conv2', dict(lrn__divide_alpha_by_n=False)),
      ('conv2', dict(lrn__across_towers=False)),
      ('conv2', dict(conv1__after=('lrn', 'pool', 'activation'))),
      ('conv2', dict(conv1__after=('activation', 'pool', 'lrn'))),
      ('conv3', dict(spatial_norm__enabled=True)),
      ('fc7', dict(dropout_kind='paper')),
  )
  def test_sees(self, first, fields):
    """The field that differs, from the first layer that it can reach."""
    images = landmarks()
    found = errors(ours(images, **fields), by_onnxruntime(images))
    reached = list(found).index(first)
    for name in list(found)[:reached]:
      self.assertLess(found[name], TOLERANCE, name)
    for name in list(found)[reached:]:
      self.assertGreater(found[name], 100 * TOLERANCE, name)


if __name__ == '__main__':
  absltest.main()
