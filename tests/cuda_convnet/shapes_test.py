"""Definitions like the authors', with all defaults of a run on.

On one device whole runs of two steps and the evaluations, as `python -m
benchmarks.definitions` makes them; see `definitions.shapes`. On a larger mesh
the same programs are traced, which is when JAX checks what varies over which
axis; those of run #120 are compiled there as well, and their numbers compared.
"""

import functools
import io
import math
import pathlib
import tempfile

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding

from alexnet.cuda_convnet import config as definitions
from alexnet.evaluation import eval_steps, layer_statistics
from alexnet.inference.views import Views
from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.models import create_model
from alexnet.runtime import compilation, sharding
from alexnet.runtime import mesh as mesh_lib
from alexnet.training import optimizer, train_step, trainer
from configs import cuda_convnet as recipe
from tests import definitions as texts
from tests import testing

SHAPES = texts.shapes()
# Whose layers pair up; the others run as one tower.
PAIRS = ('145', '110', '120', '109', '177')
# What takes a compiler's time is one of each kind: two towers, with bounds, one
# without a letter.
RUN = ('120', '109', '145-half')
_SIDE = texts.SHAPES_SIDE
_BATCH = 4


def config_of(name, mesh, folder):
  """The recipe for a small definition, whose files are written to a folder."""
  paths = folder / 'layers.cfg', folder / 'layer-params.cfg'
  for path, sections in zip(paths, SHAPES[name]):
    path.write_text(texts.text(sections))
  config = recipe.get_config(str(paths[0]))
  config.layer_params = str(paths[1])
  config.dataset.size, config.augmentation.crop_size = _SIDE + 4, _SIDE
  config.augmentation.crop_offsets = 5
  config.batch_size = config.evaluation_batch_size = _BATCH
  config.mesh.data, config.mesh.tower = mesh
  return config


class TracedTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # Compiler's options cannot be given to what is traced within a function.
    def plain(device, dtype, function, *, deterministic=False, **options):
      return jax.jit(function, **options)

    for module in (compilation, train_step, eval_steps):
      self.enterContext(
          absltest.mock.patch.object(module, 'jit_for', plain)
      )
    # Nor may such a function be kept for other tests.
    for module in (train_step, eval_steps, layer_statistics):
      self.enterContext(
          absltest.mock.patch.object(
              module, '_compiled', module._compiled.__wrapped__
          )
      )

  @parameterized.parameters(*SHAPES)
  def test_on_several_devices(self, name):
    shape = (2, 2) if name in PAIRS else (2, 1)
    folder = pathlib.Path(self.create_tempdir().full_path)
    config = config_of(name, shape, folder)
    definitions.complete(config)
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    rules = definitions.parameter_rules(config)
    rule = optimizer.create_optimizer(config.optimizer, rules)
    state = jax.eval_shape(
        functools.partial(
            train_step.create_state, model, rule, shape=(_SIDE, _SIDE, 3)
        ),
        jax.random.key(0),
    )
    of_batch = lambda *shape, dtype: jax.ShapeDtypeStruct(
        (_BATCH, *shape), dtype,
        sharding=NamedSharding(mesh, sharding.BATCH),
    )
    batch = {
        'image': of_batch(_SIDE + 4, _SIDE + 4, 3, dtype=np.uint8),
        'label': of_batch(dtype=np.int32),
        'weight': of_batch(dtype=np.float32),
    }
    views = Views(
        np.full((_SIDE + 4, _SIDE + 4, 3), 120, np.float32), 'under',
        mirror=True, crop=_SIDE,
    )
    step = train_step.make_train_step(
        model=model, optimizer=rule, mesh=mesh, state=state, seed=0,
        images=lambda batch: views.centre(batch)[:, 0],
    )
    on_mesh = sharding.targets(state, mesh)
    rates = jax.tree.map(lambda _: np.float32(0.1), state.params)
    new, metrics = jax.eval_shape(
        lambda state, batch: step(state, batch, rates), on_mesh, batch
    )
    self.assertEqual(
        jax.tree.structure(new.params), jax.tree.structure(state.params)
    )
    parts = dict(model=model, mesh=mesh, variables=state.variables)
    results = [metrics] + [
        jax.eval_shape(make(images=of_views, **parts), on_mesh.variables, batch)
        for make, of_views in (
            (eval_steps.make_eval_step, views.ten),
            (eval_steps.make_predict_step, views.centre),
        )
    ]
    measure = layer_statistics.make_measure(images=views.centre, **parts)
    layers = jax.eval_shape(measure, on_mesh.variables, on_mesh.params, batch)
    self.assertContainsSubset(
        [f'{layer}/dead' for layer in model.layer_names], layers
    )
    self.assertTrue(all(results))


class RunTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(cls.directory / 'images', 2, 8)

  @classmethod
  @functools.cache
  def trained(cls, name, mesh):
    """({kind: its last record}, the run) after two steps."""
    folder = cls.directory / f'{name}-{mesh[0]}-{mesh[1]}'
    folder.mkdir()
    config = config_of(name, mesh, folder)
    config.dataset.name, config.dataset.train_dir = 'folder', str(cls.images)
    config.duration = '2 steps'
    run = trainer.create(config, folder / 'run', Console(io.StringIO()))
    run.train()
    records = read_records(folder / 'run' / 'metrics.jsonl')
    return {record.pop('kind'): record for record in records}, run

  @parameterized.parameters(*RUN)
  def test_runs(self, name):
    self.check_run(name)

  @parameterized.parameters(*(name for name in SHAPES if name not in RUN))
  @pytest.mark.full
  def test_runs_too(self, name):
    self.check_run(name)

  def check_run(self, name):
    records, run = self.trained(name, (1, 1))
    self.assertEqual(run.task.config.model.towers, 1 + (name in PAIRS))
    self.assertEqual(
        set(records), {'train', 'eval_centre', 'eval_ten', 'layers'}
    )
    self.assertContainsSubset(
        [f'{layer}/dead' for layer in run.task.model.layer_names],
        records['layers'],
    )
    for record in records.values():
      for key, value in record.items():
        if isinstance(value, float):
          self.assertTrue(math.isfinite(value), f'{name}: {key} is {value}')
    if 'wcNormMin' in texts.text(SHAPES[name][1]):
      self._check_bounds(jax.device_get(run.state.params))

  def _check_bounds(self, params):
    """Of the first matrix of conv2; the other one has none."""
    layers = [layer for layer in params if layer.startswith('conv2')]
    self.assertNotEmpty(layers)
    for layer in layers:
      kernel = params[layer]['kernel'].astype(np.float64).reshape(75, -1)
      deviations = np.sqrt(((kernel - kernel.mean(0)) ** 2).sum(0)) / 75
      # They begin at 0.1 / sqrt(75) = 0.0115. The second step decays what does
      # not grow.
      np.testing.assert_allclose(deviations, 0.002, rtol=1e-3)
      other = params[layer]['kernel1'].astype(np.float64)
      self.assertGreater(other.std() / np.sqrt(100), 0.008)

  def test_run_120_is_the_same_on_four_devices(self):
    base, _ = self.trained('120', (1, 1))
    records, _ = self.trained('120', (2, 2))
    for kind, keys in (
        ('train', ('loss',)), ('eval_centre', ('loss',)),
        ('eval_ten', ('loss',)), ('layers', base['layers']),
    ):
      for key in keys:
        # A mean near zero is rounded like the outputs that it is of.
        layer = key.removesuffix('/mean')
        size = base[kind].get(f'{layer}/deviation', 0)
        np.testing.assert_allclose(
            records[kind][key], base[kind][key], rtol=2e-3,
            atol=2e-3 * size + 1e-5, err_msg=f'{kind} {key}',
        )


if __name__ == '__main__':
  absltest.main()
