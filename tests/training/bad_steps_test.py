"""Losses and gradients that are no number, and spikes: stop, skip, go back."""

import dataclasses
import math
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from alexnet import models
from alexnet.config.errors import BadStepError, ConfigError, NonFiniteLossError
from alexnet.models import create_model
from alexnet.ops import losses as losses_lib
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import bad_steps, optimizer
from alexnet.training import train_step as train_step_lib
from tests import faulty, testing

_CROP = 72


def step_on(data, tower, classes=10):
  """(state, batch, rates, guarded step) on a mesh."""
  config = testing.narrow_config()
  config.mesh.data, config.mesh.tower = data, tower
  config.model.num_classes = classes
  mesh = mesh_lib.create_mesh(config)
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  create = lambda key: train_step_lib.create_state(
      model, rule, key, (_CROP, _CROP, 3)
  )
  state = sharding.initialize(create, mesh, 0)
  rates = {
      layer: dict.fromkeys(kinds, np.float32(0.01))
      for layer, kinds in state.params.items()
  }
  # A velocity, which a bad step is not to change.
  state = dataclasses.replace(
      state,
      opt_state=jax.tree.map(
          lambda leaf: leaf + jnp.full_like(leaf, 1e-4), state.opt_state
      ),
  )
  batch = testing.random_batch(np.random.default_rng(0), 8, classes)
  batch['image'] = batch['image'][:, :_CROP, :_CROP]
  step = train_step_lib.make_train_step(
      model=model,
      optimizer=rule,
      mesh=mesh,
      state=state,
      images=lambda batch: batch['image'],
      seed=0,
      guarded=True,
  )
  put = lambda batch: sharding.put_batch(batch, mesh)
  return state, batch, rates, step, put, model


class GuardedStepTest(parameterized.TestCase):

  def test_a_bad_step_changes_nothing(self):
    state, batch, rates, step, put, _ = step_on(data=2, tower=2)
    before = jax.device_get(state)
    broken = dict(batch, image=batch['image'].copy())
    broken['image'][5, 0, 0, 0] = np.nan  # Of one replica's examples alone.
    infinity = np.float32(np.inf)
    state, result = step(state, put(broken), rates, infinity)
    self.assertFalse(math.isfinite(result['loss']))
    # A loss of more than the limit is a spike.
    state, result = step(state, put(batch), rates, np.float32(0.5))
    self.assertBetween(float(result['loss']), 0.5, 100)
    self.assertEqual(state.step, 2)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get((state.params, state.opt_state)),
        (before.params, before.opt_state),
    )
    # What is not more than the limit is none.
    state, _ = step(state, put(batch), rates, np.float32(100))
    changed = jax.tree.map(
        lambda a, b: bool(np.any(a != b)),
        jax.device_get((state.params, state.opt_state)),
        (before.params, before.opt_state),
    )
    self.assertTrue(all(jax.tree.leaves(changed)), changed)

  @parameterized.parameters((2, 2, 10), (1, 2, 11))
  def test_norm_of_the_gradient(self, data, tower, classes):
    """Beside optax's, of the plain module; a head of 11 is on both towers."""
    state, batch, rates, step, put, model = step_on(data, tower, classes)
    params = jax.device_get(state.params)
    keys = train_step_lib.dropout_keys(
        jax.random.key(0), jnp.int32(0), jnp.int32(0), 8
    )

    def loss(params):
      logits = model.apply(
          {'params': params}, batch['image'], dropout_keys=keys
      )
      return losses_lib.example_losses(logits, batch['label']).mean()

    expected = optax.global_norm(jax.jit(jax.grad(loss))(params))
    _, result = step(state, put(batch), rates, np.float32(np.inf))
    np.testing.assert_allclose(result['gradient_norm'], expected, rtol=1e-4)


class UsualLossTest(absltest.TestCase):

  def test_mean(self):
    """A plain mean at first, then one that forgets; by NumPy."""
    losses = np.random.default_rng(0).random(200)
    usual = bad_steps.UsualLoss()
    for step, loss in enumerate(losses):
      usual.add(step, loss)
      expected = losses[0]
      for number, other in enumerate(losses[1 : step + 1], 1):
        expected += (other - expected) / min(number + 1, 50)
      if step + 1 < 20:
        self.assertIsNone(usual.before(step + 2))
      else:
        self.assertAlmostEqual(usual.before(step + 2), expected)
    self.assertAlmostEqual(
        np.mean(losses[:30]), self._mean_of(losses[:30]), places=12
    )

  def _mean_of(self, losses):
    usual = bad_steps.UsualLoss()
    for step, loss in enumerate(losses):
      usual.add(step, loss)
    return usual.before(len(losses) + 1)

  def test_read_early_or_late_is_the_same(self):
    """At the start of update 30 that of 29 is known or not: no difference."""
    late, early = bad_steps.UsualLoss(), bad_steps.UsualLoss()
    for step in range(29):
      for usual in (late, early):
        usual.add(step, 1.0 + step)
    early.add(29, 1000.0)
    self.assertEqual(late.before(30), early.before(30))
    self.assertLess(early.before(30), 40)
    self.assertGreater(early.before(31), 40)


class BadStepsTest(faulty.RunTestCase):

  def open(self, *args, bad=(), value=np.nan, stalled=None, **fields):
    """A run some of whose batches are bad, by their numbers in the stream.

    The one of number `stalled` never comes: when all before it have been used,
    SIGTERM does.
    """
    run = super().open(*args, **fields)
    batches = run.task.pipeline.training_batches
    ever = threading.Event()
    self.addCleanup(ever.set)

    def broken(first_step, **options):
      stream = batches(first_step, **options)
      for number, batch in enumerate(stream, first_step):
        if number == stalled:
          while run.progress.step + run.progress.left_out < number:
            time.sleep(0.01)
          os.kill(os.getpid(), signal.SIGTERM)
          ever.wait()
        if number in bad:
          batch['shift'] = np.full_like(batch['shift'], value)
        yield batch

    run.task.pipeline.training_batches = broken
    return run

  def steps(self):
    return [record['step'] for record in self.records('train')]

  def test_stop(self):
    with self.assertRaisesRegex(
        NonFiniteLossError,
        'the loss is nan near step 4: training has diverged.*learning_rate.*'
        'bad_steps.action to skip or rollback',
    ):
      self.open(bad=[3]).train()
    (record,) = self.records(bad_steps.KIND)
    self.assertEqual((record['bad_step'], record['action']), (4, 'stop'))
    self.assertEqual(self.steps(), [1, 2, 3])
    # 18 images: the fourth batch of 8 begins the second epoch after 6 of it.
    self.assertEqual((record['epoch'], record['first_place']), (1, 6))
    run = self.open()
    self.assertEqual(run.progress.step, 2)
    expected = run.task.pipeline.plan(24, 8).index
    self.assertEqual(record['indices'], expected.tolist())
    self.assertEqual(
        record['examples'],
        [str(run.task.pipeline.train.entries[i].path) for i in expected],
    )
    self.assertIn(f'bad step 4: the loss is nan. Its batch is number 3, from '
                  f'place 6 of epoch 1 on: {record["examples"][0]}, ',
                  self.said.getvalue())
    # As is advised.
    self.open(bad=[3], bad_steps__action='skip').train()
    self.assertEqual(self.steps(), [1, 2, 3, 5, 6, 7, 8])

  def test_the_gradient_alone(self):
    """Before there is a loss that shows it, and before it is saved."""
    run = self.open(checkpoint_every='1 steps')
    train_step = run.steps._train_step

    def step(state, *rest):
      state, result = train_step(state, *rest)
      if int(state.step) == 3:
        result['gradient_norm'] = jnp.float32(np.inf)
      return state, result

    run.steps._train_step = step
    with self.assertRaisesRegex(BadStepError, 'gradient is inf near step 3'):
      run.train()
    self.assertEqual(self.open().progress.step, 2)

  def test_skip(self):
    fields = dict(bad=[2, 5], bad_steps__action='skip')
    whole = self.undisturbed(**fields)
    self.assertEqual(whole.progress.step, 8)
    for leaf in jax.tree.leaves(jax.device_get(whole.state)):
      self.assertTrue(np.all(np.isfinite(leaf)))
    # Stopped by a signal, before and after bad ones.
    for stop in (2, 4, 5):
      console = faulty.AtSteps(
          self.said, {stop: lambda: os.kill(os.getpid(), signal.SIGTERM)}
      )
      run = self.open(console=console, **fields)
      run.train()
    run = self.open(**fields)
    self.assertGreater(run.progress.step, 4)
    run.train()
    self.assert_same_end(run, whole)
    self.assertEqual(self.steps(), [1, 2, 4, 5, 7, 8])
    self.assertEqual(
        [record['bad_step'] for record in self.records(bad_steps.KIND)], [3, 6]
    )

  def test_skip_has_a_limit(self):
    with self.assertRaisesRegex(
        NonFiniteLossError,
        r'the loss is nan, and 3 steps in a row are bad \(bad_steps.limit is '
        r'2\) near step 6',
    ):
      self.open(
          bad=[1, 3, 4, 5], bad_steps__action='skip', bad_steps__limit=2
      ).train()
    self.assertLen(self.records(bad_steps.KIND), 4)

  def test_roll_back(self):
    """As a run that never saw batches 2 and 3, but the state of step 2.

    Then 6 is bad, too, which is that of the fifth step: back to step 4.
    """
    bad, left = [3, 6], {2: 2, 4: 3}
    run = self.open(bad=bad, bad_steps__action='rollback')
    run.train()
    self.assertEqual(run.progress.rollbacks, 2)
    elsewhere = self.root / 'expected'
    self.assert_same_end(run, self._with_gaps(elsewhere, left))
    losses = [record['loss'] for record in self.records('train')]
    self.assertEqual(self.steps(), list(range(1, 9)))
    self.assertEqual(
        losses, [record['loss'] for record in self.records('train', elsewhere)]
    )
    records = self.records(bad_steps.KIND)
    self.assertEqual([record['batch'] for record in records], bad)
    self.assertEqual([record['step'] for record in records], sorted(left))

  def _with_gaps(self, workdir, left):
    """A run without faults, {step: how far behind its data is from there}."""
    run = self.open(workdir)
    batches = run.task.pipeline.training_batches

    def with_gaps(first_step, **options):
      step = first_step
      while True:
        gap = max((g for s, g in left.items() if s <= step), default=0)
        yield next(batches(step + gap, **options))
        step += 1

    run.task.pipeline.training_batches = with_gaps
    run.train()
    return run

  @parameterized.parameters(3, 5)
  def test_roll_back_and_restart(self, stop):
    """Whether before it or after it: the end is the same."""
    fields = dict(
        bad=[3, 7], bad_steps__action='rollback',
        augmentation__lighting_until_epoch=2.0,
    )
    whole = self.undisturbed(**fields)

    class Killed(Exception):
      pass

    def kill():
      raise Killed

    # As by SIGKILL: nothing is saved on the way out.
    console = faulty.AtSteps(self.said, {stop: kill})
    with self.assertRaises(Killed):
      self.open(console=console, **fields).train()
    run = self.open(**fields)
    self.assertEqual(run.progress.step, (stop - 1) // 2 * 2)
    run.train()
    self.assert_same_end(run, whole)
    self.assertEqual(run.progress.left_out, whole.progress.left_out)

  def test_roll_back_before_the_first_checkpoint(self):
    run = self.open(bad=[0], bad_steps__action='rollback')
    run.train()
    expected = self._with_gaps(self.root / 'expected', {0: 1})
    self.assert_same_end(run, expected)

  @parameterized.parameters(
      ('100 steps', [3, 6], 0, 2), ('4 steps', [5, 7], 4, 6)
  )
  def test_roll_back_to_the_same_step(self, every, bad, step, stop):
    """Both are recorded; and once, where a restart makes them again."""
    fields = dict(
        bad=bad, bad_steps__action='rollback', checkpoint_every=every
    )
    batches = lambda: [
        (r['step'], r['batch']) for r in self.records(bad_steps.KIND)
    ]
    both = [(step, batch) for batch in bad]
    lines = []

    class Killed(Exception):
      pass

    def kill():
      lines.append(batches())
      if len(lines[-1]) == 2:
        raise Killed

    console = faulty.AtSteps(self.said, {stop: kill})
    with self.assertRaises(Killed):
      self.open(console=console, **fields).train()
    self.assertEqual(lines[-1], both)
    run = self.open(**fields)
    self.assertEqual(run.progress.step, step)
    run.train()
    self.assertEqual(batches(), both)
    self.assertEqual(self.steps(), list(range(1, 9)))

  def test_roll_back_to_the_beginning_and_stop_there(self):
    """What is saved there is behind the batch, which is not met again."""
    fields = dict(bad=[0], bad_steps__action='rollback', log_every='100 steps')
    self.assertIsNone(self.open(stalled=1, **fields).train())
    run = self.open(**fields)
    self.assertEqual((run.progress.step, run.progress.left_out), (0, 1))
    run.train()
    self.assertEqual([r['batch'] for r in self.records(bad_steps.KIND)], [0])
    self.assert_same_end(run, self.undisturbed(**fields))

  def test_rolling_back_has_a_limit(self):
    with self.assertRaisesRegex(
        BadStepError, r'3 times the run had to go back \(bad_steps.limit is 2\)'
    ):
      self.open(
          bad=range(3, 99), bad_steps__action='rollback', bad_steps__limit=2
      ).train()

  def test_stop_while_a_batch_is_waited_for(self):
    """The bad step is the last one made, which nobody has looked at yet."""
    with self.assertRaisesRegex(NonFiniteLossError, 'nan near step 3'):
      self.open(bad=[2], stalled=3, log_every='100 steps').train()
    (record,) = self.records(bad_steps.KIND)
    self.assertEqual((record['bad_step'], record['action']), (3, 'stop'))
    self.assertEqual(self.open().progress.step, 2)

  @parameterized.parameters(
      ((), 'stop', 3, 1), ([2], 'skip', 3, 0), ([2], 'rollback', 2, 0)
  )
  def test_restart_after_a_stall(self, bad, action, step, steps):
    """As if there had been none; `steps` is what the sums have after two."""
    fields = dict(bad=bad, bad_steps__action=action, log_every='100 steps')
    self.assertIsNone(self.open(stalled=3, **fields).train())
    run = self.open(**fields)
    self.assertEqual(run.progress.step, step)
    self.assertEqual(run.progress.steps, 2 + steps)
    run.train()
    whole = self.undisturbed(**fields)
    self.assert_same_end(run, whole)
    for kind, name in (('train', 'loss'), (bad_steps.KIND, 'batch')):
      numbers = lambda workdir, kind=kind, name=name: [
          (r['step'], r[name]) for r in self.records(kind, workdir)
      ]
      self.assertEqual(
          numbers(self.workdir), numbers(self.root / 'undisturbed')
      )
    self.assertEqual(self.steps(), [8])

  def test_spike(self):
    """The step that is most above the mean of those before it but one."""
    self.enterContext(absltest.mock.patch.object(bad_steps, '_WARM', 2))
    self.undisturbed()
    losses = [
        record['loss']
        for record in self.records('train', self.root / 'undisturbed')
    ]
    ratios = {
        step: losses[step] / np.mean(losses[: step - 1]) for step in range(3, 8)
    }
    spike = max(ratios, key=ratios.get)
    self.assertGreater(ratios[spike], 1)
    limit = max(1 + 1e-6, 0.9999 * ratios[spike])
    self.open(bad_steps__action='skip', bad_steps__spike=limit).train()
    record = self.records(bad_steps.KIND)[0]
    self.assertEqual(record['bad_step'], spike + 1)
    self.assertRegex(
        record['reason'],
        rf'the loss is {losses[spike]:.4g}, more than [\d.]+ times the usual '
        rf'{np.mean(losses[: spike - 1]):.4g}',
    )
    self.assertNotIn(spike + 1, self.steps())

  @parameterized.parameters(
      (dict(action='ignore'), "action is 'ignore': expected one of"),
      (dict(spike=1.0), 'spike is 1.0: expected a number > 1'),
      (dict(spike=math.nan), 'spike is nan: expected a number > 1'),
      (dict(limit=0), 'limit is 0: expected a whole number from 1'),
  )
  def test_bad_fields(self, fields, message):
    config = self.config()
    config.bad_steps.update(fields)
    with self.assertRaisesRegex(ConfigError, f'bad_steps.{message}'):
      models.check(config)


if __name__ == '__main__':
  absltest.main()
