"""What make would do, on machines with and without a GPU's driver."""

import os
import pathlib
import shutil
import subprocess

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[1]


class MakefileTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    if not shutil.which('make'):
      self.skipTest('needs make')
    root = pathlib.Path(self.create_tempdir().full_path)
    self.venv, self.driver = root / 'venv', root / 'version'
    self.venv.mkdir()

  def installed(self, *names):
    """Makes stamps, each newer than the last one."""
    for seconds, name in enumerate(('python.made', *names)):
      path = self.venv / name
      path.touch()
      newer = 2**32 + seconds  # Than any file of the repository.
      os.utime(path, (newer, newer))

  def make(self, target):
    return subprocess.run(
        ['make', '-n', target, f'VENV={self.venv}',
         f'NVIDIA_DRIVER={self.driver}'],
        cwd=ROOT, check=True, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items()
             if not name.startswith('MAKE')},
    ).stdout

  def test_without_a_driver(self):
    commands = self.make('train')
    self.assertIn('install --quiet -r requirements.txt', commands)
    self.assertNotIn('requirements-gpu.txt', commands)

  def test_an_environment_that_was_made_without_one(self):
    self.installed('run.installed')
    self.assertNotIn('pip', self.make('train'))
    self.driver.touch()
    commands = self.make('train')
    self.assertIn('install --quiet -r requirements-gpu.txt', commands)
    self.assertNotIn('-r requirements.txt', commands)
    self.installed('run.installed', 'gpu.installed')
    self.assertNotIn('pip', self.make('train'))

  def test_each_file_has_a_stamp(self):
    self.driver.touch()
    self.installed('run.installed')
    commands = self.make('test-gpu')
    for name in ('dev', 'gpu'):
      self.assertIn(f'install --quiet -r requirements-{name}.txt', commands)
      self.assertIn(f'{name}.installed', commands)

  def test_tests_run_on_cpus_whatever_there_is(self):
    self.driver.touch()
    self.installed('run.installed', 'dev.installed')
    commands = self.make('test')
    self.assertNotIn('requirements-gpu', commands)
    self.assertRegex(commands, 'JAX_PLATFORMS=cpu .*pytest')

  def test_all_of_them(self):
    """With what compares, and the compiler for GPUs; nothing is skipped."""
    commands = self.make('test-full')
    self.assertIn('requirements-bench.txt', commands)
    self.assertIn('-m benchmarks.gpu_compiled', commands)
    self.assertRegex(commands, "venv-bench/bin/python .*'not gpu' --no-skips")

  def test_those_of_gpus_do_not(self):
    self.assertRegex(
        self.make('test-gpu'), r'JAX_PLATFORMS=cuda,cpu .*pytest -q -m gpu'
    )


if __name__ == '__main__':
  absltest.main()
