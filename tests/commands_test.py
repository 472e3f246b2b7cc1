"""Commands as a user types them: messages, exit status, sweeps, imports."""

import io
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from alexnet import sweep as sweep_lib
from alexnet.analysis.paper import sweep_table
from alexnet.checkpointing import workdir
from alexnet.config import sweep
from alexnet.config.errors import ConfigError
from alexnet.metrics.console import Console
from alexnet.models import create_model
from alexnet.runtime import mesh
from configs import (
  alexnet,
  alexnet_2012,
  alexnet_2012_geometric,
  alexnet_2012_six,
  alexnet_2012_six_finetuning,
  alexnet_2012_six_pretraining,
)
from input_pipeline.errors import DataError
from tests import commands, definitions, testing, tiny

ROOT = pathlib.Path(__file__).parents[1]


def run_command(*arguments):
  """(exit status, stdout, stderr) of `python ...` in the repository."""
  result = commands.run(*arguments)
  return result.returncode, result.stdout, result.stderr


def run_code(code):
  """The same of a program, in an interpreter that has imported nothing."""
  result = subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  return result.returncode, result.stdout, result.stderr


class MessageTest(parameterized.TestCase):

  @parameterized.parameters(
      (('--config.nonsense=3',), "nonsense'.*--config.nonsense=3"),
      (('--config.model.towrs=1',), 'Did you mean "towers"'),
      (('--config.batch_size=many',), "invalid literal.*'many'"),
      (('--config.model.conv1.padding=abc',), 'conv1.padding'),
      (('--config=configs/none.py',), 'configs/none.py'),
      (('--config=configs/alexnet.py:folder',), 'dataset.train_dir'),
      (('--config=configs/alexnet.py:prepared',), 'dataset.dir to one that'),
      (('--config=configs/alexnet.py:nonsense',), "'nonsense' is not known"),
      (('--config.batch_size=9', '--config.mesh.data=2'),
       'batch_size 9 cannot be divided equally by 2'),
  )
  def test_one_message_and_no_traceback(self, flags, message):
    if not any(flag.startswith('--config=') for flag in flags):
      flags = ('--config=configs/alexnet.py', *flags)
    directory = self.create_tempdir().full_path
    status, _, error = run_command('main.py', f'--workdir={directory}', *flags)
    self.assertEqual(status, 1)
    self.assertNotIn('Traceback', error)
    self.assertRegex(error.replace('\n', ' '), message)

  def test_required_flags(self):
    status, _, error = run_command('main.py', '--workdir=x')
    self.assertEqual(status, 1)
    self.assertIn('--config', error)

  def test_evaluate_without_a_run(self):
    directory = self.create_tempdir().full_path
    status, _, error = run_command(
        '-m', 'alexnet.evaluate', f'--workdir={directory}'
    )
    self.assertEqual(status, 1)
    self.assertNotIn('Traceback', error)
    self.assertIn('is not the workdir of a run', error)

  @parameterized.parameters('predict', 'report')
  def test_former_name(self, name):
    former, present = f'alexnet.analysis.{name}', f'alexnet.{name}'
    status, _, error = run_command('-m', former, '--workdir=x')
    self.assertEqual(status, 1)
    self.assertNotIn('Traceback', error)
    self.assertIn(f'now called python -m {present};', error)
    status, output, error = run_command('-m', present, '--help')
    self.assertIn('--workdir', output + error)


class CommandTest(absltest.TestCase):

  def test_two_cpu_devices_train_and_evaluate(self):
    """`mesh.tower=2` on a machine without accelerators simply works."""
    directory = pathlib.Path(self.create_tempdir().full_path)
    images = testing.write_images(directory / 'images', 2, 6)
    flags = (
        '--config=tests/tiny.py',
        f'--workdir={directory / "run"}',
        f'--config.dataset.train_dir={images}',
        '--config.duration=2 steps',
        '--config.mesh.tower=2',
        '--config.ten_views=False',
        *tiny.SMALL,
    )
    status, output, error = run_command('main.py', *flags)
    self.assertEqual(status, 0, error)
    self.assertIn('data=1, tower=2 on 2 cpu device(s)', output)
    status, output, error = run_command(
        '-m', 'alexnet.evaluate', f'--workdir={directory / "run"}'
    )
    self.assertEqual(status, 0, error)
    self.assertIn('centre crop  top-1', output)
    self.assertIn('ten views    top-1', output)

  def test_definition_file(self):
    """A network of the authors' format, on two devices; then a broken one."""
    directory = pathlib.Path(self.create_tempdir().full_path)
    images = testing.write_images(directory / 'images', 2, 6)
    layers, params = map(
        definitions.text, definitions.run_145(**definitions.NARROW)
    )
    (directory / 'layers-1.cfg').write_text(layers)
    (directory / 'layer-params-1.cfg').write_text(params)
    flags = (
        'main.py',
        f'--config=configs/cuda_convnet.py:{directory}/layers-1.cfg',
        f'--config.layer_params={directory}/layer-params-1.cfg',
        '--config.dataset.name=folder',
        f'--config.dataset.train_dir={images}',
        *tiny.SMALL,
        '--config.duration=1 steps',
        '--config.batch_size=8',
        '--config.mesh.tower=2',
        '--config.restart_rates=True',
        "--config.schedule.steps=((0.0, 'conv1', 'both', 0.0),)",
        f'--workdir={directory / "run"}',
    )
    status, output, error = run_command(*flags)
    self.assertEqual(status, 0, error)
    self.assertIn('cuda_convnet, ', output)
    self.assertIn('2 tower(s)', output)
    self.assertIn('data=1, tower=2 on 2 cpu device(s)', output)
    self.assertIn('ten views    top-1', output)
    broken = layers.replace('type=conv', 'type=convolution', 1)
    (directory / 'layers-1.cfg').write_text(broken)
    status, _, error = run_command(*flags)
    self.assertEqual(status, 1)
    self.assertNotIn('Traceback', error)
    line = broken.splitlines().index('type=convolution') + 1
    self.assertRegex(
        error.strip().splitlines()[-1],
        rf'^error: .*/layers-1.cfg:{line}: \[conv1a\] unknown type ',
    )

  def test_broken_image(self):
    """One line about it; TensorFlow's log would bury that under tracebacks."""
    directory = pathlib.Path(self.create_tempdir().full_path)
    images = testing.write_images(directory / 'images', 2, 6)
    broken = images / 'class1' / '003.jpg'
    broken.write_bytes(b'junk')
    status, _, error = run_command(
        'main.py',
        '--config=tests/tiny.py',
        f'--workdir={directory / "run"}',
        f'--config.dataset.train_dir={images}',
    )
    self.assertEqual(status, 1)
    self.assertNotIn('Traceback', error)
    self.assertEqual(error.count(str(broken)), 1, error)
    self.assertEqual(
        error.strip().splitlines()[-1],
        f'error: cannot use {broken} (it is not a JPEG, PNG, WebP, GIF, TIFF '
        'or BMP file): replace or remove it',
    )

  def test_help(self):
    status, output, _ = run_command('main.py', '--help')
    self.assertEqual(status, 1)  # absl's convention.
    self.assertIn('--workdir', output)


_SWEEP = '''
from tests import tiny

def get_config(data='folder'):
  config = tiny.get_small_config(data)
  config.dataset.train_dir = 'IMAGES'
  config.duration = '2 steps'
  config.ten_views = False
  return config

def sweep():
  yield 'slow', {'schedule.learning_rate': 0.0001}
  yield 'fast', {'schedule.learning_rate': 0.0002}
'''


class SweepTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.images = testing.write_images(self.directory / 'images', 2, 6)
    file = self.directory / 'small.py'
    file.write_text(_SWEEP.replace('IMAGES', str(self.images)))
    self.sweep = sweep.Sweep(str(file))
    self.file = file

  def test_runs_are_made_once(self):
    runs = self.directory / 'runs'
    console = Console(io.StringIO())
    self.assertEqual(sweep_lib.run(self.sweep, runs, [1], console), [])
    table = sweep_table.table(self.sweep, runs).splitlines()
    self.assertRegex(table[2], r'^\| slow +\| 0 +\| -- +\| -- ')
    self.assertRegex(table[3], r'^\| fast +\| 1 +\| \d+\.\d\d +\| 0\.00 ')
    second = runs / self.sweep.folder(1)
    before = (second / 'metrics.jsonl').stat().st_mtime_ns
    self.assertEqual(sweep_lib.run(self.sweep, runs, [0, 1], console), [])
    # The finished one was left alone.
    self.assertEqual((second / 'metrics.jsonl').stat().st_mtime_ns, before)
    self.assertRegex(
        sweep_table.table(self.sweep, runs).splitlines()[2], r'^\| slow +\| 1 '
    )
    config = workdir.load_config(runs / self.sweep.folder(0))
    self.assertEqual(config.schedule.learning_rate, 0.0001)

  def test_a_diverged_run_does_not_stop_the_others(self):
    rate = {'schedule.learning_rate': 1e15}
    self.sweep.variants[0] = sweep.Variant('slow', rate)
    runs = self.directory / 'runs'
    console = Console(io.StringIO())
    self.assertEqual(sweep_lib.run(self.sweep, runs, [0, 1], console), [0])
    lines = sweep_table.table(self.sweep, runs).splitlines()
    self.assertRegex(lines[2], r'^\| slow +\| 0 \(1 failed\) +\| -- ')
    self.assertRegex(lines[3], r'^\| fast +\| 1 +\| \d')

  def test_a_run_that_cannot_be_made_does_not_stop_the_others(self):
    offsets = {'augmentation.crop_offsets': 40}
    self.sweep.variants.insert(1, sweep.Variant('many offsets', offsets))
    runs = self.directory / 'runs'
    console = Console(io.StringIO())
    self.assertEqual(sweep_lib.run(self.sweep, runs, [1, 2], console), [1])
    lines = sweep_table.table(self.sweep, runs).splitlines()
    self.assertRegex(lines[3], r'^\| many offsets +\| 0 \(1 failed\) ')
    self.assertRegex(lines[4], r'^\| fast +\| 1 +\| \d')
    # But if the base cannot, there is nothing to do.
    self.sweep.variants[0] = sweep.Variant('base', {})
    self.images.rename(self.directory / 'gone')
    with self.assertRaisesRegex(DataError, 'is not a folder'):
      sweep_lib.run(self.sweep, runs, [0], console)

  def test_list_and_bad_index(self):
    status, output, _ = run_command(
        '-m', 'alexnet.sweep', f'--config={self.file}', '--list', '--seeds=2'
    )
    self.assertEqual(status, 0)
    self.assertEqual(
        output,
        "0: small: slow, seed 0: {'schedule.learning_rate': 0.0001}\n"
        "1: small: fast, seed 0: {'schedule.learning_rate': 0.0002}\n"
        "2: small: slow, seed 1: {'schedule.learning_rate': 0.0001}\n"
        "3: small: fast, seed 1: {'schedule.learning_rate': 0.0002}\n",
    )
    status, _, error = run_command(
        '-m', 'alexnet.sweep', f'--config={self.file}', '--workdir=x',
        '--index=2',
    )
    self.assertEqual(status, 1)
    self.assertIn('--index is 2: expected 0 to 1', error)

  def test_command(self):
    runs = self.directory / 'runs'
    status, output, error = run_command(
        '-m', 'alexnet.sweep', f'--config={self.file}', f'--workdir={runs}',
        '--index=1', '--set=log_every=2 steps',
    )
    self.assertEqual(status, 0, error)
    self.assertRegex(output, r'\| fast \| 1 \| \d+\.\d\d ')
    self.assertIn((runs / 'small.md').read_text(), output)

  def test_field_that_no_config_has(self):
    self.sweep.variants[0] = sweep.Variant('x', {'schedule.rate': 1.0})
    with self.assertRaisesRegex(ConfigError, 'run 0 .*schedule.rate'):
      self.sweep.config(0)

  def test_settings_and_seeds(self):
    settings = sweep.parse_settings([
        'model.width=0.5', 'duration=7 steps', 'schedule.learning_rate=9.0',
        'schedule.geometric.factors=(1.0, 0.5)',
    ])
    one = sweep.Sweep(str(self.file), settings, seeds=3)
    self.assertLen(one, 6)
    config = one.config(5)
    self.assertEqual(config.seed, 2)
    self.assertEqual(config.dataset.split_seed, 0)
    self.assertEqual(config.model.width, 0.5)
    self.assertEqual(config.duration, '7 steps')
    self.assertEqual(config.schedule.geometric.factors, (1.0, 0.5))
    # A variant's own setting counts.
    self.assertEqual(config.schedule.learning_rate, 0.0002)
    self.assertLen({one.folder(index) for index in range(6)}, 6)
    with self.assertRaisesRegex(ConfigError, "'duration': expected field="):
      sweep.parse_settings(['duration'])

  def test_equal_runs_of_two_sweeps_share_a_folder(self):
    """So that sweeps with the same base make it once."""
    folders = [
        sweep.Sweep(str(ROOT / f'configs/sweeps/{name}.py')).folder(0)
        for name in ('lrn', 'pooling', 'activation')
    ]
    self.assertLen(set(folders), 1)
    # So does a variant that changes nothing: digits have no lighting anyway.
    lighting = sweep.Sweep(str(ROOT / 'configs/sweeps/lighting.py'))
    self.assertEqual(lighting.folder(1), lighting.folder(0))
    self.assertEqual(lighting.folder(0), folders[0])

  def test_table_by_hand(self):
    """Errors of 40, 50 and 60 % against 70 % and 90 %, loss 2 and 4."""
    one = sweep.Sweep(str(self.file), seeds=3)
    one.variants[1] = sweep.Variant('fast', {'seed': 7}, (1.25, None))
    runs = self.directory / 'runs'
    errors = {0: 0.4, 2: 0.5, 4: 0.6, 1: 0.7, 3: 0.9}
    for index, error in errors.items():
      folder = runs / one.folder(index)
      folder.mkdir(parents=True)
      result = {'top1': 1 - error, 'top5': 1.0, 'loss': 2.0 + 2 * (index == 3)}
      results = {
          'step': 1, 'train_seconds': 1.0, 'centre': {**result, 'count': 8}
      }
      workdir.write_json(folder / 'results.json', results)
    head, _, slow, fast = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in sweep_table.table(one, runs).splitlines()
    ]
    self.assertEqual(head[0], 'small (centre crop)')
    self.assertEqual(
        slow,
        ['slow', '3', '50.00 ± 10.00', '0.00 ± 0.00', '2.0000 ± 0.0000', '',
         ''],
    )
    # sqrt(100 / 3 + 200 / 2) = 11.547
    self.assertEqual(
        fast,
        ['fast', '2', '80.00 ± 14.14', '0.00 ± 0.00', '3.0000 ± 1.4142',
         '+30.00 ± 11.55 / +0.00 ± 0.00', '+1.2 / ?'],
    )

  def test_not_a_sweep(self):
    with self.assertRaisesRegex(ConfigError, r'has no sweep\(\)'):
      sweep.Sweep(str(ROOT / 'configs' / 'alexnet.py'))

  def test_sweeps_of_the_repository(self):
    files = [*(ROOT / 'configs' / 'sweeps').glob('*.py')]
    self.assertGreaterEqual(len(files), 9)
    for file in [*files, ROOT / 'configs' / 'figure1.py']:
      one = sweep.Sweep(f'{file}:folder')
      names = [one.folder(i) for i in range(len(one))]
      self.assertLen(set(names), len(names))
      for index in range(len(one)):
        config = one.config(index)
        config.model.num_classes = 10
        # In small too: every feature count and every map has to fit.
        config.model.width = 0.25 if file.stem != 'figure1' else 1.0
        size = 64 if file.stem != 'figure1' else 32
        model = create_model(config.model)
        image = jnp.zeros((1, size, size, 3))
        jax.eval_shape(model.init, jax.random.key(0), image)
        mesh.create_mesh(config)


class ConfigTest(parameterized.TestCase):

  @parameterized.product(
      recipe=(
          alexnet, alexnet_2012, alexnet_2012_geometric, alexnet_2012_six,
          alexnet_2012_six_pretraining, alexnet_2012_six_finetuning,
      ),
      data=('digits', 'folder', 'prepared', 'imagenet2012', 'imagenette'),
  )
  def test_builds(self, recipe, data):
    config = recipe.get_config(data)
    config.model.num_classes = 10
    create_model(config.model)
    self.assertEqual(config.dataset.name, data)

  def test_2012_differs_by_values_alone(self):
    paper = alexnet.get_config('imagenet2012')
    code = alexnet_2012.get_config('imagenet2012')

    def names(config, prefix=''):
      return {
          prefix + name if not hasattr(value, 'keys')
          else frozenset(names(value, f'{prefix}{name}.'))
          for name, value in config.items()
      }

    self.assertEqual(names(paper), names(code))

  def test_every_field_has_a_comment(self):
    """A group of fields may share the comment above it."""
    lines = (ROOT / 'configs' / 'alexnet.py').read_text().splitlines()
    commented = False
    for line in lines:
      text = line.strip()
      if text.startswith('#'):
        commented = True
      elif not text or text.startswith(('def ', '"""', 'return')):
        commented = False
      elif re.match(r'(config|model|optimizer|schedule|dataset|augmentation)'
                    r'\.\w+ = (?!_|ml_collections)', text):
        self.assertTrue(commented, line)


class ImportsTest(absltest.TestCase):

  def test_input_pipeline_runs_without_jax(self):
    code = (
        'import sys; sys.modules["jax"] = None; '
        'import input_pipeline.pipeline, input_pipeline.datasets'
    )
    status, _, error = run_code(code)
    self.assertEqual(status, 0, error)

  def test_tensorflow_sees_no_accelerator(self):
    from input_pipeline.files.tensorflow_cpu import tf

    self.assertEmpty(tf.config.get_visible_devices('GPU'))

  def test_tfds_is_imported_behind_it(self):
    """Else TFDS would import a TensorFlow that takes the accelerators."""
    code = (
        'import sys; from input_pipeline import datasets; '
        'datasets._import_tfds(); '
        'print("input_pipeline.files.tensorflow_cpu" in sys.modules)'
    )
    status, output, error = run_code(code)
    self.assertEqual((status, output), (0, 'True\n'), error)

  def test_no_machine_is_named(self):
    for folder in ('alexnet', 'configs', 'input_pipeline'):
      for path in (ROOT / folder).rglob('*.py'):
        self.assertNotIn(os.path.expanduser('~') + '/', path.read_text())


if __name__ == '__main__':
  absltest.main()
