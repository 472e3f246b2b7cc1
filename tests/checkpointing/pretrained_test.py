"""Runs that start from another one's parameters, and rates by layer."""

import io
import pathlib
import shutil
import signal
import tempfile

import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

from alexnet.checkpointing import manager
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.metrics.writer import read_records
from alexnet.training import setup, trainer
from alexnet.training.steps import Steps
from tests import commands, testing, tiny

CARRIED = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')


def host(tree):
  return jax.tree.map(np.asarray, tree)


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


class PretrainedTestCase(parameterized.TestCase):
  """Has a finished run on three classes, and a folder of five classes."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    three = testing.write_images(directory / 'three', 3, 6)
    cls.five = testing.write_images(directory / 'five', 5, 6, seed=1)
    cls.other = directory / 'other'
    config = tiny.get_small_config()
    config.dataset.train_dir = str(three)
    config.duration = '3 steps'
    config.ten_views = False
    run = trainer.create(config, cls.other, Console(io.StringIO()))
    run.train()
    cls.theirs = host(run.state.params)

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.workdir = self.directory / 'run'

  def config(self, other=None, **fields):
    config = tiny.get_small_config()
    config.dataset.train_dir = str(self.five)
    config.ten_views = False
    config.duration = '3 steps'
    config.pretrained.workdir = str(other or self.other)
    for name, value in fields.items():
      config.update_from_flattened_dict({name.replace('__', '.'): value})
    return config

  def run_here(self, other=None, workdir=None, console=None, **fields):
    return trainer.create(
        self.config(other, **fields),
        workdir or self.workdir,
        console or Console(io.StringIO()),
    )


class CarryOverTest(PretrainedTestCase):

  @parameterized.parameters((1, 1), (1, 2), (2, 2))
  def test_what_is_carried_over_and_what_is_new(self, data, tower):
    """The head of five classes is what a run without the other one has."""
    run = self.run_here(mesh__data=data, mesh__tower=tower)
    params = host(run.state.params)
    fresh = host(
        self.run_here(
            workdir=self.directory / 'fresh', pretrained__workdir=None
        ).state.params
    )
    for layer in CARRIED:
      assert_equal(params[layer], self.theirs[layer])
      self.assertFalse(
          np.array_equal(params[layer]['kernel'], fresh[layer]['kernel'])
      )
    assert_equal(params['fc8'], fresh['fc8'])
    self.assertEqual(params['fc8']['kernel'].shape, (32, 5))
    velocity = host(optax.tree.get(run.state.opt_state, 'trace'))
    jax.tree.map(lambda v: self.assertFalse(v.any()), velocity)
    # Which the other run's are not.
    other = Steps(setup.create(
        loading.config_of_run(self.other), self.other, Console(io.StringIO()),
        training=False,
    ))
    theirs = optax.tree.get(other.state.opt_state, 'trace')
    self.assertTrue(host(theirs)['conv1']['kernel'].any())
    self.assertEqual(int(run.state.step), 0)
    if tower == 2:
      kernel = run.state.params['conv3']['kernel']
      self.assertEqual(
          {shard.data.shape[-1] for shard in kernel.addressable_shards}, {8}
      )

  def test_named_layers_only(self):
    run = self.run_here(pretrained__layers=('conv2', 'conv1'))
    fresh = self.run_here(
        workdir=self.directory / 'fresh', pretrained__workdir=None
    )
    params, fresh = host(run.state.params), host(fresh.state.params)
    for layer in params:
      expected = self.theirs if layer in ('conv1', 'conv2') else fresh
      assert_equal(params[layer], expected[layer])

  def test_a_layer_more(self):
    """Run #146: conv6 is new, and fc6 behind it keeps its shape."""
    run = self.run_here(model__conv6__features=12)
    params = host(run.state.params)
    for layer in CARRIED:
      assert_equal(params[layer], self.theirs[layer])
    self.assertEqual(params['conv6']['kernel'].shape, (3, 3, 12, 12))

  def test_what_is_said_and_recorded(self):
    output = io.StringIO()
    results = self.run_here(console=Console(output)).train()
    self.assertIn(
        f'started  with {", ".join(CARRIED)} from {self.other}, step 3; new: '
        'fc8',
        output.getvalue(),
    )
    record = {
        'workdir': str(self.other),
        'step': 3,
        'carried': list(CARRIED),
        'new': ['fc8'],
    }
    self.assertEqual(results['pretrained'], record)
    saved = workdir_lib.load_results(self.workdir)
    self.assertEqual(saved['pretrained'], record)
    config = workdir_lib.load_config(self.workdir)
    self.assertEqual(config.pretrained.workdir, str(self.other))

  def test_a_run_from_nothing_records_nothing(self):
    self.assertNotIn('pretrained', workdir_lib.load_results(self.other))

  def test_two_tower_devices_train_alike(self):
    """The losses of three steps, dropout included."""
    losses = {}
    for tower in (1, 2):
      workdir = self.directory / str(tower)
      self.run_here(workdir=workdir, mesh__tower=tower).train()
      losses[tower] = self.losses(workdir)
    self.assertLen(losses[1], 3)
    np.testing.assert_allclose(losses[1], losses[2], atol=2e-6)

  def losses(self, workdir):
    return [
        record['loss']
        for record in read_records(workdir / 'metrics.jsonl')
        if record['kind'] == 'train'
    ]


class ContinueTest(PretrainedTestCase):

  def _kill_at_step(self, other, step):
    process = commands.Started(
        'main.py', '--config=tests/tiny.py',
        f'--workdir={self.workdir}', '--config.ten_views=False', *tiny.SMALL,
        '--config.duration=5 steps',
        "--config.pretrained.layers=('conv1','conv2')",
        "--config.optimizer.layer_rate_factors=(('conv1',0.1),)",
        f'--config.dataset.train_dir={self.five}',
        f'--config.pretrained.workdir={other}',
    )
    for line in process.stdout:
      if line.startswith(f'step {step}/'):
        break
    else:
      self.fail(f'the run ended before step {step}')
    process.send_signal(signal.SIGKILL)
    process.communicate()

  def test_killed_and_the_other_run_gone(self):
    """Before its first own checkpoint, of step 2, and after."""
    fields = dict(
        duration='5 steps',
        pretrained__layers=('conv1', 'conv2'),
        optimizer__layer_rate_factors=(('conv1', 0.1),),
    )
    whole = self.run_here(workdir=self.directory / 'whole', **fields)
    whole_results = whole.train()
    other = self.directory / 'copy'
    shutil.copytree(self.other, other)
    self._kill_at_step(other, 1)
    shutil.rmtree(other)
    self._kill_at_step(other, 3)
    run = self.run_here(other, **fields)
    self.assertEqual(run.progress.step, 2)
    results = run.train()
    assert_equal(host(run.state), host(whole.state))
    self.assertEqual(results['centre'], whole_results['centre'])
    self.assertEqual(results['pretrained']['workdir'], str(other))

  def test_another_command_on_the_same_workdir(self):
    self.run_here(duration='1 step').train()
    # The other run may lie elsewhere now.
    run = self.run_here(self.directory / 'moved', duration='1 step')
    self.assertEqual(run.progress.step, 1)
    self.assertEqual(run.progress.pretrained['workdir'], str(self.other))
    # Long paths are left out.
    with self.assertRaisesRegex(CheckpointError, 'pretrained.workdir was '):
      self.run_here(duration='1 step', pretrained__workdir=None)
    with self.assertRaisesRegex(CheckpointError, 'pretrained.layers was'):
      self.run_here(duration='1 step', pretrained__layers=('conv1',))


class MessageTest(PretrainedTestCase):

  @parameterized.parameters(
      (
          dict(pretrained__layers=('conv9',)),
          "layers names 'conv9', which this network lacks: .*conv1.*fc8",
      ),
      (
          dict(pretrained__layers=('conv6',), model__conv6__features=12),
          "names 'conv6', which .*other lacks: it has conv1",
      ),
      (
          dict(pretrained__layers=('conv1', 'fc8')),
          r"'fc8', whose shapes differ: .*\(32, 5\)} in this network, "
          r'.*\(32, 3\)} in .*other',
      ),
      (
          dict(pretrained__layers=('conv1',), pretrained__workdir=None),
          r'set --config.pretrained.workdir',
      ),
      (
          dict(model__conv1__size=9, model__fc6__features=64,
               model__fc7__features=64, model__conv2__size=3,
               model__conv3__size=1, model__conv4__size=1,
               model__conv5__size=1, model__conv3__padding=(0, 0),
               model__conv4__padding=(0, 0), model__conv5__padding=(0, 0)),
          r'nothing of .*other fits this network: conv1 .*\(9, 9, 3, 8\)} '
          r'here, .*\(11, 11, 3, 8\)} there',
      ),
      (
          dict(optimizer__layer_rate_factors=(('conv9', 0.1),)),
          r"layer_rate_factors has \('conv9', 0.1\): expected",
      ),
      (
          dict(optimizer__layer_rate_factors=(('conv1', -0.1),)),
          r"layer_rate_factors is \(\('conv1', -0.1\),\): expected",
      ),
      (
          dict(optimizer__layer_rate_factors=('conv1', 0.1)),
          r"layer_rate_factors is \('conv1', 0.1\): expected",
      ),
      (
          dict(optimizer__layer_rate_factors=(('conv1', 0.1), ('conv1', 2))),
          'each layer or path once',
      ),
  )
  def test_message(self, fields, message):
    with self.assertRaisesRegex(ConfigError, message):
      self.run_here(**fields)
    # Nothing is written, so that the mistake can be corrected.
    self.assertFalse(self.workdir.exists())

  def test_no_run_there(self):
    nothing = self.directory / 'nothing'
    with self.assertRaisesRegex(
        CheckpointError, 'pretrained.workdir .*nothing has no checkpoint'
    ):
      self.run_here(nothing)
    self.assertFalse(nothing.exists())

  def test_damaged(self):
    damaged = self.directory / 'damaged'
    shutil.copytree(self.other, damaged)
    for step in manager.complete_steps(damaged):
      files = (damaged / 'checkpoints' / str(step)).rglob('*')
      largest = max(files, key=lambda path: path.stat().st_size)
      largest.write_bytes(largest.read_bytes()[:-1] + b'x')
    with self.assertRaisesRegex(CheckpointError, 'is not as it was written'):
      self.run_here(damaged)


class RateFactorsTest(PretrainedTestCase):

  def test_a_frozen_layer_and_a_slow_one(self):
    """After one step the velocity is in proportion to the rate."""

    def velocity(name, factors):
      run = self.run_here(
          workdir=self.directory / name,
          duration='1 step',
          optimizer__layer_rate_factors=factors,
      )
      run.train()
      self.params[name] = host(run.state.params)
      return host(optax.tree.get(run.state.opt_state, 'trace'))

    self.params = {}
    plain = velocity('plain', ())
    slow = velocity('slow', (('conv1', 0.0), ('fc6', 0.1)))
    assert_equal(self.params['slow']['conv1'], self.theirs['conv1'])
    for kind in ('kernel', 'bias'):
      self.assertTrue(plain['conv1'][kind].any())
      self.assertFalse(slow['conv1'][kind].any())
      self.assertTrue(plain['fc6'][kind].any())
      np.testing.assert_allclose(
          slow['fc6'][kind], 0.1 * plain['fc6'][kind], rtol=1e-5, atol=1e-12
      )
      np.testing.assert_array_equal(slow['fc8'][kind], plain['fc8'][kind])


if __name__ == '__main__':
  absltest.main()
