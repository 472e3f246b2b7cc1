"""A run that is saved on one mesh and continued on others."""

import io
import pathlib
import shutil
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.evaluation import session
from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.training import trainer
from tests import several, testing, tiny

SAVED, END = 4, 8


class ElasticTest(parameterized.TestCase):
  """Saved at (1, 2), as on the authors' two GPUs."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(cls.root / 'images', 3, 9)
    cls.undisturbed = cls.run_at((1, 2), cls.root / 'undisturbed')
    cls.start = jax.device_get(cls.undisturbed.state.params)
    cls.undisturbed.train()
    cls.stopped = cls.root / 'stopped'
    run = cls.run_at((1, 2), cls.stopped, duration=f'{SAVED} steps')
    run.train()
    cls.state = jax.device_get(run.state)

  @classmethod
  def flags(cls, mesh, **fields):
    return {
        'mesh.data': mesh[0],
        'mesh.tower': mesh[1],
        'dataset.train_dir': str(cls.images),
        'dataset.eval_fraction': 0.34,
        'duration': f'{END} steps',
        'seed': 1,
        'evaluate_every': '4 steps',
        'ten_views': False,
        'dataset.size': 76,
        'augmentation.crop_size': 72,
        'augmentation.crop_offsets': 4,
        **fields,
    }

  @classmethod
  def run_at(cls, mesh, workdir, **fields):
    config = tiny.get_config()
    with config.ignore_type():
      config.update_from_flattened_dict(cls.flags(mesh, **fields))
    return trainer.create(config, workdir, Console(io.StringIO()))

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    shutil.copytree(self.stopped, self.workdir)

  @parameterized.parameters(((1, 1),), ((2, 1),), ((2, 2),))
  def test_mesh(self, mesh):
    run = self.run_at(mesh, self.workdir)
    self.assertEqual(run.progress.step, SAVED)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(run.state), self.state
    )
    run.train()
    self.check(jax.device_get(run.state.params))

  def test_eight_devices(self):
    starter = several.Starter(self.root / 'cache')
    self.addCleanup(starter.close)
    log = self.workdir.with_name('log')
    flags = [
        '--config=tests/tiny.py',
        f'--workdir={self.workdir}',
        *(
            f'--config.{name}={value}'
            for name, value in self.flags((4, 2)).items()
        ),
    ]
    number = starter.start(flags, log, devices=8)
    self.assertEqual(starter.wait(number), 0, log.read_text())
    self.assertIn(f'continuing from step {SAVED}', log.read_text())
    self.assertIn('data=4, tower=2 on 8', log.read_text())
    run = session.open_run(self.workdir, Console(io.StringIO()))
    self.check(jax.device_get(run.variables['params']))

  def check(self, params):
    """Equal up to rounding: 1 % of the way that a layer has gone."""
    ours, expected = (
        {
            (record['kind'], record['step']): record
            for record in read_records(workdir / 'metrics.jsonl')
        }
        for workdir in (self.workdir, self.undisturbed.workdir)
    )
    self.assertEqual(ours.keys(), expected.keys())
    for key, record in expected.items():
      self.assertAlmostEqual(ours[key]['loss'], record['loss'], delta=1e-5)
    self.assertEqual(ours['eval_centre', END]['count'], 9)
    end = jax.device_get(self.undisturbed.state.params)
    for layer, kinds in end.items():
      for kind, value in kinds.items():
        way = np.linalg.norm(value - self.start[layer][kind])
        error = np.linalg.norm(value - params[layer][kind])
        self.assertLess(error, 0.01 * way, f'{layer} {kind}')


if __name__ == '__main__':
  absltest.main()
