"""Flags that messages advise: they exist, in the command that says so."""

import ast
import functools
import pathlib
import re

from absl import flags
from absl.testing import absltest, parameterized

from alexnet.config.errors import ConfigError
from benchmarks.gpu_compiled import __main__ as gpu_compiled
from configs import alexnet, cuda_convnet
from input_pipeline import cli
from input_pipeline.config.checks import get
from tests import commands, testing

ROOT = pathlib.Path(__file__).parents[1]
_FLAG = re.compile(r'--([a-z_]\w*(?:\.\w+)*)')
# Of absl, git and XLA.
_FOREIGN = {'help', 'always', 'dirty', 'abbrev', 'xla_gpu_'}


def sources(*packages):
  yield ROOT / 'main.py'
  for package in packages or ('alexnet', 'input_pipeline'):
    yield from sorted((ROOT / package).rglob('*.py'))


@functools.cache
def texts():
  """[(file, text that is no docstring)]."""
  found = []
  for file in sources():
    tree = ast.parse(file.read_text())
    docs = {
        id(node.body[0].value) for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body and isinstance(node.body[0], ast.Expr)
    }
    found += [
        (file.name, node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and id(node) not in docs
    ]
  return found


def documents():
  """[(file, text)] of README and docs."""
  files = ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))
  return [(file.name, file.read_text()) for file in files]


def defined(*packages):
  """Names of the flags of all commands, as their files define them."""
  names = {'config'}
  for file in sources(*packages):
    for node in ast.walk(ast.parse(file.read_text())):
      if (
          isinstance(node, ast.Call)
          and isinstance(node.func, ast.Attribute)
          and node.func.attr.lower().startswith('define')
          and node.args and isinstance(node.args[0], ast.Constant)
      ):
        names.add(node.args[0].value)
  return names


class MessagesTest(parameterized.TestCase):

  def test_every_flag_exists(self):
    known = defined() | _FOREIGN
    advised = {
        (file, name) for file, text in texts() for name in _FLAG.findall(text)
    }
    self.assertGreater(len(advised), 30)
    unknown = {
        (file, name) for file, name in advised
        if name.split('.')[0] not in known
    }
    self.assertEmpty(unknown)

  def test_every_flag_of_the_documents_exists(self):
    known = defined('alexnet', 'input_pipeline', 'benchmarks', 'launch')
    known |= set(gpu_compiled.CHOICES) | _FOREIGN
    known |= {'machine_link', 'machine_fraction'}  # Defined in a loop.
    # Of TensorBoard, SLURM and Open MPI.
    known |= {'logdir', 'nodes', 'gpus', 'signal', 'map'}
    advised = [
        (file, name.split('.')[0])
        for file, text in documents() for name in _FLAG.findall(text)
    ]
    self.assertGreater(len(advised), 100)
    self.assertEmpty([one for one in advised if one[1] not in known])

  def test_every_field_exists(self):
    configs = alexnet.get_config('folder'), cuda_convnet.get_config('a')
    missing = object()
    for file, text in texts() + documents():
      for name in re.findall(r'--config\.([a-z_][\w.]*\w)', text):
        self.assertTrue(
            any(get(one, name, missing) is not missing for one in configs),
            (file, name),
        )


class ExplainTest(parameterized.TestCase):
  """A field, by the flags of a command without --config."""

  @parameterized.parameters(
      (('config',), '--config.dataset.train_dir=X'),
      (('train_dir', 'workdir'), '--train_dir=X'),
      (('source', 'output'), '--source=X'),
      (('workdir',), 'dataset.train_dir=X'),
  )
  def test_other_flags(self, names, advice):
    values = flags.FlagValues()
    for name in names:
      flags.DEFINE_string(name, None, '', flag_values=values)
    with absltest.mock.patch.object(flags, 'FLAGS', values):
      self.assertEqual(
          cli.explain(ConfigError('set --config.dataset.train_dir=X')),
          f'set {advice}',
      )

  def test_of_a_sweep(self):
    values = flags.FlagValues()
    flags.DEFINE_multi_string('config', None, '', flag_values=values)
    flags.DEFINE_multi_string('set', [], '', flag_values=values)
    with absltest.mock.patch.object(flags, 'FLAGS', values):
      self.assertEqual(
          cli.explain(ConfigError("set --config.duration='1 steps'")),
          "set --set=duration='1 steps'",
      )


def run(*command):
  result = commands.run(*command)
  return result.returncode, result.stdout + result.stderr


class CommandsTest(absltest.TestCase):

  def test_a_folder_that_has_moved(self):
    """Each command's own flag brings it back."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    images = testing.write_images(folder / 'images', 2, 6)
    status, text = run(
        'main.py', '--config=tests/tiny.py', f'--workdir={folder}/run',
        f'--config.dataset.train_dir={images}', '--config.duration=2 steps',
        '--config.ten_views=False', '--config.evaluate_every=never',
    )
    self.assertEqual(status, 0, text)
    moved = images.rename(folder / 'moved')
    for command in ('alexnet.evaluate', 'alexnet.verify'):
      status, text = run('-m', command, f'--workdir={folder}/run')
      self.assertEqual(status, 1)
      self.assertNotIn('--config', text)
      self.assertIn('set --train_dir', text)
    status, text = run(
        '-m', 'alexnet.evaluate', f'--workdir={folder}/run',
        f'--train_dir={moved}', '--views=centre',
    )
    self.assertEqual(status, 0, text)


if __name__ == '__main__':
  absltest.main()
