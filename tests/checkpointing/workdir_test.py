"""Workdirs: of runs that were made before a field was, and on the disk."""

import json
import os
import pathlib
import shlex
import sys

from absl import flags
from absl.testing import absltest, parameterized
from ml_collections import config_flags

from alexnet import models
from alexnet.checkpointing import continuing, workdir
from alexnet.config.errors import CheckpointError
from alexnet.metrics import writer
from configs import alexnet


class OlderRunTest(absltest.TestCase):
  """The digits' batch is 32, which no older config.json says of its rates."""

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir())
    self.config = alexnet.get_config()
    values = self.config.to_dict()
    for name in ('batch_scaling', 'reference_batch_size', 'warmup_epochs'):
      del values['schedule'][name]
    del values['model']['precision']
    for name in ('crop', 'pad', 'scale', 'area', 'aspect'):
      del values['augmentation'][name]
    for name in ('channels', 'border'):
      del values['dataset'][name]
    (self.workdir / 'config.json').write_text(json.dumps(values))

  def test_has_plain_rates(self):
    schedule = workdir.load_config(self.workdir).schedule
    self.assertEqual(schedule.batch_scaling, 'none')
    self.assertEqual(schedule.warmup_epochs, 0.0)
    self.assertEqual(schedule.learning_rate, 0.005)

  def test_has_had_jaxs_precision(self):
    model = workdir.load_config(self.workdir).model
    self.assertEqual(model.precision, 'tensorfloat32')
    self.config.model.precision = 'highest'
    with self.assertRaisesRegex(
        CheckpointError, "model.precision was 'tensorfloat32', is 'highest'"
    ):
      continuing.check_config(self.workdir, self.config)

  def test_has_colours_and_squares(self):
    config = workdir.load_config(self.workdir)
    models.check(config)
    self.assertEqual(config.dataset.channels, 3)
    self.assertEqual(config.augmentation.crop, 'offsets')
    self.config.augmentation.pad = 4
    with self.assertRaisesRegex(CheckpointError, 'pad was 0, is 4'):
      continuing.check_config(self.workdir, self.config)

  def test_goes_on(self):
    continuing.check_config(self.workdir, self.config)

  def test_does_not_go_on_with_other_rates(self):
    self.config.schedule.batch_scaling = 'linear'
    with self.assertRaisesRegex(
        CheckpointError,
        "schedule.batch_scaling was 'none', is 'linear'; "
        'schedule.reference_batch_size was 128, is 32',
    ):
      continuing.check_config(self.workdir, self.config)

  def test_does_not_go_on_with_a_warmup(self):
    self.config.schedule.warmup_epochs = 1.0
    with self.assertRaisesRegex(CheckpointError, 'warmup_epochs was 0.0'):
      continuing.check_config(self.workdir, self.config)


class EarlierOrderTest(absltest.TestCase):
  """Of a run that was made before images came by `index_shuffle`."""

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir())
    self.config = alexnet.get_config()
    values = self.config.to_dict()
    del values['dataset']['order']
    (self.workdir / 'config.json').write_text(json.dumps(values))

  def test_does_not_go_on(self):
    with self.assertRaisesRegex(
        CheckpointError,
        'an earlier version .* ordered images differently: .* continue it '
        'with that version',
    ):
      continuing.check_config(self.workdir, self.config)

  def test_is_evaluated(self):
    config = workdir.load_config(self.workdir)
    self.assertEqual(config.dataset.order, 'argsort')
    continuing.check_config(self.workdir, config)


class OtherConfigTest(parameterized.TestCase):
  """What a refusal advises is what makes it go on."""

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir()) / 'a run'
    self.workdir.mkdir()
    self.config = alexnet.get_config('folder')
    self.config.schedule.steps = ((0.5, 'conv1', 'both', 0.0),)
    self.config.model.num_classes = 3
    self.config.dataset.eval_split = 'two words'
    workdir.save_config(self.workdir, self.config)

  def refusal(self, **fields):
    config = self.config.copy_and_resolve_references()
    config.update_from_flattened_dict(
        {name.replace('__', '.'): value for name, value in fields.items()}
    )
    with self.assertRaisesRegex(CheckpointError, 'another --workdir') as raised:
      continuing.check_config(self.workdir, config)
    return config, str(raised.exception)

  @parameterized.parameters(
      dict(batch_size=7),
      dict(seed=1, augmentation__flip=False),
      dict(schedule__name='constant', schedule__learning_rate=0.5),
      dict(schedule__steps=(), schedule__geometric__factors=(1.0,)),
      dict(model__conv1__padding=(2, 2)),
      dict(dataset__order='argsort'),
      dict(dataset__eval_split='x', optimizer__momentum=0.0),
      dict(pretrained__layers=('conv1', 'conv2'), dataset__size=250),
  )
  def test_flags(self, **fields):
    config, message = self.refusal(**fields)
    advised = [
        word
        for word in shlex.split(message.split('to continue this one, ')[1])
        if word.startswith('--config.')
    ]
    self.assertLen(advised, len(fields))
    argv = ['main.py', *advised]
    values = flags.FlagValues()
    with absltest.mock.patch.object(sys, 'argv', argv):
      holder = config_flags.DEFINE_config_dict(
          'config', config, flag_values=values
      )
      values(argv)
    continuing.check_config(self.workdir, holder.value)

  def test_a_flag_too_many(self):
    _, message = self.refusal(dataset__split_seed=4)
    self.assertEndsWith(message, 'leave out --config.dataset.split_seed')

  @parameterized.parameters(2, 4)
  def test_other_classes_than_before(self, count):
    """Of the data: the flag would be refused."""
    _, message = self.refusal(model__num_classes=count)
    self.assertEndsWith(message, ', give it the images that it was made with')
    _, message = self.refusal(model__num_classes=count, seed=1)
    self.assertEndsWith(message, 'it was made with and set --config.seed=0')

  @parameterized.parameters('another file', 'many fields')
  def test_the_whole_command(self, what):
    fields = dict(
        batch_size=7, seed=1, model__towers=1, model__activation='tanh',
        dataset__size=100, optimizer__momentum=0.5,
    )
    if what == 'another file':
      fields = dict(batch_size=7)
      saved = self.config.copy_and_resolve_references()
      saved.definition = 'a field of its own'
      workdir.save_config(self.workdir, saved)
    _, message = self.refusal(**fields)
    self.assertIn(f'bring back the config of {self.workdir}/conf', message)
    with absltest.mock.patch.object(sys, 'argv', ['main.py', '--config=a b']):
      workdir.save_environment(self.workdir, {})
    _, message = self.refusal(**fields)
    self.assertEndsWith(
        message,
        'give the command that made it, with the same files: python main.py '
        "'--config=a b'",
    )


class PowerCutTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir())

  def check(self, name, write):
    """Nothing gets the name before it is on the disk with all its bytes."""
    synced, replaced = {}, []

    def fsync(descriptor):
      status = os.fstat(descriptor)
      synced[status.st_ino] = status.st_size

    def replace(source, target, replace=os.replace):
      status = os.stat(source)
      replaced.append((pathlib.Path(target), status.st_size))
      self.assertEqual(synced.get(status.st_ino), status.st_size)
      replace(source, target)

    with (
        absltest.mock.patch.object(os, 'fsync', fsync),
        absltest.mock.patch.object(os, 'replace', replace),
    ):
      write()
    path = self.workdir / name
    self.assertEqual(replaced, [(path, path.stat().st_size)])

  def test_config(self):
    self.check(
        'config.json',
        lambda: workdir.save_config(self.workdir, alexnet.get_config()),
    )

  def test_metrics(self):
    with open(self.workdir / writer.FILE, 'w') as f:
      for step in range(9):
        f.write(json.dumps({'kind': 'train', 'step': step}) + '\n')
    self.check(
        writer.FILE, lambda: writer.Writer(self.workdir, 7).close()
    )
    self.assertLen(writer.read_records(self.workdir / writer.FILE), 8)



if __name__ == '__main__':
  absltest.main()
