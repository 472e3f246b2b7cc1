"""A network of another kind, in this one file: nested layers, batch statistics.

Nothing outside knows of it, but it trains, stops, goes on, evaluates and
predicts as AlexNet does.
"""

import io
import json
import pathlib
import signal
import tempfile
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet import models
from alexnet.checkpointing import manager
from alexnet.evaluation import session
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.models.layers import keep
from alexnet.training import setup, trainer
from alexnet.training.steps import Steps
from tests import testing, tiny

# --- The network's file, as in models/ ---

_FEATURES = 8
_MOMENTUM = 0.9


class Block(nn.Module):
  """Convolution, batch normalization over the whole batch, ReLU."""

  data_axis: str | None

  @nn.compact
  def __call__(self, x: jax.Array, training: bool) -> jax.Array:
    x = nn.Conv(_FEATURES, (5, 5), 4, use_bias=False, name='conv')(x)
    x = nn.BatchNorm(
        not training, axis_name=self.data_axis if training else None,
        momentum=_MOMENTUM, name='norm',
    )(x)
    return nn.relu(x)


class Toy(nn.Module):
  """A block, the mean over all places, and a head."""

  classes: int
  dtype: Any = jnp.float32
  tower_axis: str | None = None
  data_axis: str | None = None
  head = 'head'
  layer_names = ('block', 'head')

  @nn.compact
  def __call__(self, images, *, dropout_keys=None):
    x = Block(self.data_axis, name='block')(
        images / 64, dropout_keys is not None
    )
    keep(self, 'block', x)
    x = nn.Dense(self.classes, name='head')(x.mean((1, 2)))
    keep(self, 'head', x)
    return x


NETWORK = models.Network(
    create=lambda config: Toy(config.num_classes),
    checks={},
)

# --- Its runs ---


class ToyTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(
        absltest.mock.patch.dict(models._MODULES, toy=__name__)
    )
    cls.root = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.images = testing.write_images(cls.root / 'images', 3, 9)

  def config(self, data, **fields):
    config = tiny.get_config()
    with config.unlocked():
      config.model = {
          'name': 'toy', 'num_classes': None, 'dtype': 'float32', 'towers': 1,
          'precision': 'tensorfloat32',
      }
    config.dataset.train_dir = str(self.images)
    config.dataset.eval_fraction = 0.34
    config.dataset.size, config.augmentation.crop_size = 76, 72
    config.augmentation.crop_offsets = 4
    config.layer_statistics_images = 6
    config.mesh.data, config.mesh.tower = data, 1
    config.schedule.learning_rate = 0.05
    with config.ignore_type():
      config.update_from_flattened_dict(
          {name.replace('__', '.'): value for name, value in fields.items()}
      )
    return config

  def open(self, name, data, **fields):
    console = Console(io.StringIO())
    return trainer.create(
        self.config(data, **fields), self.root / f'{name}-{data}', console
    )

  def states(self, name, data):
    """What checkpoints of a run have, by step."""
    workdir = self.root / f'{name}-{data}'
    steps = Steps(setup.create(
        self.config(data), workdir, Console(io.StringIO()), training=False
    ))
    found = {}
    for step in manager.complete_steps(workdir):
      steps.go_to(step)
      found[step] = jax.device_get(steps.state)
    return found

  @parameterized.parameters(1, 2)
  def test_trains_stops_and_goes_on(self, data):
    results = self.open('whole', data).train()
    self.assertEqual(results['centre']['count'], 9)
    stopped = self.open('stopped', data)
    put = stopped.steps.start

    def start(batch):
      if stopped.progress.step == 3:
        signal.raise_signal(signal.SIGTERM)
      return put(batch)

    with absltest.mock.patch.object(stopped.steps, 'start', start):
      self.assertIsNone(stopped.train())
    again = self.open('stopped', data)
    self.assertEqual(again.progress.step, 4)
    self.assertEqual(again.train()['centre'], results['centre'])
    ours = self.states('stopped', data)[6]
    jax.tree.map(
        np.testing.assert_array_equal, ours, self.states('whole', data)[6]
    )
    # They are not those of the beginning.
    norm = ours.model_state['batch_stats']['block']['norm']
    self.assertGreater(np.abs(norm['mean']).max(), 1e-3)
    self.assertGreater(np.abs(norm['var'] - 1).max(), 1e-3)

    # As the network that has been trained says of each image.
    workdir = self.root / f'whole-{data}'
    network = loading.load(workdir)
    self.assertEqual(
        jax.tree.map(np.shape, network.model_state),
        {'batch_stats': {'block': {'norm': {'mean': (8,), 'var': (8,)}}}},
    )
    opened = session.open_run(workdir, Console(io.StringIO()))
    self.assertEqual(opened.evaluate('centre'), results['centre'])
    predictions = opened.predict('centre')
    images = [opened.task.evaluation.describe(i) for i in range(9)]
    np.testing.assert_allclose(
        network.predict(images), np.exp(predictions.log_probabilities),
        rtol=1e-4,
    )
    self.assertEqual(network.features(images, 'block').shape, (9, 18, 18, 8))

  def test_statistics_by_numpy(self):
    """Of the first step, whose convolution is done here by hand."""
    run = self.open('first', 1, accumulation=1)
    before = jax.device_get(run.state)
    batch = next(run.steps.batches())
    host = jax.device_get(batch)
    images = np.asarray(run.task.views.training(host), np.float64) / 64
    run.steps.finish(run.steps.start(batch))
    kernel = before.params['block']['conv']['kernel'].astype(np.float64)
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    y = np.stack([
        np.stack([
            np.tensordot(
                padded[:, top : top + 5, left : left + 5], kernel, 3
            )
            for left in range(0, 72, 4)
        ], 1)
        for top in range(0, 72, 4)
    ], 1)
    norm = jax.device_get(run.state).model_state['batch_stats']['block']['norm']
    np.testing.assert_allclose(
        norm['mean'], (1 - _MOMENTUM) * y.mean((0, 1, 2)), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        norm['var'], _MOMENTUM + (1 - _MOMENTUM) * y.var((0, 1, 2)), rtol=1e-3
    )

  def test_equal_on_two_devices(self):
    """Batch statistics are those of the whole batch."""
    losses = {}
    for data in (1, 2):
      run = self.open('equal', data)
      batches = run.steps.batches()
      losses[data] = [
          run.steps.finish(run.steps.start(next(batches)))[0]['loss']
          for _ in range(3)
      ]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-4)

  @parameterized.parameters(1, 2)
  def test_a_bad_step_changes_nothing(self, data):
    run = self.open(
        'skip', data, bad_steps__action='skip', bad_steps__spike=2.0
    )
    before = jax.device_get(run.state)
    batch = next(run.steps.batches())
    with absltest.mock.patch.object(
        run.steps.bad_steps, 'limit', return_value=np.float32(0)
    ):
      _, reason = run.steps.finish(run.steps.start(batch))
    self.assertIn('the loss is', reason)
    after = jax.device_get(run.state)
    self.assertEqual(after.step, before.step + 1)
    jax.tree.map(
        np.testing.assert_array_equal, after.variables, before.variables
    )

  def test_in_parts(self):
    """Statistics of one part after the other."""
    run = self.open('parts', 1, accumulation=2)
    batch = next(run.steps.batches())
    run.steps.finish(run.steps.start(batch))
    norm = jax.device_get(run.state).model_state['batch_stats']['block']['norm']
    self.assertTrue((norm['mean'] != 0).all())
    # From 1, twice a tenth of the way to a number below 0.1.
    self.assertLess(norm['var'].min(), 1)

  def test_carried_over(self):
    """A run that starts from another one takes its statistics, too."""
    self.open('other', 1).train()
    theirs = self.states('other', 1)[6]
    run = self.open(
        'carried', 1, pretrained__workdir=str(self.root / 'other-1'),
        pretrained__layers=('block',),
    )
    ours = jax.device_get(run.state)
    jax.tree.map(
        np.testing.assert_array_equal,
        (ours.params['block'], ours.model_state),
        (theirs.params['block'], theirs.model_state),
    )
    self.assertFalse(np.array_equal(
        ours.params['head']['kernel'], theirs.params['head']['kernel']
    ))

  def test_layer_statistics(self):
    self.open('layers', 1).train()
    lines = (self.root / 'layers-1' / 'metrics.jsonl').read_text().splitlines()
    last = [r for r in map(json.loads, lines) if r['kind'] == 'layers'][-1]
    self.assertContainsSubset(
        {
            'block/dead', 'head/mean', 'block/conv/kernel_norm',
            'block/norm/scale_gradient', 'head/bias_update',
        },
        last,
    )


if __name__ == '__main__':
  absltest.main()
