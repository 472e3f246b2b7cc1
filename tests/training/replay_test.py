"""The determinism report: equal where it is, and where it is not, where not."""

import hashlib
import io
import json
import pathlib
import shutil

import jax
import numpy as np
from absl.testing import absltest, parameterized

from alexnet import verify as verify_lib
from alexnet.checkpointing import manager, workdir
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.metrics import writer
from alexnet.metrics.console import Console
from alexnet.runtime import sharding
from alexnet.training import replay, setup, trainer
from alexnet.training.steps import Steps
from input_pipeline.pipeline import Pipeline
from tests import testing, tiny


def contents(folder):
  """{path: digest and time} of all that is in a folder."""
  return {
      str(path.relative_to(folder)): (
          hashlib.sha256(path.read_bytes()).hexdigest(),
          path.stat().st_mtime_ns,
      )
      for path in sorted(folder.rglob('*'))
      if path.is_file()
  }


class VerifyTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enter_context(cls._temporary()))
    testing.write_images(cls.root / 'images', classes=2, per_class=10)
    cls.run_dir = cls.root / 'run'
    cls.train(cls.run_dir)

  @classmethod
  def train(cls, run_dir, **fields):
    """Makes a run; `a__b` is the field a.b."""
    config = tiny.get_config()
    config.dataset.train_dir = str(cls.root / 'images')
    config.dataset.split_seed = 0
    config.dataset.mean = 'imagenet_channels'
    config.dataset.pca = 'imagenet'
    config.ten_views = False
    # Few layers and pixels, of which the step is compiled in each test.
    for name in ('conv3', 'conv4', 'conv5', 'fc6'):
      config.model[name].features = 0
    config.dataset.size = 40
    config.augmentation.crop_size = 36
    config.augmentation.crop_offsets = 5
    config.log_every = '2 steps'
    config.update_from_flattened_dict(
        {name.replace('__', '.'): value for name, value in fields.items()}
    )
    trainer.create(config, run_dir, Console(io.StringIO())).train()

  @staticmethod
  def _temporary():
    import tempfile
    return tempfile.TemporaryDirectory()

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir()) / 'run'
    shutil.copytree(self.run_dir, self.workdir)

  def verify(self, **options):
    console = Console(io.StringIO())
    return replay.verify(self.workdir, console, **options)

  def bad_batch(self, bad):
    """One of the stream is bad from now on, by its number."""
    batches = Pipeline.training_batches

    def broken(pipeline, first_step, **options):
      stream = batches(pipeline, first_step, **options)
      for number, batch in enumerate(stream, first_step):
        if number == bad:
          batch['shift'] = np.full_like(batch['shift'], np.nan)
        yield batch

    self.enterContext(
        absltest.mock.patch.object(Pipeline, 'training_batches', broken)
    )

  def change_config(self, **fields):
    path = self.workdir / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

  def test_equal_and_nothing_is_written(self):
    before = contents(self.workdir)
    report = self.verify()
    self.assertEqual((report.first, report.last), (4, 6))
    self.assertEqual(report.reference, 'the checkpoint of step 6')
    self.assertEqual(report.differences, [])
    self.assertEqual(report.losses, 1)
    self.assertEqual(report.environment, [])
    self.assertEqual(contents(self.workdir), before)
    self.assertEqual(verify_lib.lines(report)[-1], 'result   equal to the bit')

  def test_a_loss_that_is_recorded_otherwise(self):
    path = self.workdir / 'metrics.jsonl'
    records = writer.read_records(path)
    for record in records:
      if record['kind'] == 'train' and record['step'] == 6:
        record['loss'] = loss = float(np.nextafter(record['loss'], 9))
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    (difference,) = self.verify().differences
    self.assertIn(f'step 6: the loss is {loss!r} in metrics.jsonl', difference)

  def test_one_bit_of_an_array(self):
    """With a manifest made anew: nothing else can notice it."""
    config = workdir.load_config(self.workdir)
    opened = setup.create(
        config, self.workdir, Console(io.StringIO()), training=False
    )
    run = Steps(opened)
    kernel = np.array(run.state.params['fc7']['kernel'])
    kernel.view(np.uint32)[3, 5] ^= 4
    run.state.params['fc7']['kernel'] = jax.device_put(
        kernel, sharding.shardings(kernel, opened.task.mesh)
    )
    opened.recovery.close()
    progress = json.loads(
        (self.workdir / 'checkpoints/6/progress/metadata').read_text()
    )
    shutil.rmtree(self.workdir / 'checkpoints/6')
    store = manager.Checkpoints(self.workdir, 2)
    store.save(6, run.state.as_saved(), progress)
    store.close()
    (difference,) = self.verify().differences
    self.assertRegex(
        difference,
        r'^params/fc7/kernel: 1 of 384 numbers, by at most \S+ \(4 units in '
        r'the last place\); the first at \(3, 5\)',
    )

  def test_other_options_of_the_compiler(self):
    path = self.workdir / workdir.ENVIRONMENT
    sessions = json.loads(path.read_text())
    options = sessions['sessions'][-1]['compile_options']
    self.assertEqual(options['xla_cpu_prefer_vector_width'], 512)
    options['xla_gpu_deterministic_ops'] = True
    path.write_text(json.dumps(sessions))
    (difference,) = self.verify().environment
    self.assertEqual(
        difference,
        'compile_options.xla_gpu_deterministic_ops was True, is None',
    )

  def test_other_settings_of_jax(self):
    path = self.workdir / workdir.ENVIRONMENT
    sessions = json.loads(path.read_text())
    settings = sessions['sessions'][-1]['jax_settings']
    settings['jax_default_matmul_precision'] = 'highest'
    path.write_text(json.dumps(sessions))
    (line,) = self.verify().environment
    self.assertEqual(
        line,
        "jax_settings.jax_default_matmul_precision was 'highest', is None",
    )

  def test_other_precision_and_kernels(self):
    """As if the run had been made on a GPU."""
    path = self.workdir / workdir.ENVIRONMENT
    sessions = json.loads(path.read_text())
    last = sessions['sessions'][-1]
    self.assertEqual((last['precision'], last['kernels']), ('float32', {}))
    last['precision'] = 'tensorfloat32'
    last['kernels'] = {'deterministic': True, 'kept_in': '/caches/gpu'}
    path.write_text(json.dumps(sessions))
    self.assertEqual(self.verify().environment, [
        'kernels.deterministic was True, is None',
        "kernels.kept_in was '/caches/gpu', is None",
        "precision was 'tensorfloat32', is 'float32'",
    ])

  def test_another_seed(self):
    self.change_config(seed=1)
    report = self.verify()
    self.assertRegex(report.differences[0], '^step 6: the loss is .* now$')
    self.assertRegex(report.differences[1], '^params/conv1/')
    self.assertEqual(verify_lib.lines(report)[-1], 'result   DIFFERENT')

  def test_twice_from_the_only_checkpoint(self):
    shutil.rmtree(self.workdir / 'checkpoints/6')
    report = self.verify(steps=1)
    self.assertEqual((report.first, report.last), (4, 5))
    self.assertEqual(report.reference, 'a second replay')
    self.assertEqual(report.differences, [])

  def test_twice_beyond_the_end(self):
    """Where a finished run has one checkpoint, that of its last step."""
    shutil.rmtree(self.workdir / 'checkpoints/4')
    report = self.verify()
    self.assertEqual((report.first, report.last), (6, 16))
    self.assertEqual(report.reference, 'a second replay')
    self.assertEqual((report.losses, report.differences), (0, []))

  def test_twice_and_not_the_same(self):
    """As on a machine that is not deterministic."""
    finish, calls = Steps.finish, []

    def unsteady(run, started):
      calls.append(0)
      result, reason = finish(run, started)
      return {**result, 'loss': result['loss'] + len(calls) * 1e-9}, reason

    with absltest.mock.patch.object(Steps, 'finish', unsteady):
      report = self.verify(checkpoint=4, steps=1)
    self.assertRegex(
        report.differences[0], '^step 5: the loss was .* in the first replay'
    )

  def test_a_step_that_was_left_out(self):
    """The line of step 6 has the loss of that one alone."""
    self.bad_batch(4)
    self.workdir = self.workdir.with_name('skipping')
    self.train(self.workdir, bad_steps__action='skip')
    report = self.verify()
    self.assertEqual((report.first, report.last, report.losses), (4, 6, 1))
    self.assertEqual(report.differences, [])
    report = self.verify(steps=1)
    self.assertEqual(report.reference, 'a second replay')
    self.assertEqual(report.differences, [])

  def test_a_run_that_went_back(self):
    """To step 4, and on with batch 6."""
    self.bad_batch(5)
    self.workdir = self.workdir.with_name('back')
    self.train(
        self.workdir, bad_steps__action='rollback', keep_checkpoints=3
    )
    report = self.verify()
    self.assertEqual((report.first, report.last, report.losses), (4, 6, 1))
    self.assertEqual(report.differences, [])
    shutil.rmtree(self.workdir / 'checkpoints/4')
    report = self.verify()
    self.assertEqual((report.first, report.last, report.losses), (2, 6, 2))
    self.assertEqual(report.differences, [])
    path = self.workdir / writer.FILE
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(''.join(line for line in lines if 'fault' not in line))
    with self.assertRaisesRegex(
        CheckpointError, 'went back between .* steps 2 and 6 .*--checkpoint=6 '
    ):
      self.verify()

  def test_environment(self):
    path = self.workdir / 'environment.json'
    values = json.loads(path.read_text())
    session = values['sessions'][-1]
    self.assertIn('data', session['mesh'])
    session['packages']['jax'] = '0.0.1'
    session['device_kind'] = 'abacus'
    session['mesh']['tower'] = 2
    path.write_text(json.dumps(values))
    report = self.verify(steps=1)
    text = '\n'.join(report.environment)
    self.assertLen(report.environment, 3)
    self.assertIn("device_kind was 'abacus', is 'cpu'", text)
    self.assertIn('mesh.tower was 2, is 1', text)
    self.assertIn("packages.jax was '0.0.1', is", text)

  def test_what_cannot_be(self):
    with self.assertRaisesRegex(CheckpointError, 'of step 5: it has 4, 6'):
      self.verify(checkpoint=5)
    with self.assertRaisesRegex(ConfigError, 'ends at 6: expected at most 0'):
      self.verify(checkpoint=6, steps=1)
    shutil.rmtree(self.workdir / 'checkpoints')
    with self.assertRaisesRegex(CheckpointError, 'has no checkpoint yet'):
      self.verify()


class GapsTest(absltest.TestCase):

  def test_records_of_strangers(self):
    record = lambda batch: {
        'kind': 'fault', 'step': 4, 'action': 'rollback', 'batch': batch
    }
    self.assertEqual(replay._gaps([record(6)]), {4: 3})
    for batch in (2**63, -1, 'six', None, 6.5):
      self.assertEqual(replay._gaps([record(batch)]), {})


class DifferenceTest(parameterized.TestCase):

  def describe(self, wanted, got):
    return replay.describe_difference(
        np.asarray(wanted, np.float32), np.asarray(got, np.float32)
    )

  def test_units_in_the_last_place(self):
    """By hand: the floats beside 0 are the smallest ones, 1e-45."""
    tiny_float = np.float32(1e-45)
    text = self.describe([0, -tiny_float], [0, tiny_float])
    self.assertIn('1 of 2 numbers', text)
    self.assertIn('(2 units', text)
    self.assertIn('first at (1,)', text)

  def test_zeros_of_two_signs(self):
    self.assertIn('(0 units', self.describe([0.0], [-0.0]))

  def test_equal(self):
    self.assertIsNone(self.describe([1, np.nan], [1, np.nan]))


if __name__ == '__main__':
  absltest.main()
