"""An accelerator beside this machine's CPU: `make test-gpu`.

Where JAX_PLATFORMS=cpu, the CPU is compared with itself. What is not marked
runs in the ordinary suite: that the tolerances can tell precisions apart.
"""


import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax
from jax.sharding import AxisType, Mesh

from alexnet import models
from alexnet.models import layers
from alexnet.ops import forms
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import optimizer, train_step
from configs import alexnet

# {(model.dtype, model.precision): largest error of logits, and of an update,
# as a share of their size}: of other algorithms in float32; of operands
# of 10 bits of mantissa; of 7, and results of as many. An update has more than
# its share, as units change sides of ReLU and maxima change places.
TOLERANCES = {
    ('float32', 'highest'): (2e-5, 3e-3),
    ('float32', 'tensorfloat32'): (2e-3, 1e-1),
    ('bfloat16', 'tensorfloat32'): (3e-2, 3e-1),
}
IMAGES, CLASSES = 8, 100
MESHES = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1))


def config_of(dtype='float32', precision='tensorfloat32'):
  """The paper's network with a quarter of its features."""
  config = alexnet.get_config()
  config.model.width = 0.25
  config.model.num_classes = CLASSES
  config.model.dtype, config.model.precision = dtype, precision
  # As run #145, and so that dropout and logits say something at the first step.
  for name in ('conv3', 'conv4', 'conv5'):
    config.model[name].stddev = 0.03
  return config


def batch():
  rng = np.random.default_rng(0)
  return {
      'image': 60 * rng.standard_normal((IMAGES, 224, 224, 3), np.float32),
      'label': rng.integers(0, CLASSES, IMAGES).astype(np.int32),
  }


def mesh_of(devices, data=1, tower=1):
  devices = np.array(devices[: data * tower]).reshape(data, tower)
  axes = mesh_lib.DATA, mesh_lib.TOWER
  return Mesh(devices, axes, axis_types=(AxisType.Explicit,) * 2)


def initial(config, rule):
  """A state on the CPU, the same for each device."""
  model = models.create_model(config.model)
  mesh = mesh_of(jax.devices('cpu'))
  create = lambda key: train_step.create_state(model, rule, key)
  return jax.device_get(sharding.initialize(create, mesh, 0))


def one_update(config, mesh):
  """(metrics, change of the parameters) of a step."""
  rule = optimizer.create_optimizer(config.optimizer)
  before = initial(config, rule)
  state = jax.device_put(before, sharding.shardings(before, mesh))
  step = train_step.make_train_step(
      model=models.create_model(config.model), optimizer=rule, mesh=mesh,
      state=before, images=lambda batch: batch['image'], seed=0,
  )
  rates = jax.tree.map(lambda _: np.float32(0.01), before.params)
  state, metrics = step(state, sharding.put_batch(batch(), mesh), rates)
  change = jax.tree.map(
      lambda new, old: np.asarray(new) - old, state.params, before.params
  )
  return jax.device_get(metrics), change


def logits(config, device):
  rule = optimizer.create_optimizer(config.optimizer)
  params = initial(config, rule).params
  model = models.create_model(config.model)
  with jax.default_matmul_precision(config.model.precision):
    return np.asarray(jax.jit(model.apply)(
        *jax.device_put(({'params': params}, batch()['image']), device)
    ))


def error(got, wanted):
  """Root mean square of the difference, as a share of that of what is wanted.

  Of all leaves together: most of an update is in a few.
  """
  square = lambda tree: sum(
      float(np.square(np.asarray(x, np.float64)).sum())
      for x in jax.tree.leaves(tree)
  )
  difference = jax.tree.map(lambda a, b: a.astype(np.float64) - b, got, wanted)
  return (square(difference) / square(wanted)) ** 0.5


@pytest.mark.gpu
class PlatformsTest(parameterized.TestCase):

  @parameterized.parameters(*TOLERANCES)
  def test_logits(self, dtype, precision):
    wanted = logits(config_of(), jax.devices('cpu')[0])
    got = logits(config_of(dtype, precision), jax.devices()[0])
    self.assertLess(error(got, wanted), TOLERANCES[dtype, precision][0])

  @parameterized.parameters(*TOLERANCES)
  def test_update(self, dtype, precision):
    _, wanted = one_update(config_of(), mesh_of(jax.devices('cpu')))
    _, got = one_update(config_of(dtype, precision), mesh_of(jax.devices()))
    self.assertLess(error(got, wanted), TOLERANCES[dtype, precision][1])

  @parameterized.parameters('highest', 'tensorfloat32')
  def test_a_step_on_each_mesh(self, precision):
    config = config_of('float32', precision)
    loss, change = one_update(config, mesh_of(jax.devices()))
    for data, tower in MESHES[1:]:
      if data * tower > jax.device_count():
        continue
      with self.subTest(f'data={data}, tower={tower}'):
        metrics, other = one_update(
            config, mesh_of(jax.devices(), data, tower)
        )
        of_logits, of_update = TOLERANCES['float32', precision]
        np.testing.assert_allclose(
            metrics['loss'], loss['loss'], rtol=of_logits
        )
        self.assertLess(error(other, change), of_update)


def rounded_to(bits):
  """Layers whose products have operands of so many bits of mantissa."""
  short = lambda x: lax.reduce_precision(x, 8, bits)
  rounded = lambda function: lambda x, kernel, *others, **named: function(
      short(x), short(kernel), *others, **named
  )
  return absltest.mock.patch.multiple(
      layers,
      grouped_convolution=rounded(layers.grouped_convolution),
      grouped_dense=rounded(layers.grouped_dense),
  )


class TolerancesTest(absltest.TestCase):
  """On a CPU, with operands rounded as on a GPU."""

  def test_tell_precisions_apart(self):
    float32, tensorfloat32, bfloat16 = TOLERANCES.values()
    cpu, config = jax.devices('cpu'), config_of()
    with forms.plain_forms():
      wanted = logits(config, cpu[0])
      _, wanted_change = one_update(config, mesh_of(cpu))
      with rounded_to(10):
        share = error(logits(config, cpu[0]), wanted)
        self.assertBetween(share, 2 * float32[0], tensorfloat32[0] / 2)
        _, change = one_update(config, mesh_of(cpu))
        share = error(change, wanted_change)
        self.assertBetween(share, 2 * float32[1], tensorfloat32[1] / 2)
      with rounded_to(7):
        share = error(logits(config, cpu[0]), wanted)
        self.assertBetween(share, tensorfloat32[0], bfloat16[0] / 2)


if __name__ == '__main__':
  absltest.main()
