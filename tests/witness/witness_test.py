"""The program still computes what it did when `record.py` was last run.

On the machine and the JAX that made the record numbers are equal to the last
bit; elsewhere sums have another order, and they agree as far as that lets them.
"""

import io
import json
import pathlib
import shutil

import numpy as np
from absl.testing import absltest, parameterized

from alexnet.config.errors import CheckpointError
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.training import trainer
from tests import testing
from tests.witness import record

_RECORD = json.loads(record.RESULTS.read_text())
_SAME_MACHINE = _RECORD['machine'] == record.machine()


def assert_as_recorded(got, wanted):
  if _SAME_MACHINE:
    np.testing.assert_array_equal(got, wanted)
  else:
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


class WitnessTest(parameterized.TestCase):

  @parameterized.product(recipe=tuple(testing.RECIPES), mesh=record.MESHES)
  def test_losses(self, recipe, mesh):
    wanted = _RECORD[recipe]['losses']['{}x{}'.format(*mesh)]
    self.assertLen(wanted, record.STEPS)
    assert_as_recorded(record.losses(recipe, mesh), wanted)

  @parameterized.parameters(*testing.RECIPES)
  def test_evaluation(self, recipe):
    wanted = _RECORD[recipe]['evaluation']
    got = record.evaluation(recipe)
    self.assertEqual(got.keys(), wanted.keys())
    self.assertEqual(got['count'], 360)
    assert_as_recorded(got['loss'], wanted['loss'])

  @parameterized.parameters(*testing.RECIPES)
  def test_prediction(self, recipe):
    got = record.prediction(recipe)
    self.assertEqual(np.shape(got), (2, 10))
    assert_as_recorded(got, _RECORD[recipe]['prediction'])

  @parameterized.parameters(*testing.RECIPES)
  def test_continues(self, recipe):
    workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    shutil.copytree(record.FOLDER / recipe, workdir)
    config = record.config_of(recipe)
    config.duration = '4 steps'
    output = io.StringIO()
    with self.assertRaisesRegex(CheckpointError, 'ordered images differently'):
      trainer.create(config, workdir, Console(output))
    # All else is as it was: with the order said to be that of now it goes on.
    values = json.loads((workdir / 'config.json').read_text())
    values['dataset']['order'] = config.dataset.order
    (workdir / 'config.json').write_text(json.dumps(values))
    run = trainer.create(config, workdir, Console(output))
    self.assertEqual(run.train()['step'], 4)
    self.assertIn('continuing from step 2', output.getvalue())
    self.assertEqual(loading.load(workdir).step, 4)


if __name__ == '__main__':
  absltest.main()
