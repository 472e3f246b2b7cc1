"""Paths as users write them, in flags, configs and calls."""

import ast
import os
import pathlib
import pwd

from absl.testing import absltest, parameterized

from alexnet.config import validation
from alexnet.config.errors import ConfigError
from alexnet.models import fields
from configs import alexnet
from input_pipeline.config import checks
from input_pipeline.files import paths
from tests import commands

ROOT = pathlib.Path(__file__).parents[3]

ADDRESSES = (
    'gs://bucket/run', 's3://bucket/run', 'hdfs://host:9000/run',
    'file:///tmp/run', 'http://host/run', 'https://host/a.jpg', 'abfs+x://a/b',
)


class LocalTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(
        absltest.mock.patch.dict(os.environ, {'HOME': '/home/of a user'})
    )

  @parameterized.parameters(
      ('~', '/home/of a user'),
      ('~/runs/ä b', '/home/of a user/runs/ä b'),
      ('/runs/~', '/runs/~'),
      ('/with blank /x', '/with blank /x'),
      ('/日本/ö ', '/日本/ö '),
      ('/c:/x', '/c:/x'),
      ('/link/../x', '/link/../x'),  # Not /x where link leads elsewhere.
  )
  def test_absolute(self, given, path):
    self.assertEqual(str(paths.local(given)), path)
    self.assertEqual(str(paths.local(pathlib.Path(given))), path)

  @parameterized.parameters('runs/a', './a b', 'ä', 'tfds:mnist', 'gs:/x')
  def test_relative_to_the_callers_folder(self, given):
    self.assertEqual(paths.local(given), pathlib.Path.cwd() / given)

  def test_home_of_another_user(self):
    user = pwd.getpwuid(os.getuid())
    found = paths.local(f'~{user.pw_name}/x')
    self.assertEqual(found, pathlib.Path(user.pw_dir, 'x'))

  @parameterized.parameters(*ADDRESSES)
  def test_an_address(self, given):
    with self.assertRaisesRegex(
        paths.PathError, rf'--output is {given[:4]}.*an address: expected'
    ):
      paths.local(given, '--output')

  @parameterized.parameters('', 'a\0b')
  def test_no_path(self, given):
    with self.assertRaisesRegex(paths.PathError, 'expected a path'):
      paths.local(given)

  def test_no_home(self):
    del os.environ['HOME']
    nobody = absltest.mock.patch.object(pwd, 'getpwuid', side_effect=KeyError)
    with nobody, self.assertRaisesRegex(paths.PathError, 'set HOME'):
      paths.local('~/run')


class CacheFolderTest(parameterized.TestCase):

  @parameterized.parameters(
      ({'HOME': '/h'}, '/h/.cache'),
      ({'HOME': '/h', 'XDG_CACHE_HOME': '/c'}, '/c'),
      ({'HOME': '/h', 'XDG_CACHE_HOME': 'c'}, '/h/.cache'),
      ({'HOME': '/h', 'XDG_CACHE_HOME': ''}, '/h/.cache'),
      ({'HOME': 'h'}, 'None'),
      ({}, 'None'),
  )
  def test_places(self, environment, folder):
    with (
        absltest.mock.patch.dict(os.environ, environment, clear=True),
        absltest.mock.patch.object(pwd, 'getpwuid', side_effect=KeyError),
    ):
      self.assertEqual(str(paths.cache_folder()), folder)


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
      'dataset.train_dir', 'dataset.eval_dir', 'dataset.dir',
      'dataset.statistics_dir', 'pretrained.workdir',
  )
  def test_fields(self, field):
    config = alexnet.get_config('folder')
    config.update_from_flattened_dict({field: 'gs://bucket/x'})
    with self.assertRaisesRegex(ConfigError, f'{field} is .*gs://.* machine'):
      validation.check(config, fields(config))
    config.update_from_flattened_dict({field: '~/x'})
    validation.check(config, fields(config))
    validation.resolve_paths(config)
    self.assertEqual(
        checks.get(config, field), os.path.expanduser('~/x')
    )


class ConfigFileTest(parameterized.TestCase):

  @parameterized.product(
      command=(
          ('main.py', '--workdir={}/run'),
          ('-m', 'alexnet.sweep', '--workdir={}/runs', '--list'),
          ('-m', 'alexnet.analysis.paper.logit_spread', '--images=1'),
          ('-m', 'input_pipeline.show', '--output={}/x.gif'),
      ),
      there=(True, False),
  )
  def test_in_the_home_folder(self, command, there):
    """What else is wrong with the command is told next."""
    home = pathlib.Path(self.create_tempdir().full_path)
    (home / 'my own.py').write_text(
        'from configs import alexnet\n'
        'def get_config(data):\n'
        '  config = alexnet.get_config(data)\n'
        '  config.batch_size = 0\n'
        '  return config\n'
        'def sweep():\n'
        "  yield 'the variant', {}\n"
    )
    name = 'my own.py' if there else 'none.py'
    given = [f'--config=~/{name}:folder']
    if command[-1] not in ('--list', '--images=1'):
      given.append('--config.seed=3')  # For which it is read at once.
    command = [word.format(home) for word in command]
    result = commands.run(*command, *given, HOME=str(home))
    text = result.stdout + result.stderr
    self.assertNotIn('Traceback', text)
    missing = f'error: --config is {home}/none.py: there is no such file'
    expected = 'batch_size is 0|the variant|images is 1|x.gif: expected a .png'
    self.assertRegex(text, expected if there else missing)


# Flags with a text that is no path, or not only.
_NO_PATHS = {
    'background', 'compilation_cache', 'config', 'coordinator',
    'eval_split', 'layer', 'part', 'profile_steps', 'set', 'source', 'step',
    'train_split',
}


class CommandsTest(parameterized.TestCase):

  def calls(self):
    files = [ROOT / 'main.py']
    for package in ('alexnet', 'input_pipeline'):
      files += (ROOT / package).rglob('*.py')
    for file in files:
      for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
          yield file, node

  def test_no_path_flag_is_a_mere_text(self):
    named = {
        node.args[0].value
        for _, node in self.calls()
        if node.func.attr in ('DEFINE_string', 'DEFINE_multi_string')
    }
    self.assertEqual(named, _NO_PATHS)

  def test_nothing_else_expands(self):
    files = {
        file.name
        for file, node in self.calls()
        if node.func.attr == 'expanduser'
    }
    self.assertEqual(files, {'paths.py'})

  @parameterized.parameters(
      ('main.py', 'workdir'),
      ('alexnet.evaluate', 'workdir'),
      ('alexnet.report', 'workdir'),
      ('alexnet.predict', 'output'),
      ('alexnet.analysis.features', 'output'),
      ('input_pipeline.prepare', 'output'),
      ('input_pipeline.prepare', 'eval_source'),
  )
  def test_an_address_at_once(self, command, flag):
    command = [command] if command.endswith('.py') else ['-m', command]
    result = commands.run(*command, f'--{flag}=s3://bucket/x')
    self.assertEqual(result.returncode, 1)
    self.assertNotIn('Traceback', result.stderr)
    self.assertIn(f'flag --{flag}=s3://bucket/x: it is s3', result.stderr)


if __name__ == '__main__':
  absltest.main()
