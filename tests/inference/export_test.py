"""Networks exported for other platforms, beside what they predict here."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import export

from alexnet import models
from alexnet.checkpointing import input_spec
from alexnet.config.errors import ConfigError
from alexnet.cuda_convnet import towers as towers_lib
from alexnet.cuda_convnet.model import CudaConvnet
from alexnet.inference.predictor import TrainedNetwork
from alexnet.ops import forms
from tests import definitions, testing
from tests.cuda_convnet import cuda_convnet_test

CLASSES = ('one', 'two', 'three')


def network_of(dtype='float32'):
  """A narrow network whose predictions differ, as a run leaves it."""
  config = testing.narrow_config()
  config.model.num_classes = len(CLASSES)
  config.model.dtype = dtype
  config.dataset.size = 232
  model = models.create_model(config.model)
  image = jnp.zeros((1, 224, 224, 3))
  params = jax.jit(model.init)(jax.random.key(0), image)['params']
  rng = np.random.default_rng(1)
  mean = rng.uniform(100, 140, (232, 232, 3)).astype(np.float32)
  inputs = input_spec.Inputs(
      CLASSES, mean, 'crop', np.arange(3.0), np.eye(3)
  )
  return TrainedNetwork(config, 1, CLASSES, inputs, model, params)


def squares_of(count):
  rng = np.random.default_rng(2)
  return rng.integers(0, 256, (count, 232, 232, 3), np.uint8)


class ExportTest(parameterized.TestCase):

  def check(self, network, exported, counts, views='centre', error=1e-5):
    """As the network predicts, in batches of these sizes."""
    squares = squares_of(5)
    wanted = network.predict(squares, views=views)
    self.assertGreater(np.ptp(wanted, axis=0).max(), 0.01)
    read = export.deserialize(exported.serialize())
    for count in counts:
      got = read.call(network.variables, squares[:count])
      self.assertEqual(got.dtype, np.float32)
      np.testing.assert_allclose(got, wanted[:count], atol=error)

  @parameterized.parameters(1, 4, None)
  def test_for_each_platform(self, batch_size):
    network = network_of()
    for platform in 'cpu', 'cuda', 'tpu':
      exported = network.export(platforms=(platform,), batch_size=batch_size)
      self.assertEqual(exported.platforms, (platform,))
      (result,) = exported.out_avals
      self.assertEqual(result.shape[1:], (3,))
      if batch_size:
        self.assertEqual(result.shape[0], batch_size)
      else:
        self.assertTrue(export.is_symbolic_dim(result.shape[0]))
      if platform == 'cpu':
        counts = (batch_size,) if batch_size else (1, 5)
        self.check(network, exported, counts)
      else:
        export.deserialize(exported.serialize())

  @parameterized.parameters(('centre', 'float32'), ('ten', 'float32'),
                            ('centre', 'bfloat16'))
  def test_for_all_platforms(self, views, dtype):
    network = network_of(dtype)
    exported = network.export(views=views)
    self.assertEqual(exported.platforms, ('cpu', 'cuda', 'tpu'))
    error = 1e-5 if dtype == 'float32' else 2e-2
    self.check(network, exported, (2, 3), views, error)

  def test_predictions_stay_those_of_the_cpu(self):
    """What has been compiled before and what is compiled after."""
    network = network_of()
    before = network.predict(squares_of(2))
    network.export(platforms=('cpu',))
    np.testing.assert_array_equal(network.predict(squares_of(2)), before)
    np.testing.assert_array_equal(network_of().predict(squares_of(2)), before)

  def test_other_views(self):
    with self.assertRaisesRegex(ConfigError, "is 'dense': expected one of"):
      network_of().export(views='dense')

  def test_a_definition(self):
    """A network of the authors' files, by its module alone."""
    texts = definitions.run_145(**definitions.NARROW)
    model = CudaConvnet(towers_lib.pair(cuda_convnet_test.parse(*texts)))
    images = cuda_convnet_test.images(3)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    shape = export.symbolic_shape('batch, 224, 224, 3')
    with forms.plain_forms():
      exported = export.export(jax.jit(model.apply), platforms=('cpu',))(
          variables, jax.ShapeDtypeStruct(shape, jnp.float32)
      )
    logits = jax.jit(model.apply)(variables, images)
    for count in 2, 3:
      np.testing.assert_allclose(
          exported.call(variables, images[:count]), logits[:count],
          rtol=1e-4, atol=1e-4 * np.abs(logits).max(),
      )


if __name__ == '__main__':
  absltest.main()
