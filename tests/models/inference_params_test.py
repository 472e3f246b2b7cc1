"""Parameters rounded once: the same predictions, and no work left to do."""

import io
import pathlib
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.analysis.features import images as images_lib
from alexnet.analysis.features import layer_features
from alexnet.evaluation import dense_views, eval_steps, evaluator, session
from alexnet.inference import loading, predictor
from alexnet.metrics.console import Console
from alexnet.models import create_model
from alexnet.models.inference_params import Rounded, for_module, rounded
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import trainer
from tests import testing, tiny


class RoundedTest(parameterized.TestCase):

  def setup(self, data=1, tower=1, examples=4, classes=10, side=224):
    config = testing.narrow_config()
    config.model.num_classes = classes
    config.model.dtype = 'bfloat16'
    config.mesh.data, config.mesh.tower = data, tower
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    params = sharding.initialize(
        lambda key: model.init(key, jnp.zeros((1, side, side, 3)))['params'],
        mesh,
        0,
    )
    # Far from all classes being the same.
    variables = {'params': jax.tree.map(lambda x: 3 * x, params)}
    batch = testing.random_batch(np.random.default_rng(0), examples, classes)
    batch['image'] = batch['image'][:, :side, :side]
    batch['weight'] = np.ones(examples, np.float32)
    step = lambda make: make(
        model=model,
        mesh=mesh,
        variables=variables,
        images=lambda batch: batch['image'][:, None],
    )
    return step, model, variables, sharding.put_batch(batch, mesh)

  # Eleven classes are on both towers, all of them.
  @parameterized.parameters(((1, 1), 10), ((2, 2), 10), ((1, 2), 11))
  def test_same_predictions(self, mesh, classes):
    step, model, variables, batch = self.setup(
        *mesh, classes=classes, side=72
    )
    once = rounded(variables, model.dtype)
    predict = step(eval_steps.make_predict_step)
    plain, fast = (
        np.asarray(predict(these, batch)['log_probabilities'])
        for these in (variables, once)
    )
    self.assertGreater(np.ptp(plain), 0.1)
    np.testing.assert_array_equal(plain, fast)
    evaluate = step(eval_steps.make_eval_step)
    self.assertEqual(
        jax.device_get(evaluate(variables, batch)),
        jax.device_get(evaluate(once, batch)),
    )

  @parameterized.product(mesh=((1, 1), (1, 2)), examples=(1, 33))
  def test_kernels_are_multiplied_as_they_lie(self, mesh, examples):
    step, model, variables, batch = self.setup(*mesh, examples=examples)
    variables = rounded(variables, model.dtype)
    predict = step(eval_steps.make_predict_step)
    text = predict.lower(variables, batch).compile().as_text()
    text = text[text.index('\nENTRY') :]
    for name in ('fc6', 'fc7', 'fc8'):
      features, inputs = variables['params'].arrays[name]['kernel'].shape
      features //= mesh[1]
      shape = rf'b?f\d\d\[(?:{features},{inputs}|{inputs},{features})\]'
      made = re.findall(rf'= {shape}\S* ([\w-]+)\(', text)
      self.assertContainsSubset(made, ('parameter', 'bitcast'))
      self.assertIn('parameter', made)

  def test_only_kernels_of_dense_layers(self):
    _, model, variables, _ = self.setup()
    once = rounded(variables, model.dtype)
    arrays = once['params'].arrays
    for layer, kinds in variables['params'].items():
      for kind, array in kinds.items():
        got = arrays[layer][kind]
        if layer.startswith('fc') and kind == 'kernel':
          self.assertEqual(got.dtype, jnp.bfloat16)
          array = array.T.astype(jnp.bfloat16)
        np.testing.assert_array_equal(got, array)
    shapes = jax.tree.map(jnp.shape, for_module(once))
    self.assertEqual(shapes, jax.tree.map(jnp.shape, variables))

  def test_float32_stays(self):
    params = {'fc6': {'kernel': jnp.ones((3, 2)), 'bias': jnp.zeros(2)}}
    variables = {'params': params}
    self.assertIs(rounded(variables, jnp.float32), variables)
    self.assertIs(for_module(variables), variables)


class CommandsTest(absltest.TestCase):
  """What predicts gets parameters that are rounded."""

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.given = []

    def spy(variables):
      self.given.append(type(variables['params']))
      return for_module(variables)

    for module in eval_steps, predictor, layer_features:
      self.enter_context(mock.patch.object(module, 'for_module', spy))

  def assert_rounded(self):
    """What has been compiled since the last time."""
    self.assertEqual(set(self.given), {Rounded})
    self.given.clear()

  def test_all(self):
    images = testing.write_images(self.directory / 'images', 3, 4)
    config = tiny.get_small_config()
    config.dataset.train_dir = str(images)
    config.model.dtype = 'bfloat16'
    config.duration = '2 steps'
    config.log_images = True
    console = Console(io.StringIO())
    run = trainer.create(config, self.directory / 'run', console)
    run.train()  # Evaluates, and draws pictures.
    self.assert_rounded()
    opened = session.open_run(self.directory / 'run', console)
    result = evaluator.score(opened.predict('ten'))
    self.assertAlmostEqual(result['loss'], opened.evaluate('ten')['loss'], 5)
    self.assert_rounded()
    dense_views.predict(opened, (76,))
    self.assert_rounded()

    network = loading.load(self.directory / 'run')
    photos = sorted(images.rglob('*.jpg'))
    logits = jax.jit(network.model.apply)(
        network.variables,
        network.views.centre({'image': network.squares(photos)})[:, 0],
    )
    np.testing.assert_allclose(
        network.predict(photos), jax.nn.softmax(logits), atol=1e-2
    )
    self.assert_rounded()
    network.predict(photos, views='dense')
    self.assert_rounded()
    features = network.features(photos, 'fc7')
    self.assert_rounded()
    layers = layer_features.Layers(network, ('fc7',), 10**6)
    found, _ = layers.features(
        network.variables,
        images_lib.open_images(str(images), config=config),
        np.arange(12),
    )
    self.assert_rounded()
    np.testing.assert_allclose(found['fc7'], features, atol=1e-2)


if __name__ == '__main__':
  absltest.main()
