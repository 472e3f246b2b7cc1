"""Of which precision the products are that a GPU would be given."""

import os
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import export

from alexnet import models
from alexnet.config.errors import ConfigError
from alexnet.evaluation import eval_steps
from alexnet.inference.views import Views
from alexnet.runtime import compilation_cache, environment, sharding
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime.gpu import precision
from alexnet.training import optimizer, train_step
from tests import testing

mock = absltest.mock
GPU = types.SimpleNamespace(platform='gpu')
# Of an operation of StableHLO, whatever its form.
_PRODUCT = re.compile(r'= "?stablehlo\.(?:dot_general|convolution)\b.*')


def products(text):
  """(number of products and convolutions, of those that ask for the most)."""
  found = _PRODUCT.findall(text)
  return len(found), sum('HIGHEST' in line for line in found)


def gpu(capability, kind='NVIDIA G'):
  return types.SimpleNamespace(
      platform='gpu', compute_capability=capability, device_kind=kind
  )


class LoweredTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    for module in train_step, eval_steps:
      self.enter_context(mock.patch.multiple(
          module, jit_for=self.jit_for, _compiled=module._compiled.__wrapped__
      ))
    traced = precision.traced
    self.enter_context(mock.patch.object(
        precision, 'traced',
        lambda function, model, device: traced(function, model, GPU),
    ))

  def jit_for(
      self, device, dtype, function, *, deterministic=False, **arguments
  ):
    """Without what is for CPUs."""
    del device, dtype, deterministic
    compiled = jax.jit(function, **arguments)
    return types.SimpleNamespace(lower=lambda *given: compiled.trace(
        *given
    ).lower(lowering_platforms=('cuda',)))

  def config(self, value, dtype='float32'):
    config = testing.narrow_config()
    config.mesh.tower, config.mesh.data = 2, 1
    config.model.num_classes = 4
    config.model.precision, config.model.dtype = value, dtype
    return config

  def lowered(self, step, *arguments):
    """The text of a step for GPUs."""
    if isinstance(step, train_step.TrainStep):
      arguments += (None,)  # Rates, of which a step knows the number.
    return step.lower(*arguments).as_text()

  def training(self, config):
    mesh = mesh_lib.create_mesh(config)
    model = models.create_model(config.model)
    rule = optimizer.create_optimizer(config.optimizer)
    create = lambda key: train_step.create_state(model, rule, key)
    state = sharding.initialize(create, mesh, 0)
    step = train_step.make_train_step(
        model=model, optimizer=rule, mesh=mesh, state=state,
        images=lambda batch: batch['image'], seed=0,
    )
    batch = testing.random_batch(np.random.default_rng(0), 8, 4)
    return self.lowered(step, state, sharding.put_batch(batch, mesh))

  def test_training_and_its_gradients(self):
    count, highest = products(self.training(self.config('highest')))
    # 8 layers, 2 gradients each, but that of conv1 by the images; three grouped
    # convolutions and the dense layers are one operation a tower.
    self.assertGreaterEqual(count, 3 * 8 - 1)
    self.assertEqual(highest, count)
    count, highest = products(self.training(self.config('tensorfloat32')))
    self.assertGreaterEqual(count, 3 * 8 - 1)
    self.assertEqual(highest, 0)

  def test_bfloat16_is_as_it_was(self):
    texts = [
        self.training(self.config(value, 'bfloat16'))
        for value in (precision.HIGHEST, precision.TENSORFLOAT32)
    ]
    self.assertEqual(*texts)

  @parameterized.parameters(eval_steps.make_eval_step,
                            eval_steps.make_predict_step)
  def test_evaluation(self, make):
    for value, wanted in (('highest', 1), ('tensorfloat32', 0)):
      config = self.config(value)
      mesh = mesh_lib.create_mesh(config)
      model = models.create_model(config.model)
      shapes = models.variable_shapes(model, (224, 224, 3))
      variables = sharding.targets(shapes, mesh)
      views = Views(np.zeros((256, 256, 3), np.float32), 'under', True, 224)
      step = make(
          model=model, mesh=mesh, variables=variables, images=views.ten
      )
      batch = sharding.put_batch({
          'image': np.zeros((2, 256, 256, 3), np.uint8),
          'label': np.zeros(2, np.int32), 'weight': np.ones(2, np.float32),
      }, mesh)
      count, highest = products(
          self.lowered(step, variables, batch)
      )
      self.assertGreaterEqual(count, 8)
      self.assertEqual(highest, wanted * count)


class OnCpusTest(parameterized.TestCase):

  @parameterized.parameters(precision.HIGHEST, precision.TENSORFLOAT32)
  def test_the_program_is_the_same(self, value):
    function = lambda x: x @ x
    model = types.SimpleNamespace(precision=value, dtype=jnp.float32)
    cpu = jax.devices('cpu')[0]
    self.assertIs(precision.traced(function, model, cpu), function)

  def test_exported_for_any_device(self):
    """As alexnet.load(...).export() does, where no device is known."""
    model = types.SimpleNamespace(precision='highest', dtype=jnp.float32)
    function = precision.traced(lambda x: x @ x, model, None)
    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    exported = export.export(
        jax.jit(function), platforms=('cpu', 'cuda')
    )(shape)
    # One for each platform.
    self.assertEqual(products(exported.mlir_module()), (2, 2))


class KernelsTest(absltest.TestCase):

  def test_recorded_of_gpus(self):
    self.assertEqual(environment.kernels(jax.devices('cpu')[0], True), {})
    with mock.patch.object(
        compilation_cache, 'in_use', return_value='/caches'
    ):
      self.assertEqual(
          environment.kernels(gpu('9.0'), False),
          {'deterministic': False, 'kept_in': '/caches'},
      )

  def test_deterministic_by_xlas_flags(self):
    config = testing.narrow_config()
    config.mesh.data, config.mesh.tower = 1, 1
    mesh = mesh_lib.create_mesh(config)
    for flag, wanted in (
        ('--xla_gpu_deterministic_ops=true', True),
        ('--xla_gpu_exclude_nondeterministic_ops', True),
        ('--xla_gpu_deterministic_ops=false', False),
        ('--xla_gpu_autotune_level=0', False),
    ):
      with (
          mock.patch.dict(os.environ, XLA_FLAGS=f'{flag} --xla_other=1'),
          mock.patch.object(environment, 'kernels') as kernels,
      ):
        environment.describe(mesh, config.model, {})
      self.assertEqual(kernels.call_args.args[1], wanted, flag)


class FieldTest(parameterized.TestCase):

  def test_wrong_value(self):
    config = testing.narrow_config()
    config.model.precision = 'float32'
    with self.assertRaisesRegex(ConfigError, "model.precision is 'float32'"):
      models.check(config)

  @parameterized.parameters(
      ('float32', 'tensorfloat32', gpu('9.0'), 'tensorfloat32'),
      ('float32', 'tensorfloat32', gpu('10.0'), 'tensorfloat32'),
      ('float32', 'tensorfloat32', gpu('7.5'), 'float32'),
      ('float32', 'highest', gpu('9.0'), 'float32'),
      ('bfloat16', 'highest', gpu('9.0'), 'bfloat16'),
      ('float32', 'tensorfloat32', gpu('gfx90a'),
       'float32, as JAX has it by default on this device'),
      ('float32', 'tensorfloat32', types.SimpleNamespace(platform='cpu'),
       'float32'),
  )
  def test_in_force(self, dtype, value, device, wanted):
    config = testing.narrow_config()
    config.model.dtype, config.model.precision = dtype, value
    self.assertEqual(precision.in_force(config.model, device), wanted)

  def test_jaxs_own_setting(self):
    config = testing.narrow_config()
    with jax.default_matmul_precision('highest'):
      self.assertEqual(
          precision.in_force(config.model, gpu('9.0')),
          'float32, as JAX_DEFAULT_MATMUL_PRECISION=highest has it',
      )

  def test_bfloat16_before_ampere(self):
    config = testing.narrow_config()
    self.assertIsNone(precision.warning(config.model, gpu('7.0')))
    config.model.dtype = 'bfloat16'
    self.assertRegex(
        precision.warning(config.model, gpu('7.0', 'Tesla V100')),
        'Tesla V100 has no arithmetic for bfloat16.*dtype=float32',
    )
    self.assertIsNone(precision.warning(config.model, gpu('8.0')))
    self.assertIsNone(
        precision.warning(config.model, types.SimpleNamespace(platform='cpu'))
    )


if __name__ == '__main__':
  absltest.main()
