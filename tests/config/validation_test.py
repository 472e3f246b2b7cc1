"""Every field of a config, with what it may not be: refused by its name."""

import math
import pathlib

import jax
import ml_collections
from absl.testing import absltest, parameterized

from alexnet import models
from alexnet.checkpointing.workdir import flatten
from alexnet.config.errors import ConfigError
from alexnet.metrics.console import Console
from alexnet.training import trainer
from configs import alexnet, alexnet_2012_six_finetuning, cuda_convnet, figure1
from input_pipeline import datasets
from tests import testing

CONFIGS = {
    'alexnet': alexnet.get_config,
    'finetuning': alexnet_2012_six_finetuning.get_config,
    'figure1': figure1.get_config,
    'definition': lambda: cuda_convnet.get_config('layers.cfg'),
}
# Of no field of any kind: some have a reason to be text, or any number.
NEVER = (object(), b'bytes', {'a': 1}, [math.nan], math.nan)
# Fields, and values that they may not have, from the issue of wrong numbers.
WRONG = (
    ('seed', (-1, 0.5, True, '0', 2**32)),
    ('batch_size', (0, -8, 1.5, True, None, 2**40)),
    ('accumulation', (0, -1, None)),
    ('duration', ('never', '-1 epochs', '0 steps', 'nan epochs', 'inf steps',
                  '1e300 epochs', '5 hours', 90, None, '')),
    ('until_train_error', (-0.1, 1.0, math.nan, '0.5')),
    ('evaluate_every', (0, '0 steps', '-1 epochs', None, 'often')),
    ('keep_checkpoints', (0, -1, 1.5, None)),
    ('layer_statistics_images', (-1, 1.5)),
    ('ten_views', (1, 'yes', None)),
    ('pretrained.layers', ('conv1', (1,), None)),
    ('optimizer.momentum', (-0.1, 1.0, 1.5, math.nan, math.inf, '0.9')),
    ('optimizer.weight_decay', (-1e-9, math.inf, math.nan, None)),
    ('optimizer.layer_rate_factors', ((('conv1', -1.0),), (('conv1',),),
                                      ((1, 1.0),), (('conv1', math.nan),))),
    ('schedule.name', ('plateu', '', None, 3)),
    ('schedule.learning_rate', (0, -0.1, math.nan, math.inf, 1e39, '0.1')),
    ('schedule.batch_scaling', ('square', None)),
    ('schedule.warmup_epochs', (-1.0, math.inf)),
    ('schedule.plateau.patience', (0, -1, 0.5)),
    ('schedule.plateau.factor', (0.0, -0.1, 1.5, math.nan)),
    ('schedule.plateau.max_drops', (-1,)),
    ('schedule.geometric.factors', ((), (-1.0,), (math.inf,), 0.1)),
    ('schedule.steps', (((1.0, 'all', 'kernel'),),
                        ((-1.0, 'all', 'kernel', 0.1),),
                        ((1.0, 'all', 'weights', 0.1),),
                        ((1.0, 'all', 'kernel', -0.1),))),
    ('dataset.name', ('', None, 3)),
    ('dataset.train_dir', ('a\0b', 3)),
    ('dataset.eval_fraction', (0.0, 1.0, -0.1, math.nan)),
    ('dataset.size', (0, -1, 513, 256.0, None)),
    ('dataset.channels', (0, 2, 4, 3.0, True, None)),
    ('dataset.border', (-1, 257, 1.0, None)),
    ('dataset.mean', ('median', None)),
    ('augmentation.crop', ('pad', '', None)),
    ('augmentation.pad', (-1, 257, 0.5, None)),
    ('augmentation.scale', ((256,), (256, 480, 512), (480, 256), (0, 256),
                            (256, 513), (256.0, 480.0), 256, None)),
    ('augmentation.area', ((0.0, 1.0), (0.08, 1.01), (1.0, 0.08), 0.08,
                           (0.08, math.nan), ('a', 'b'))),
    ('augmentation.aspect', ((0.0, 1.0), (1.0, 17.0), (4 / 3, 3 / 4), ())),
    ('augmentation.crop_size', (0, -1, 300, 513)),
    ('augmentation.crop_offsets', (0, -1)),
    ('augmentation.flip', (1, 'True')),
    ('augmentation.lighting_divisor', (0.0, -1.0, math.nan)),
    ('mesh.tower', (0, -1, 1.5, True)),
    ('mesh.data', (0, -1)),
    ('model.name', ('vgg', None)),
    ('model.num_classes', (0, -1, 10**12)),
    ('model.towers', (0, 3, True, 2.0, None)),
    ('model.width', (0, -1, math.nan, 1e6)),
    ('model.activation', ('gelu',)),
    ('model.conv1.features', (-2, 10**12, 1.5)),
    ('model.conv1.padding', ((1,), (1, -1), (1, 10**9), 3, None)),
    ('model.conv2.stride', (0, -1)),
    ('model.conv3.stddev', (-0.1, math.nan)),
    ('model.conv4.bias', (math.inf, None)),
    ('model.conv5.after', (('pol',), 'pool')),
    ('model.fc6.dropout', (-0.1, 1.0, math.nan)),
    ('model.lrn.n', (0, -5)),
    ('model.pool.window', (0,)),
    ('model.dtype', ('float16', None)),
)


def put(config, field, value):
  """Sets a field to anything."""
  *path, name = field.split('.')
  for part in path:
    config = config[part]
  with config.ignore_type(), config.unlocked():
    object.__getattribute__(config, '_fields')[name] = value


class ConfigChecksTest(parameterized.TestCase):

  @parameterized.parameters(*CONFIGS)
  def test_is_of_every_field(self, name):
    """A new field needs a row in validation.py."""
    config = CONFIGS[name]()
    models.check(config)
    fields = set(flatten(config.to_dict()))
    self.assertEqual(fields - set(models.fields(config)), set())
    self.assertEqual(set(models.fields(config)) - fields, set())

  @parameterized.parameters(*CONFIGS)
  def test_every_field_refuses(self, name):
    for field in models.fields(CONFIGS[name]()):
      for value in NEVER:
        config = CONFIGS[name]()
        put(config, field, value)
        with self.assertRaisesRegex(
            ConfigError, rf'^{field} is .*: expected ', msg=f'{field} {value}'
        ):
          models.check(config)

  @parameterized.parameters(*CONFIGS)
  def test_a_field_that_is_not_there(self, name):
    """As in the config.json of another program."""
    for field in models.fields(CONFIGS[name]()):
      config = CONFIGS[name]()
      *path, last = field.split('.')
      part = config
      for one in path:
        part = part[one]
      del part[last]
      if field == 'model.name':
        continue  # It says which network the other fields are of.
      with self.assertRaisesRegex(ConfigError, f'^{field} is not there'):
        models.check(config)

  @parameterized.parameters(*WRONG)
  def test_wrong_values(self, field, values):
    for value in values:
      config = alexnet.get_config()
      put(config, field, value)
      with self.assertRaisesRegex(
          ConfigError, rf'^{field} is .*expected', msg=f'{value!r}'
      ):
        models.check(config)

  @parameterized.parameters(
      (dict(dataset__size=200), 'crop_size is 224 and dataset.size is 200'),
      (dict(augmentation__crop_offsets=40), 'crop_offsets is 40: expected 1'),
      (dict(batch_size=10, accumulation=3), 'batch_size 10 cannot be divided'),
      (dict(until_train_error=0.5, log_every='never'), 'until_train_error is'),
      (dict(schedule__name='plateau', evaluate_every='never'), 'plateau'),
      (dict(schedule__name='definition'), "schedule.name is 'definition'"),
      (dict(model__pool__window=1), 'model.pool has window 1 and stride 2'),
  )
  def test_what_does_not_fit(self, fields, message):
    config = alexnet.get_config()
    for name, value in fields.items():
      put(config, name.replace('__', '.'), value)
    with self.assertRaisesRegex(ConfigError, message):
      models.check(config)

  def test_before_data_is_opened(self):
    config = testing.narrow_config('folder')
    config.optimizer.momentum = 1.5
    console = Console()
    folder = pathlib.Path(self.create_tempdir()) / 'run'
    with (
        absltest.mock.patch.object(
            datasets, 'create_sources', side_effect=AssertionError('opened')
        ),
        self.assertRaisesRegex(ConfigError, r'^optimizer.momentum is 1\.5'),
    ):
      trainer.create(config, folder, console)
    self.assertFalse(folder.exists())

  def test_too_many_parameters(self):
    """4 TB, of which not one is made."""
    config = testing.narrow_config()
    config.model.fc6.features = config.model.fc7.features = 2**20
    with (
        absltest.mock.patch.object(
            jax, 'jit', side_effect=AssertionError('compiled')
        ),
        self.assertRaisesRegex(ConfigError, r'has 1(,\d+){4} parameters'),
    ):
      trainer.create(config, pathlib.Path('/nowhere'), Console())

  def test_numbers_of_numpy(self):
    import numpy as np

    config = alexnet.get_config()
    put(config, 'batch_size', np.int64(8))
    put(config, 'schedule.learning_rate', np.float32(0.5))
    models.check(config)

  def test_a_config_that_is_none(self):
    config = ml_collections.ConfigDict({'model': {'name': 'cuda_convnet'}})
    with self.assertRaisesRegex(ConfigError, 'is not there: expected'):
      models.check(config)


if __name__ == '__main__':
  absltest.main()
