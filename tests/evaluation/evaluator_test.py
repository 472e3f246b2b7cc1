"""Evaluation waits for a batch when the next one has been started."""

import collections
import gc
import signal
import weakref

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.evaluation import evaluator
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import preemption, sharding
from tests import testing

TOTAL, BATCH, CLASSES = 37, 4, 7


class FakePipeline:
  """Logits instead of images, and their labels."""

  def __init__(self, total=TOTAL):
    rng = np.random.default_rng(0)
    self.logits = rng.normal(size=(total, CLASSES)).astype(np.float32)
    self.labels = rng.integers(0, CLASSES, total).astype(np.int32)
    self.evaluation = range(total)

  def evaluation_batches(self, batch_size, image_size=None):
    del image_size
    for start in range(0, len(self.labels), batch_size):
      part = slice(start, start + batch_size)
      batch = {
          'image': self.logits[part],
          'label': self.labels[part],
          'weight': np.ones(len(self.labels[part]), np.float32),
      }
      yield {
          name: np.pad(
              array,
              [(0, batch_size - len(array))] + [(0, 0)] * (array.ndim - 1),
          )
          for name, array in batch.items()
      }


@jax.jit
def eval_step(variables, batch):
  weight, scale = batch['weight'], variables['scale']
  logits = jax.nn.log_softmax(batch['image'] * scale)
  own = jnp.sum(logits * (jnp.arange(CLASSES) == batch['label'][:, None]), 1)
  rank = jnp.sum(logits > own[:, None], axis=1)
  return {
      'loss': jnp.sum(-own * weight),
      'top1': jnp.sum((rank < 1) * weight),
      'top5': jnp.sum((rank < 5) * weight),
      'count': jnp.sum(weight),
      'views': jnp.sum(weight),
  }


@jax.jit
def predict_step(variables, batch):
  logits = batch['image'] * variables['scale']
  return {
      'log_probabilities': jax.nn.log_softmax(logits),
      'label': batch['label'],
      'weight': batch['weight'],
      'views': jnp.ones_like(batch['weight']),
  }


class Waited:
  """What a step has started, which tells when the host waits for it."""

  def __init__(self, array, log, number):
    self._array, self._log, self._number = array, log, number

  def __array__(self, *_, **__):
    if ('wait', self._number) not in self._log:
      self._log.append(('wait', self._number))
    return np.asarray(self._array)


class EvaluatorTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    config = testing.narrow_config()
    config.mesh.data, config.mesh.tower = 2, 1
    config.model.num_classes = CLASSES
    self.mesh = mesh_lib.create_mesh(config)
    self.variables = {'scale': jnp.float32(1.7)}
    self.pipeline = FakePipeline()
    self.log = []

  def run_one(self, function, step, **options):
    return function(
        step, self.variables, self.pipeline, mesh=self.mesh,
        batch_size=BATCH, views='centre', **options,
    )

  def waited_for_each(self, step):
    """The results of each batch, waited for before the next one is started."""
    for batch in self.pipeline.evaluation_batches(BATCH):
      yield jax.device_get(
          step(self.variables, sharding.put_batch(batch, self.mesh))
      )

  def test_result_is_that_of_waiting_for_each_batch(self):
    sums = collections.Counter()
    for result in self.waited_for_each(eval_step):
      for name, value in result.items():
        sums[name] += float(value)
    self.assertEqual(sums['count'], TOTAL)
    self.assertEqual(self.run_one(evaluator.evaluate, eval_step), {
        **{name: sums[name] / TOTAL for name in ('loss', 'top1', 'top5')},
        'count': TOTAL,
        'views': 1,
    })

  def test_predictions_are_those_of_waiting_for_each_batch(self):
    found = self.run_one(evaluator.predict, predict_step)
    wanted = [r['log_probabilities']
              for r in self.waited_for_each(predict_step)]
    np.testing.assert_array_equal(
        found.log_probabilities, np.concatenate(wanted)[:TOTAL]
    )
    np.testing.assert_array_equal(found.labels, self.pipeline.labels)

  def logged(self, step):
    def started(variables, batch):
      number = len([kind for kind, _ in self.log if kind == 'start'])
      self.log.append(('start', number))
      return {
          name: Waited(array, self.log, number)
          for name, array in step(variables, batch).items()
      }

    return started

  @parameterized.named_parameters(
      ('evaluate', evaluator.evaluate, eval_step),
      ('predict', evaluator.predict, predict_step),
  )
  def test_waits_one_batch_late(self, function, step):
    self.run_one(function, self.logged(step))
    count = -(-TOTAL // BATCH)
    wanted = [('start', 0)]
    for number in range(1, count):
      wanted += [('start', number), ('wait', number - 1)]
    self.assertEqual(self.log, [*wanted, ('wait', count - 1)])

  def test_batches_on_the_devices_are_bounded(self):
    """However many there are; one in use, one late, two on their way."""
    # What earlier tests have left need not be looked at again and again.
    gc.freeze()
    self.addCleanup(gc.unfreeze)
    self.pipeline = FakePipeline(25 * BATCH)
    moved_ones, most = [], []

    def counted(variables, batch):
      gc.collect()
      most.append(sum(one() is not None for one in moved_ones))
      return eval_step(variables, batch)

    put = sharding.put_batch

    def put_counted(batch, mesh):
      moved = put(batch, mesh)
      moved_ones.append(weakref.ref(moved['image']))
      return moved

    with absltest.mock.patch.object(sharding, 'put_batch', put_counted):
      self.run_one(evaluator.evaluate, counted)
    self.assertLen(most, 25)
    self.assertLessEqual(max(most), 5)
    self.assertEqual(most[10:20], [most[10]] * 10)

  def test_one_batch(self):
    self.pipeline = FakePipeline(3)
    result = self.run_one(evaluator.evaluate, eval_step)
    self.assertEqual(result['count'], 3)

  def stopped_at(self, number):
    """(result or None, batches started) if a signal comes with a batch.

    It is known when the result of the batch is, as to each of several.
    """
    stop, self.log = preemption.Stop(self.mesh), []

    def step(variables, batch):
      self.log.append(number)
      if len(self.log) == number:
        stop._heard = signal.SIGTERM
      return eval_step(variables, batch)

    try:
      result = self.run_one(evaluator.evaluate, step, stop=stop)
    except preemption.Stopped:
      result = None
    self.assertEqual(stop.name, 'SIGTERM')
    self.assertEmpty(stop._agreement._asked)
    return result, len(self.log)

  def test_a_signal_ends_it_at_a_batch(self):
    self.assertEqual(self.stopped_at(3), (None, 4))
    count = -(-TOTAL // BATCH)
    self.assertEqual(self.stopped_at(count - 1), (None, count))
    # Then it is complete, and training stops.
    result, started = self.stopped_at(count)
    self.assertEqual((result['count'], started), (TOTAL, count))


if __name__ == '__main__':
  absltest.main()
