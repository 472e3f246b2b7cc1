"""The step on every mesh: same losses, same parameters, dropout included."""

import functools
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.config.errors import ConfigError
from alexnet.evaluation import eval_steps
from alexnet.models import create_model
from alexnet.ops import losses as losses_lib
from alexnet.runtime import compilation, sharding
from alexnet.runtime import mesh as mesh_lib
from alexnet.training import optimizer, train_step
from tests import testing

STEPS = 3
# The meshes sum in another order. Losses are near 2. Where a last bit decides
# which pixel is a maximum, the gradient of a channel moves: parameters are
# compared with the way they have come.
LOSS_TOLERANCE = 2e-6
SHARE_OF_MOVEMENT = 0.01


def rates_of(params, rate=0.001):
  return jax.tree.map(
      lambda _: np.float32(rate),
      params,
      is_leaf=lambda x: hasattr(x, 'shape'),
  )


def config_for(data=1, tower=1, accumulation=1, classes=10, recipe='paper'):
  config = testing.narrow_config(recipe=testing.RECIPES[recipe])
  config.model.num_classes = classes
  config.mesh.data, config.mesh.tower = data, tower
  config.accumulation = accumulation
  return config


@functools.cache
def three_steps(**kwargs):
  """(losses, initial params, params) of three steps on fixed noise."""
  config = config_for(**kwargs)
  classes = config.model.num_classes
  # With some other seeds the rounding of a sum decides which of two pixels is
  # the largest of a window, and shares of the way differ by 1e-2, not 3e-5.
  batch = testing.random_batch(np.random.default_rng(1), 8, classes)
  mesh = mesh_lib.create_mesh(config)
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  state = sharding.initialize(
      lambda key: train_step.create_state(model, rule, key), mesh, 0
  )
  step = train_step.make_train_step(
      model=model,
      optimizer=rule,
      mesh=mesh,
      state=state,
      images=lambda batch: batch['image'],
      seed=0,
      accumulation=config.accumulation,
  )
  losses = []
  initial = jax.tree.map(np.asarray, state.params)
  rates = rates_of(state.params)
  for _ in range(STEPS):
    state, metrics = step(state, sharding.put_batch(batch, mesh), rates)
    losses.append(float(metrics['loss']))
  return losses, initial, jax.tree.map(np.asarray, state.params)


def assert_equal_runs(one, other):
  np.testing.assert_allclose(one[0], other[0], atol=LOSS_TOLERANCE)
  # Random numbers are the same on every mesh, to the last bit.
  jax.tree.map(np.testing.assert_array_equal, one[1], other[1])

  def compare(initial, a, b):
    movement = np.abs(b - initial).max()
    np.testing.assert_array_less(0, movement)
    np.testing.assert_allclose(a, b, rtol=0, atol=SHARE_OF_MOVEMENT * movement)

  jax.tree.map(compare, one[1], one[2], other[2])


class SharedTest(absltest.TestCase):

  def test_equal_runs_share_one_program(self):
    """They differ in their seeds and images, which are its arguments."""

    def program(seed=0, decay=0.1, width=None, data=1, **options):
      config = config_for(data=data)
      config.optimizer.weight_decay = decay
      if width:
        config.model.fc6.features = width
      model = create_model(config.model)
      rule = optimizer.create_optimizer(config.optimizer)
      state = jax.eval_shape(
          lambda key: train_step.create_state(model, rule, key),
          jax.random.key(0),
      )
      step = train_step.make_train_step(
          model=model, optimizer=rule, mesh=mesh_lib.create_mesh(config),
          state=state, images=lambda batch: batch['image'], seed=seed,
          **options,
      )
      return step._compiled.function

    first = program()
    self.assertIs(program(seed=1), first)
    others = [
        program(decay=0.2), program(width=64), program(data=2),
        program(accumulation=2), program(guarded=True),
        program(deterministic=True),
    ]
    self.assertNotIn(first, others)
    self.assertLen({id(other) for other in others}, len(others))


class TrainStepTest(parameterized.TestCase):

  def test_the_loss_falls(self):
    losses, _, _ = three_steps()
    self.assertLess(losses[2], losses[0])

  @parameterized.parameters(*testing.MESHES[1:])
  def test_meshes_are_equal(self, data, tower):
    assert_equal_runs(three_steps(data=data, tower=tower), three_steps())

  def test_accumulation_is_equal(self):
    assert_equal_runs(three_steps(accumulation=4), three_steps())
    assert_equal_runs(
        three_steps(data=2, tower=2, accumulation=2), three_steps()
    )

  def test_run_145_is_equal_on_two_towers(self):
    assert_equal_runs(
        three_steps(data=1, tower=2, recipe='2012'),
        three_steps(recipe='2012'),
    )

  def test_a_class_count_that_the_towers_do_not_divide(self):
    assert_equal_runs(
        three_steps(tower=2, data=2, classes=11), three_steps(classes=11)
    )

  def test_loss_is_cross_entropy(self):
    """Against logits of the plain module and NumPy's log-softmax."""
    config = config_for()
    model = create_model(config.model)
    batch = testing.random_batch(np.random.default_rng(1), 8, 10)
    params = testing.init_of(model)(
        jax.random.key(0), jnp.zeros((1, 224, 224, 3))
    )['params']
    keys = train_step.dropout_keys(
        jax.random.key(0), jnp.int32(0), jnp.int32(0), 8
    )
    logits = np.asarray(
        testing.apply_of(model)(
            {'params': params}, batch['image'], dropout_keys=keys
        ),
        np.float64,
    )
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_softmax[np.arange(8), batch['label']].mean()
    self.assertAlmostEqual(three_steps()[0][0], expected, delta=1e-5)

  def test_dropout_keys_depend_on_step_and_place_only(self):
    keys = lambda seed, step, first, n: jax.random.key_data(
        train_step.dropout_keys(
            jax.random.key(seed), jnp.int32(step), jnp.int32(first), n
        )
    )
    whole = keys(0, 5, 0, 8)
    np.testing.assert_array_equal(whole[4:], keys(0, 5, 4, 4))
    self.assertFalse(np.any(np.all(whole == keys(0, 6, 0, 8), axis=1)))
    self.assertFalse(np.any(np.all(whole == keys(1, 5, 0, 8), axis=1)))
    self.assertLen(np.unique(whole, axis=0), 8)


class EvalStepTest(parameterized.TestCase):

  def _sums(self, data, tower, views=3, classes=10):
    config = config_for(data, tower, classes=classes)
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    rng = np.random.default_rng(1)
    images = testing.random_batch(rng, 4 * views, classes)['image']
    self.batch = {
        'image': images.reshape(4, views, 224, 224, 3),
        'label': np.array([1, 7, 3, 3], np.int32),
        'weight': np.array([1, 1, 1, 0], np.float32),
    }
    params = sharding.initialize(
        lambda key: model.init(key, jnp.zeros((1, 224, 224, 3)))['params'],
        mesh,
        0,
    )
    # Far from all classes being the same.
    params = jax.tree.map(lambda x: 3 * x, params)
    step = eval_steps.make_eval_step(
        model=model,
        mesh=mesh,
        variables={'params': params},
        images=lambda batch: batch['image'],
    )
    sums = step({'params': params}, sharding.put_batch(self.batch, mesh))
    return jax.device_get(sums), model, jax.device_get(params)

  @parameterized.parameters(*testing.MESHES)
  def test_numpy(self, data, tower):
    sums, model, params = self._sums(data, tower)
    logits = testing.apply_of(model)(
        {'params': params}, self.batch['image'].reshape(-1, 224, 224, 3)
    )
    exp = np.exp(np.asarray(logits, np.float64))
    mean = (exp / exp.sum(1, keepdims=True)).reshape(4, 3, 10).mean(1)[:3]
    order = np.argsort(-mean, axis=1)
    labels = self.batch['label'][:3, None]
    loss = -np.log(np.take_along_axis(mean, labels, 1)).sum()
    np.testing.assert_allclose(sums['loss'], loss, rtol=1e-5)
    self.assertEqual(sums['top1'], (order[:, :1] == labels).sum())
    self.assertEqual(sums['top5'], (order[:, :5] == labels).sum())
    self.assertEqual(sums['count'], 3)
    self.assertEqual(sums['views'], 3 * 3)


class CompilerTest(absltest.TestCase):

  def test_what_has_been_used_is_not_kept(self):
    """Not all results first, and then all sums of them."""

    def sums(x):
      return sum((jnp.sin(x * i) @ x @ x).sum() for i in range(1, 9))

    x = jnp.ones((512, 512))
    program = compilation.jit_for(jax.devices('cpu')[0], x.dtype, sums)
    memory = program.lower(x).compile().memory_analysis()
    self.assertLess(memory.temp_size_in_bytes, 4 * x.nbytes)


class RanksTest(absltest.TestCase):

  def test_by_hand(self):
    scores = jnp.array([
        [0.1, 0.5, 0.4],
        [0.1, 0.5, 0.4],
        [0.3, 0.3, 0.3],
        [0.3, 0.3, 0.3],
        [jnp.nan, jnp.nan, jnp.nan],
        [0.1, jnp.nan, 0.4],
    ])
    labels = jnp.array([1, 0, 0, 2, 0, 1])
    np.testing.assert_array_equal(
        losses_lib.ranks(scores, labels), [0, 2, 0, 2, 3, 3]
    )


SMALL = {
    'label': np.int32([3, -1, 2**31 - 1, 0]),
    'offset': np.int32([[1, 2], [-3, 4], [5, 6], [7, 8]]),
    'flip': np.array([True, False, True, True]),
    'shift': np.float32([
        [1.5, -0.0, np.inf], [1e-45, 2, 3], [np.nan, 4, 5], [6, 7, 8]
    ]),
}
LARGE = {
    'image': np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3),
    'count': np.int64([1, 2, 3, 4]),  # JAX makes something else of it.
}


def count_transfers():
  """Counts arrays that are moved, by their shapes on the host."""
  make, shapes = jax.make_array_from_process_local_data, []

  def note(sharding, array, shape):
    shapes.append(array.shape)
    return make(sharding, array, shape)

  return shapes, absltest.mock.patch.object(
      jax, 'make_array_from_process_local_data', note
  )


class BatchTest(parameterized.TestCase):

  def assert_same(self, got, wanted):
    self.assertEqual(set(got), set(wanted))
    self.assertLen(got, len(wanted))
    for name, array in wanted.items():
      # To the bit: also a NaN, and a zero's sign.
      self.assertEqual(np.asarray(got[name]).tobytes(), array.tobytes(), name)
      self.assertEqual(got[name].shape, array.shape)
      self.assertEqual(got[name].dtype, array.dtype)

  @parameterized.parameters((1, 1), (2, 1), (2, 2))
  def test_small_ones_travel_as_one(self, data, tower):
    mesh = mesh_lib.create_mesh(config_for(data=data, tower=tower))
    shapes, counting = count_transfers()
    with counting:
      batch = sharding.put_batch({**SMALL, **LARGE}, mesh)
    self.assertCountEqual(shapes, [(4, 5, 5, 3), (4,), (4, 7)])
    wanted = {**SMALL, **LARGE, 'count': np.int32([1, 2, 3, 4])}
    self.assert_same(batch, wanted)
    self.assert_same(jax.jit(lambda batch: {**batch})(batch), wanted)
    # Each replica has its examples.
    rows = jax.shard_map(
        lambda batch: {name: x[:1] for name, x in batch.items()},
        mesh=mesh, in_specs=sharding.BATCH, out_specs=sharding.BATCH,
    )(batch)
    step = 4 // data
    self.assert_same(rows, {name: x[::step] for name, x in wanted.items()})

  def test_parts_of_a_batch(self):
    """As accumulation takes it apart."""
    batch = sharding.Batch.pack({**SMALL, 'image': LARGE['image']})
    parts = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    self.assert_same(
        jax.tree.map(lambda x: x[1], parts),
        {**{name: x[2:] for name, x in SMALL.items()},
         'image': LARGE['image'][2:]},
    )

  def test_one_alone(self):
    batch = sharding.Batch.pack({'label': SMALL['label'], **LARGE})
    self.assertLen(jax.tree.leaves(batch), 3)
    self.assertIs(batch['label'], SMALL['label'])
    with self.assertRaises(KeyError):
      batch['offset']


class TransfersTest(absltest.TestCase):

  def test_of_a_run(self):
    """Rates only when they change, whatever the number of parameters."""
    config = config_for(data=2)
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    rule = optimizer.create_optimizer(config.optimizer)
    state = sharding.initialize(
        lambda key: train_step.create_state(model, rule, key), mesh, 0
    )
    step = train_step.make_train_step(
        model=model, optimizer=rule, mesh=mesh, state=state,
        images=lambda batch: batch['image'], seed=0, guarded=True,
    )
    batch = testing.random_batch(np.random.default_rng(1), 8, 10)
    batch = sharding.put_batch(batch, mesh)
    count = len(jax.tree.leaves(state.params)) + 1
    shapes, counting = count_transfers()
    moved = []
    with counting:
      for rate, limit in ((0.1, 9.0), (0.1, 9.0), (0.2, 9.0), (0.2, 8.0)):
        state, _ = step(state, batch, rates_of(state.params, rate), limit)
        moved.append([*shapes])
        shapes.clear()
    (first, *others) = moved
    self.assertIn((count,), first)  # And the key of dropout.
    self.assertEqual(others, [[], [(count,)], [(count,)]])
    # What `lower` describes is what is called, with its shardings.
    rates = rates_of(state.params, 0.1)
    self.assertEqual(
        step.lower(state, batch, rates).as_text(),
        step._compiled.lower(state, batch, *step._moved).as_text(),
    )

  def test_rates_of_other_parameters(self):
    state = train_step.TrainState(None, {'a': {'kernel': 1}}, None)
    step = train_step.TrainStep(None, state.params, 0, None)
    with self.assertRaisesRegex(ValueError, 'b'):
      step(state, {}, {'b': {'kernel': 0.1}})


class PutAheadTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.asked = 0

  def batches(self, count):
    for number in range(count):
      self.asked += 1
      yield {'label': np.arange(10 * number, 10 * number + 4)}

  @parameterized.parameters((1, 1), (2, 1), (1, 2), (2, 2))
  def test_all_in_order(self, data, tower):
    mesh = mesh_lib.create_mesh(config_for(data=data, tower=tower))
    got = list(sharding.put_ahead(self.batches(5), mesh))
    self.assertLen(got, 5)
    for number, batch in enumerate(got):
      np.testing.assert_array_equal(
          batch['label'], np.arange(10 * number, 10 * number + 4)
      )
      # Each of the data devices has its part only.
      for shard in batch['label'].addressable_shards:
        self.assertEqual(shard.data.shape, (4 // data,))
      self.assertLen(batch['label'].addressable_shards, data * tower)

  @parameterized.parameters(0, 1, 2)
  def test_how_far_ahead(self, ahead):
    mesh = mesh_lib.create_mesh(config_for())
    batches = sharding.put_ahead(self.batches(5), mesh, ahead=ahead)
    self.assertEqual(self.asked, 0)
    for number in range(5):
      next(batches)
      # Its thread goes on while nobody waits for it, but not for ever.
      expected, end = min(5, number + 1 + ahead), time.monotonic() + 60
      while self.asked < expected and time.monotonic() < end:
        time.sleep(0.01)
      time.sleep(0.05)
      self.assertEqual(self.asked, expected)
    with self.assertRaises(StopIteration):
      next(batches)

  def test_who_makes_steps_moves_nothing(self):
    mesh, threads = mesh_lib.create_mesh(config_for()), []
    put = sharding.put_batch

    def note(*arguments):
      threads.append(threading.current_thread())
      return put(*arguments)

    with absltest.mock.patch.object(sharding, 'put_batch', note):
      self.assertLen(list(sharding.put_ahead(self.batches(4), mesh)), 4)
    self.assertLen(threads, 4)
    self.assertNotIn(threading.current_thread(), threads)

  def test_what_is_read_is_closed(self):
    closed = []

    def batches():
      try:
        yield from self.batches(5)
      finally:
        closed.append(True)

    mesh = mesh_lib.create_mesh(config_for())
    stream = sharding.put_ahead(batches(), mesh)
    next(stream)
    stream.close()
    self.assertEqual(closed, [True])

  def test_fewer_than_it_is_ahead(self):
    mesh = mesh_lib.create_mesh(config_for())
    self.assertLen(list(sharding.put_ahead(self.batches(1), mesh)), 1)
    self.assertEmpty(list(sharding.put_ahead(self.batches(0), mesh)))


class PartOfProcessTest(parameterized.TestCase):
  """Owners of the devices, [data, tower], to the part that each reads."""

  @parameterized.parameters(
      ([[0, 0], [1, 1]], {0: (0, 2), 1: (1, 2)}),
      ([[0], [0], [1], [1]], {0: (0, 2), 1: (1, 2)}),
      ([[0], [1], [2], [3]], {i: (i, 4) for i in range(4)}),
  )
  def test_parts(self, owners, parts):
    for process, part in parts.items():
      self.assertEqual(
          sharding.part_of_process(self.devices(owners), process), part
      )

  @parameterized.parameters(
      ([[0, 0]], 1, 'process 1 has no device in the mesh of 1 x 2'),
      ([[0], [0], [1]], 1, 'equal blocks'),
      ([[0], [1], [0], [1]], 0, 'equal blocks'),
      ([[0, 1]], 0, r'towers of a replica lie in the processes \[0, 1\]'),
  )
  def test_refused(self, owners, process, message):
    with self.assertRaisesRegex(ConfigError, message):
      sharding.part_of_process(self.devices(owners), process)

  def devices(self, owners):
    make = lambda owner: types.SimpleNamespace(process_index=owner)
    return np.vectorize(make, otypes=[object])(np.array(owners))


class MeshTest(parameterized.TestCase):

  @parameterized.parameters(
      (dict(tower=8), r'needs 8 devices, found 4.*--config\.mesh'),
      (dict(tower=4, data=1), 'more tower devices than the model has towers'),
      (dict(data=3), r'batch_size 8 .*3 data-parallel'),
      (dict(data=2, accumulation=3), r'batch_size 8 .*2 data.*times 3 parts'),
  )
  def test_message(self, fields, message):
    config = config_for(**fields)
    if fields.get('tower') == 8:
      config.mesh.data, config.mesh.tower = 4, 2
    with self.assertRaisesRegex(ConfigError, message):
      mesh_lib.create_mesh(config)

  def test_one_tower_is_not_split(self):
    config = config_for(tower=2)
    config.model.towers = 1
    with self.assertRaisesRegex(ConfigError, r'--config\.mesh\.tower=1'):
      mesh_lib.create_mesh(config)

  def test_normalization_across_towers_is_not_split(self):
    config = config_for(tower=2)
    config.model.lrn.across_towers = True
    with self.assertRaisesRegex(ConfigError, 'across_towers'):
      mesh_lib.create_mesh(config)

  def test_without_accelerators_one_device_is_the_default(self):
    config = config_for(data=None, tower=None)
    mesh = mesh_lib.create_mesh(config)
    self.assertEqual(dict(mesh.shape), {'data': 1, 'tower': 1})

  @parameterized.parameters(
      (1, 2, (1, 1)), (2, 2, (1, 2)), (8, 2, (4, 2)), (8, 1, (8, 1)),
      (3, 2, (1, 2)),
  )
  def test_default_with_accelerators(self, count, towers, expected):
    config = config_for(data=None, tower=None)
    config.model.towers = towers
    config.batch_size = 128
    accelerator = absltest.mock.Mock(platform='gpu')
    with (
        absltest.mock.patch.object(
            jax, 'devices', return_value=[accelerator] * count
        ),
        absltest.mock.patch.object(jax, 'make_mesh') as make_mesh,
    ):
      mesh_lib.create_mesh(config)
    self.assertEqual(make_mesh.call_args.args[0], expected)

  def test_every_leaf_is_cut_on_its_last_axis(self):
    config = config_for(tower=2, data=2, classes=11)
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    params = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))
    )['params']
    specs = sharding.specs(params, mesh)
    cut = jax.sharding.PartitionSpec
    self.assertEqual(
        specs['conv2']['kernel'], cut(None, None, None, 'tower')
    )
    self.assertEqual(specs['fc6']['bias'], cut('tower'))
    self.assertEqual(specs['fc8']['kernel'], cut())


if __name__ == '__main__':
  absltest.main()
