"""What may import what: an import against a fence fails here.

Imports are read from the files' text, so that those inside functions and those
for type checkers count as well.
"""

import ast
import functools
import pathlib
import re
import sys

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[1]
OURS = ('alexnet', 'configs', 'input_pipeline')

# From the top down. A module belongs to the longest of these names that it
# begins with, and imports from its own room and from those below it.
ROOMS = (
    'main',
    'alexnet',  # Commands, and the API.
    'alexnet.analysis',
    'alexnet.analysis.report',
    'alexnet.analysis.paper',
    'alexnet.analysis.features',
    'alexnet.analysis.tables',
    'alexnet.training',
    'alexnet.evaluation',
    'alexnet.inference',
    'alexnet.cuda_convnet',
    'alexnet.models',
    'alexnet.checkpointing',
    'alexnet.metrics',
    'alexnet.visualization',
    'alexnet.ops',
    'alexnet.ops.cpu',
    'alexnet.runtime',
    'alexnet.config',
    'configs',
    'input_pipeline.prepare',
    'input_pipeline.show',
    'input_pipeline.prepared',
    'input_pipeline',
    'input_pipeline.prepared.reader',
    'input_pipeline.sources',
    'input_pipeline.statistics',
    'input_pipeline.preprocessing',
    'input_pipeline.images',
    'input_pipeline.files',
    'input_pipeline.errors',
)

# (module or package, the only places that may import it)
ONLY_IN = (
    ('main', ()),
    ('alexnet', ('alexnet', 'main')),
    ('alexnet.ops.cpu', ('alexnet.ops',)),
    ('alexnet.ops.gpu', ('alexnet.ops',)),
    ('alexnet.cuda_convnet', ('alexnet.cuda_convnet',)),
    ('orbax', ('alexnet.checkpointing',)),
    # Where it is kept off the accelerators, and quiet.
    ('tensorflow', ('input_pipeline.files.tensorflow_cpu',)),
    ('input_pipeline.files.tensorflow_cpu', ('input_pipeline',)),
    ('tensorflow_datasets', ('input_pipeline',)),
    ('simplejpeg', ('input_pipeline',)),
    ('jax', ('alexnet',)),
    ('jaxlib', ('alexnet',)),
    # By whose string a module is imported, no fence sees.
    ('importlib.import_module', ('alexnet.models',)),
    ('tests', ()),
    ('benchmarks', ()),
    ('launch', ()),
    ('optax', ('alexnet',)),
    ('flax', (
        'alexnet.models', 'alexnet.cuda_convnet',
        'alexnet.analysis.features.hashing',
    )),
    ('flax.training', ()),
    ('clu', ()),
    # A mesh and its axes are made and named in one place.
    ('jax.make_mesh', ('alexnet.runtime',)),
    ('jax.P', ('alexnet.runtime',)),
    ('jax.sharding.AxisType', ('alexnet.runtime',)),
    ('jax.sharding.PartitionSpec', ('alexnet.runtime',)),
    ('jax.experimental.mesh_utils', ('alexnet.runtime',)),
)

# Strings that are the name of an axis elsewhere, and something else here.
NOT_AXES = {
    'alexnet.cuda_convnet.parser': ('data',),  # A type of layer.
    'alexnet.cuda_convnet.model': ('data',),  # Likewise.
    'alexnet.evaluate': ('tower',),  # A flag.
    'alexnet.verify': ('data', 'tower'),  # Flags.
    'alexnet.checkpointing.manager': ('data',),  # A field of the progress.
    'configs': ('data', 'tower'),
}
# A layer of AlexNet, and who may know that there is one.
LAYER = re.compile(r'\b(conv[1-6]|pool[125]|fc[678])\b')
KNOW_ALEXNET = ('alexnet.models', 'alexnet.analysis', 'configs')
# What a step is made with, and all that it needs: benchmarks.gpu runs where
# nothing else is installed.
STEP = (
    'alexnet.evaluation.eval_steps', 'alexnet.models.alexnet_config',
    'alexnet.runtime.compilation_cache', 'alexnet.runtime.environment',
    'alexnet.training.optimizer', 'alexnet.training.train_step',
    'configs.alexnet_2012',
)
STEP_NEEDS = {
    'absl', 'flax', 'jax', 'jaxlib', 'ml_collections', 'numpy', 'optax'
}
# Files of a folder that one can still take in at a glance.
_MOST_FILES = 10


@functools.cache
def trees():
  """{module: syntax tree} of all that is not a test or a benchmark."""
  found = {'main': ast.parse((ROOT / 'main.py').read_text())}
  for package in ('alexnet', 'configs', 'input_pipeline'):
    for path in sorted((ROOT / package).rglob('*.py')):
      name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
      found[name.removesuffix('.__init__')] = ast.parse(path.read_text())
  return found


def with_line(module: str, line: str):
  """The trees with one more line at the end of a module."""
  planted = dict(trees())
  body = [*planted[module].body, *ast.parse(line).body]
  planted[module] = ast.Module(body, [])
  return planted


@functools.cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
  """Of a whole file; most files are the same in all tests."""
  return tuple(ast.walk(tree))


def imported(tree: ast.AST, modules):
  """Names of what a file imports; of what is in our modules, the module's.

  What is reached through a module that is imported, as `jax.make_mesh`, counts
  as well.
  """
  return _imported(tree, frozenset(modules))


@functools.cache
def _imported(tree, modules):
  return tuple(_imports(tree, modules))


def _imports(tree, modules):
  bound = {}
  for node in nodes(tree):
    if isinstance(node, ast.Import):
      for name in node.names:
        yield name.name
        bound[name.asname or name.name.split('.')[0]] = (
            name.name if name.asname else name.name.split('.')[0]
        )
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'line {node.lineno}: a relative import'
      for name in node.names:
        full = f'{node.module}.{name.name}'
        is_attribute = node.module in modules and full not in modules
        yield node.module if is_attribute else full
        bound[name.asname or name.name] = full
  for node in nodes(tree):
    names = chain(node) if isinstance(node, ast.Attribute) else ()
    if names and names[0] in bound:
      full = '.'.join((bound[names[0]], *names[1:]))
      while full.startswith(OURS) and '.' in full and full not in modules:
        full = full.rpartition('.')[0]
      yield full


def chain(node: ast.AST) -> tuple[str, ...]:
  """('jax', 'sharding', 'Mesh') of that expression; () of another."""
  if isinstance(node, ast.Name):
    return (node.id,)
  if isinstance(node, ast.Attribute) and (before := chain(node.value)):
    return (*before, node.attr)
  return ()


def exported(tree: ast.Module) -> set[str]:
  """The names in `__all__`."""
  return {
      name
      for node in tree.body
      if isinstance(node, ast.Assign) and ast.unparse(node.targets) == '__all__'
      for name in ast.literal_eval(node.value)
  }


def second_hand(modules) -> list[str]:
  """Names taken from a module of ours that has only imported them itself."""
  found = []
  for module, tree in modules.items():
    for node in nodes(tree):
      if not isinstance(node, ast.ImportFrom) or node.module not in modules:
        continue
      theirs = {
          (a.asname or a.name)
          for other in modules[node.module].body
          if isinstance(other, (ast.Import, ast.ImportFrom))
          for a in other.names
      } - exported(modules[node.module])
      found += [
          f'{module} takes {name.name} from {node.module}, which imports it'
          for name in node.names
          if name.name in theirs and f'{node.module}.{name.name}' not in modules
      ]
  return found


def begins(name: str, package: str) -> bool:
  return name == package or name.startswith(f'{package}.')


def room_of(module: str) -> str:
  return max((r for r in ROOMS if begins(module, r)), key=len)


def upward(modules) -> list[str]:
  """Imports from a room to one above it."""
  return [
      f'{module} imports {name}, which is above it'
      for module, tree in modules.items()
      for name in imported(tree, modules)
      if name.startswith(OURS)
      and ROOMS.index(room_of(name)) < ROOMS.index(room_of(module))
  ]


def circles(modules) -> list[str]:
  """Modules that import each other, straight or through others."""
  below = {
      module: {n for n in imported(tree, modules) if n in modules} - {module}
      for module, tree in modules.items()
  }
  # What imports nothing that is left goes, and what nothing left imports.
  def free():
    wanted = set().union(*below.values())
    return [
        m for m, names in below.items()
        if not names & below.keys() or m not in wanted
    ]

  while found := free():
    for module in found:
      del below[module]
  return sorted(below)


def needed(roots, modules) -> set[str]:
  """Packages of others that come with an import of some of our modules."""
  found, seen, open_ones = set(), set(), list(roots)
  while open_ones:
    name = open_ones.pop()
    if name in seen:
      continue
    seen.add(name)
    if not name.startswith(OURS):
      found.add(name.split('.')[0])
      continue
    if name in modules:
      at_once = [
          node for node in modules[name].body
          if isinstance(node, (ast.Import, ast.ImportFrom))
      ]
      open_ones += imported(ast.Module(at_once, []), modules)
    open_ones += [name.rpartition('.')[0]] if '.' in name else []
  return found - sys.stdlib_module_names


def trespasses(modules) -> list[str]:
  """Imports of what belongs to another place."""
  return [
      f'{module} imports {name}, which only {" and ".join(places)} may'
      for module, tree in modules.items()
      for name in imported(tree, modules)
      for owned, places in ONLY_IN
      if begins(name, owned) and not any(begins(module, p) for p in places)
  ]


def named_networks(modules) -> list[str]:
  """Modules that have the name of a network's module in a string."""
  return [
      module
      for module, tree in modules.items()
      for node in nodes(tree)
      if isinstance(node, ast.Constant)
      and isinstance(node.value, str)
      and node.value.startswith(('alexnet.cuda_convnet', 'cuda_convnet'))
      and not begins(module, 'alexnet.cuda_convnet')
      and not begins(module, 'configs')
  ]


def named_layers(modules) -> list[str]:
  """Strings, other than docstrings, that name a layer of AlexNet."""
  found = []
  for module, tree in modules.items():
    if any(begins(module, room) for room in KNOW_ALEXNET):
      continue
    texts = {
        node.value for node in nodes(tree) if isinstance(node, ast.Expr)
    }
    found += [
        f'{module}, line {node.lineno}'
        for node in nodes(tree)
        if isinstance(node, ast.Constant)
        and node not in texts
        and LAYER.search(str(node.value))
    ]
  return found


def named_axes(modules) -> list[str]:
  """Strings that name an axis of the mesh."""
  def allowed(module):
    return [s for m, names in NOT_AXES.items() if begins(module, m)
            for s in names]

  return [
      f'{module}, line {node.lineno}'
      for module, tree in modules.items()
      if not begins(module, 'alexnet.runtime')
      and not begins(module, 'input_pipeline')
      for node in nodes(tree)
      if isinstance(node, ast.Constant)
      and node.value in ('data', 'tower')
      and node.value not in allowed(module)
  ]


class FencesTest(parameterized.TestCase):

  def test_nothing_runs_back_up(self):
    self.assertEqual(upward(trees()), [])

  def test_no_circles(self):
    self.assertEqual(circles(trees()), [])

  def test_nothing_trespasses(self):
    self.assertEqual(trespasses(trees()), [])

  def test_nothing_is_second_hand(self):
    self.assertEqual(second_hand(trees()), [])

  def test_a_step_needs_few_packages(self):
    self.assertEqual(needed(STEP, trees()), STEP_NEEDS)

  @parameterized.parameters(
      ('input_pipeline.config', 'from PIL import Image'),
      ('alexnet.config.validation', 'from input_pipeline import preprocessing'),
  )
  def test_a_planted_need(self, module, line):
    self.assertIn('PIL', needed(STEP, with_line(module, line)))

  def test_the_top_has_only_commands_and_the_api(self):
    for path in (ROOT / 'alexnet').glob('*.py'):
      is_command = "__name__ == '__main__'" in path.read_text()
      self.assertTrue(is_command or path.stem == '__init__', path)

  def test_one_place_names_the_networks(self):
    self.assertEqual(set(named_networks(trees())), {'alexnet.models'})

  def test_axes_are_named_in_runtime(self):
    self.assertEqual(named_axes(trees()), [])

  def test_layers_are_named_by_their_network(self):
    self.assertEqual(named_layers(trees()), [])

  def test_folders_can_be_taken_in(self):
    roots = ('alexnet', 'benchmarks', 'input_pipeline')
    paths = [path for root in roots for path in (ROOT / root).rglob('*.py')]
    for folder in {path.parent for path in paths}:
      files = {path.name for path in folder.glob('*.py')} - {'__init__.py'}
      self.assertLessEqual(len(files), _MOST_FILES, folder)
      self.assertNotEmpty(files or [*folder.glob('*/*.py')], folder)

  @parameterized.parameters(
      ('input_pipeline.pipeline', 'from alexnet.config import errors'),
      ('input_pipeline.prepare', 'import alexnet'),
      ('input_pipeline.pipeline', 'import jax.numpy as jnp'),
      ('alexnet.models.layers', 'from alexnet.ops.cpu import matmul'),
      ('alexnet.models.layers', 'from alexnet.ops.gpu import pooling'),
      ('alexnet.training.trainer', 'from alexnet.ops import cpu'),
      ('alexnet.training.optimizer', 'from alexnet.cuda_convnet import rates'),
      ('alexnet.models', 'from alexnet.cuda_convnet.config import CHECKS'),
      ('alexnet.inference.loading', 'from orbax import checkpoint'),
      ('alexnet.inference.loading', 'import orbax.checkpoint as ocp'),
      ('alexnet.analysis.tables', 'import tensorflow as tf'),
      ('input_pipeline.pipeline', 'import tensorflow as tf'),
      ('alexnet.training.trainer', 'import flax.linen as nn'),
      ('alexnet.models.layers', 'from flax.training import train_state'),
      ('alexnet.sweep', 'import main'),
      ('alexnet.sweep', 'from benchmarks import feeding'),
      ('alexnet.training.trainer',
       'from input_pipeline.files.tensorflow_cpu import tf'),
      ('alexnet.training.trainer',
       "import importlib; importlib.import_module('alexnet.analysis')"),
      ('alexnet.training.train_step', "jax.make_mesh((1,), ('replica',))"),
      ('alexnet.training.train_step', "jax.sharding.PartitionSpec('replica')"),
      ('alexnet.models.layers', 'from alexnet import ops; ops.cpu.matmul'),
      ('alexnet.evaluation.task', 'from jax.sharding import PartitionSpec'),
  )
  def test_a_planted_trespass(self, module, line):
    self.assertNotEmpty(trespasses(with_line(module, line)))

  @parameterized.parameters(
      ('alexnet.evaluation.session', 'from alexnet.training import trainer'),
      ('alexnet.inference.predictor', 'from alexnet.training import trainer'),
      ('alexnet.inference.views', 'from alexnet.evaluation import evaluator'),
      ('alexnet.config.validation', 'from alexnet import models'),
      ('alexnet.runtime.mesh', 'from alexnet.metrics.console import Console'),
      ('alexnet.training.trainer', 'from alexnet.analysis import tables'),
      ('alexnet.training.trainer', 'import alexnet.sweep'),
      ('input_pipeline.sources', 'from input_pipeline.prepared import reader'),
  )
  def test_a_planted_way_up(self, module, line):
    self.assertNotEmpty(upward(with_line(module, line)))

  def test_a_planted_relative_import(self):
    with self.assertRaisesRegex(AssertionError, 'a relative import'):
      upward(with_line('alexnet.training.trainer', 'from .. import sweep'))

  @parameterized.parameters(
      ('alexnet.training.resume',
       'from alexnet.checkpointing.manager import ocp'),
      ('alexnet.models.layers', 'from alexnet.ops.dense import matmul'),
  )
  def test_planted_second_hand(self, module, line):
    self.assertNotEmpty(second_hand(with_line(module, line)))

  def test_a_planted_circle(self):
    line = 'from alexnet.ops.convolution import grouped_convolution'
    self.assertEqual(
        circles(with_line('alexnet.ops.collectives', line)),
        ['alexnet.ops.collectives', 'alexnet.ops.convolution'],
    )

  def test_a_planted_name(self):
    line = "importlib.import_module('alexnet.cuda_convnet.config')"
    self.assertIn(
        'alexnet.training.setup',
        named_networks(with_line('alexnet.training.setup', line)),
    )

  @parameterized.parameters(
      ('alexnet.training.trainer', "rates['fc8']"),
      ('alexnet.config.validation', "text = f'such as conv1/{kind}'"),
  )
  def test_a_planted_layer(self, module, line):
    self.assertLen(named_layers(with_line(module, line)), 1)

  @parameterized.parameters(
      ('alexnet.ops.dense', "lax.psum(x, 'data')"),
      ('alexnet.training.train_step', "axes = ('tower',)"),
      ('alexnet.cuda_convnet.model', "lax.all_gather(x, axis_name='tower')"),
      ('alexnet.cuda_convnet.towers', "lax.psum(x, 'data')"),
  )
  def test_a_planted_axis(self, module, line):
    self.assertLen(named_axes(with_line(module, line)), 1)


if __name__ == '__main__':
  absltest.main()
