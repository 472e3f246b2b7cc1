"""The programs of a run, lowered for devices that nobody has here."""

import re

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from alexnet.evaluation import eval_steps
from alexnet.models import create_model
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import optimizer, train_step
from tests import testing


class _Lowered:
  """Instead of `jit_for`: for another platform than the mesh's devices."""

  def __init__(self, platform, function, **arguments):
    self._platform = platform
    self._jitted = jax.jit(function, **arguments)

  def lower(self, *arguments):
    traced = self._jitted.trace(*arguments)
    return traced.lower(lowering_platforms=(self._platform,))


class LoweringTest(parameterized.TestCase):

  def lowered(self, program, platform, mesh, dtype):
    """StableHLO, and the number of arrays in a state of training."""

    def jit_for(device, of_dtype, function, *, deterministic=False, **rest):
      del device, of_dtype, deterministic
      return _Lowered(platform, function, **rest)

    for module in train_step, eval_steps:
      self.enter_context(absltest.mock.patch.multiple(
          module, jit_for=jit_for, _compiled=module._compiled.__wrapped__
      ))
    config = testing.narrow_config()
    config.model.num_classes, config.model.dtype = 10, dtype
    config.mesh.data, config.mesh.tower = mesh
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    rule = optimizer.create_optimizer(config.optimizer)
    state = jax.eval_shape(
        lambda key: train_step.create_state(model, rule, key),
        jax.random.key(0),
    )
    of = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    batch = {
        'image': jax.ShapeDtypeStruct((8, 224, 224, 3), 'float32', sharding=of),
        'label': jax.ShapeDtypeStruct((8,), 'int32', sharding=of),
        'weight': jax.ShapeDtypeStruct((8,), 'float32', sharding=of),
    }
    if program == 'training':
      step = train_step.make_train_step(
          model=model, optimizer=rule, mesh=mesh, state=state, seed=0,
          images=lambda batch: batch['image'],
      )
      rates = jax.tree.map(lambda _: jnp.float32(0.01), state.params)
      arguments = sharding.targets(state, mesh), batch, rates
    else:
      make = getattr(eval_steps, f'make_{program}_step')
      step = make(
          model=model, mesh=mesh, variables=state.variables,
          images=lambda batch: batch['image'][:, None],
      )
      arguments = sharding.targets(state.variables, mesh), batch
    text = step.lower(*arguments).as_text()
    return text, len(jax.tree.leaves(state))

  @parameterized.product(
      platform=('tpu', 'cuda'),
      program=('training', 'eval', 'predict'),
      mesh=((1, 1), (2, 2)),
      dtype=('float32', 'bfloat16'),
  )
  def test_nothing_of_a_cpu(self, platform, program, mesh, dtype):
    text, arrays = self.lowered(program, platform, mesh, dtype)
    self.assertNotIn('LayoutConstraint', text)
    self.assertNotRegex(text, 'callback|infeed|outfeed')
    self.assertNotIn('f64', text)
    # As on a CPU it is split into two.
    groups = set(re.findall(r'feature_group_count = (\d)', text))
    self.assertEqual('2' in groups, mesh == (1, 1))
    donated = len(re.findall('jax.buffer_donor|tf.aliasing_output', text))
    self.assertEqual(donated, arrays if program == 'training' else 0)
    if program == 'training':
      # Max pooling's gradient, in the plain form alone; three of them.
      scatters = len(re.findall('stablehlo.select_and_scatter', text))
      self.assertEqual(scatters, 3 if platform == 'tpu' else 0)


if __name__ == '__main__':
  absltest.main()
