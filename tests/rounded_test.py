"""Parameters rounded once: the same predictions, and no work left to do."""

from tests import testing  # isort: skip

import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet import partitioning, train_step
from alexnet.models import create_model
from alexnet.models.rounded import rounded, unrounded

CLASSES = 10


class RoundedTest(parameterized.TestCase):

  def setup(self, data, tower, dtype, examples=4):
    config = testing.narrow_config()
    config.model.num_classes = CLASSES
    config.model.dtype = dtype
    config.mesh.data, config.mesh.tower = data, tower
    mesh = partitioning.create_mesh(config)
    model = create_model(config.model)
    params = partitioning.initialize(
        lambda key: model.init(key, jnp.zeros((1, 224, 224, 3)))['params'],
        mesh,
        0,
    )
    # Far from all classes being the same.
    params = jax.tree.map(lambda x: 3 * x, params)
    step = train_step.make_predict_step(
        model=model,
        mesh=mesh,
        params=params,
        images=lambda batch: batch['image'][:, None],
    )
    batch = testing.random_batch(np.random.default_rng(0), examples, CLASSES)
    batch['weight'] = np.ones(examples, np.float32)
    return step, model, params, partitioning.put_batch(batch, mesh)

  @parameterized.parameters(*testing.MESHES)
  def test_same_predictions(self, data, tower):
    step, model, params, batch = self.setup(data, tower, 'bfloat16')
    plain, fast = (
        np.asarray(step(p, batch)['log_probabilities'])
        for p in (params, rounded(params, model.dtype))
    )
    self.assertGreater(np.ptp(plain), 0.1)
    np.testing.assert_array_equal(plain, fast)

  @parameterized.parameters(1, 2, 4)
  def test_kernels_are_multiplied_as_they_lie(self, examples):
    step, model, params, batch = self.setup(1, 1, 'bfloat16', examples)
    params = rounded(params, model.dtype)
    text = step.lower(params, batch).compile().as_text()
    for name in ('fc6', 'fc7', 'fc8'):
      features, inputs = params.arrays[name]['kernel'].shape
      shape = rf'bf16\[(?:{features},{inputs}|{inputs},{features})\]'
      made = re.findall(rf'= {shape}\S* ([\w-]+)\(', text)
      self.assertContainsSubset(set(made), {'parameter', 'bitcast'})

  def test_only_kernels_of_dense_layers(self):
    _, model, params, _ = self.setup(1, 1, 'bfloat16')
    arrays = rounded(params, model.dtype).arrays
    for layer, kinds in params.items():
      for kind, array in kinds.items():
        got = arrays[layer][kind]
        if layer.startswith('fc') and kind == 'kernel':
          self.assertEqual(got.dtype, jnp.bfloat16)
          array = array.T.astype(jnp.bfloat16)
        np.testing.assert_array_equal(got, array)
    shapes = jax.tree.map(jnp.shape, unrounded(rounded(params, model.dtype)))
    self.assertEqual(shapes, jax.tree.map(jnp.shape, params))

  def test_float32_stays(self):
    params = {'fc6': {'kernel': jnp.ones((3, 2)), 'bias': jnp.zeros(2)}}
    self.assertIs(rounded(params, jnp.float32), params)
    self.assertIs(unrounded(params), params)


if __name__ == '__main__':
  absltest.main()
