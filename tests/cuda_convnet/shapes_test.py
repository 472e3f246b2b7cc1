"""Whole runs of definitions like the authors', all defaults on.

Two steps and the evaluations, as `python -m benchmarks.definitions` has it, of
small networks; see `definitions.shapes`.
"""

import io
import math
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.training import loop
from configs import cuda_convnet as recipe
from tests import definitions as texts
from tests import testing

# Whose layers pair up; the others run as one tower.
PAIRS = ('145', '110', '120', '109', '177')
SHAPES = texts.shapes()


class ShapesTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(cls.directory / 'images', 2, 8)
    cls.runs = {}

  @classmethod
  def records_of(cls, name, mesh):
    """Trains; {kind: the last record}, and the run."""
    if (name, mesh) in cls.runs:
      return cls.runs[name, mesh]
    folder = cls.directory / f'{name}-{mesh[0]}-{mesh[1]}'
    folder.mkdir()
    paths = folder / 'layers.cfg', folder / 'layer-params.cfg'
    for path, sections in zip(paths, SHAPES[name]):
      path.write_text(texts.text(sections))
    config = recipe.get_config(str(paths[0]))
    config.layer_params = str(paths[1])
    config.dataset.name, config.dataset.train_dir = 'folder', str(cls.images)
    side = texts.SHAPES_SIDE
    config.dataset.size, config.augmentation.crop_size = side + 4, side
    config.augmentation.crop_offsets = 5
    config.batch_size = config.evaluation_batch_size = 4
    config.duration = '2 steps'
    config.mesh.data, config.mesh.tower = mesh
    run = loop.Run(config, folder / 'run', Console(io.StringIO()))
    run.train()
    records = read_records(folder / 'run' / 'metrics.jsonl')
    cls.runs[name, mesh] = {r.pop('kind'): r for r in records}, run
    return cls.runs[name, mesh]

  @parameterized.parameters(*SHAPES)
  def test_runs_with_all_defaults(self, name):
    records, run = self.records_of(name, (1, 1))
    self.assertEqual(run.config.model.towers, 1 + (name in PAIRS))
    self.assertEqual(
        set(records), {'train', 'eval_centre', 'eval_ten', 'layers'}
    )
    layers = dict.fromkeys(key.split('/')[0] for key in records['layers'])
    named = [layer for layer in layers if layer != 'step']
    self.assertEqual(named[0], run.model.layer_names[0])
    self.assertContainsSubset(run.model.layer_names, named)
    for record in records.values():
      for key, value in record.items():
        self.assertTrue(math.isfinite(value or 0), f'{name}: {key} is {value}')

  @parameterized.parameters(
      *((name, (2, 1)) for name in SHAPES), *((name, (1, 2)) for name in PAIRS)
  )
  def test_is_the_same_on_other_meshes(self, name, mesh):
    base, _ = self.records_of(name, (1, 1))
    records, _ = self.records_of(name, mesh)
    for kind, keys in (
        ('train', ('loss',)), ('eval_centre', ('loss',)),
        ('eval_ten', ('loss',)), ('layers', base['layers']),
    ):
      for key in keys:
        np.testing.assert_allclose(
            records[kind][key], base[kind][key], rtol=2e-3, atol=1e-5,
            err_msg=f'{kind} {key}',
        )

  @parameterized.parameters('109', '117')
  def test_bounds_are_kept_in_a_run(self, name):
    """Of the first matrix of conv2; the other has none."""
    _, run = self.records_of(name, (1, 1))
    layers = [layer for layer in run.state.params if layer.startswith('conv2')]
    for layer in layers:
      arrays = jax.device_get(run.state.params[layer])
      kernel = arrays['kernel'].astype(np.float64).reshape(75, -1)
      deviations = np.sqrt(((kernel - kernel.mean(0)) ** 2).sum(0)) / 75
      # They begin at 0.1 / sqrt(75) = 0.0115.
      # The second step decays what does not grow.
      np.testing.assert_allclose(deviations, 0.002, rtol=1e-3)
      other = arrays['kernel1'].astype(np.float64)
      self.assertGreater(other.std() / np.sqrt(100), 0.008)


if __name__ == '__main__':
  absltest.main()
