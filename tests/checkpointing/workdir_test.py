"""Workdirs: of runs that were made before a field was, and on the disk."""

import json
import os
import pathlib

from absl.testing import absltest

from alexnet.checkpointing import workdir
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
    (self.workdir / 'config.json').write_text(json.dumps(values))

  def test_has_plain_rates(self):
    schedule = workdir.load_config(self.workdir).schedule
    self.assertEqual(schedule.batch_scaling, 'none')
    self.assertEqual(schedule.warmup_epochs, 0.0)
    self.assertEqual(schedule.learning_rate, 0.005)

  def test_goes_on(self):
    workdir.check_config(self.workdir, self.config)

  def test_does_not_go_on_with_other_rates(self):
    self.config.schedule.batch_scaling = 'linear'
    with self.assertRaisesRegex(
        CheckpointError,
        "schedule.batch_scaling was 'none', is 'linear'; "
        'schedule.reference_batch_size was 128, is 32',
    ):
      workdir.check_config(self.workdir, self.config)

  def test_does_not_go_on_with_a_warmup(self):
    self.config.schedule.warmup_epochs = 1.0
    with self.assertRaisesRegex(CheckpointError, 'warmup_epochs was 0.0'):
      workdir.check_config(self.workdir, self.config)


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
