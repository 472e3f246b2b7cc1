"""What a command costs before its first step: imports, and compiling once."""

import collections
import json
import os
import pathlib
import stat
import subprocess
import sys

from absl.testing import absltest, parameterized

import tests
from alexnet.metrics.writer import read_records
from tests import testing, tiny

ROOT = pathlib.Path(__file__).parents[1]

# Takes seconds to import, or has to be set up before it is.
_HEAVY = (
    'array_record', 'flax', 'jax', 'jinja2', 'matplotlib', 'optax', 'orbax',
    'sklearn', 'tensorboardX', 'tensorflow', 'tensorflow_datasets',
)

# Runs a command, then tells of it on stderr.
_COMMAND = '''
import collections, json, runpy, sys
sys.argv = sys.argv[1:]
events = collections.Counter()
if sys.argv[-1] != '--help':
  from jax import monitoring
  monitoring.register_event_listener(lambda name, **_: events.update([name]))
  monitoring.register_event_duration_secs_listener(
      lambda name, _, **about: events.update([(name, about.get('fun_name'))]))

try:
  if sys.argv[0].endswith('.py'):
    runpy.run_path(sys.argv[0], run_name='__main__')
  else:
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
except SystemExit as end:
  status = end.code
modules = sorted({name.split('.')[0] for name in sys.modules})
counts = [[name, n] for name, n in events.items()]
print(json.dumps([status, modules, counts]), file=sys.stderr)
'''


def run_command(*arguments, **environment):
  """Runs a module or file with flags.

  Returns:
    (exit status, imported packages, {JAX's event: how often}, its text).
  """
  result = subprocess.run(
      [sys.executable, '-c', _COMMAND, *map(str, arguments)],
      cwd=ROOT,
      capture_output=True,
      text=True,
      env=tests.users_environment(**environment),
  )
  *text, last = result.stderr.strip().splitlines() or ['']
  try:
    status, modules, events = json.loads(last)
  except ValueError as error:
    raise AssertionError(result.stdout + result.stderr) from error
  events = collections.Counter({
      tuple(name) if isinstance(name, list) else name: count
      for name, count in events
  })
  return status, modules, events, result.stdout + '\n'.join(text)


class HelpTest(parameterized.TestCase):

  @parameterized.parameters(
      'main.py', 'alexnet.evaluate', 'alexnet.sweep', 'alexnet.verify',
      'alexnet.analysis.compare', 'alexnet.analysis.paper.figure1',
      'alexnet.analysis.paper.logit_spread', 'alexnet.predict',
      'alexnet.analysis.features', 'alexnet.analysis.retrieve',
      'alexnet.analysis.retrieval_table', 'alexnet.analysis.linear_probe',
      'alexnet.report', 'input_pipeline.prepare',
      'input_pipeline.show',
  )
  def test_imports_nothing_heavy(self, command):
    status, modules, _, text = run_command(command, '--help')
    self.assertEqual(status, 1)  # absl's convention.
    self.assertRegex(text, r'--(workdir|output|config)')
    self.assertIn('absl', modules)
    self.assertEmpty(set(modules) & set(_HEAVY))


_HITS = '/jax/compilation_cache/cache_hits'
_MISSES = '/jax/compilation_cache/cache_misses'
_REQUESTS = '/jax/compilation_cache/compile_requests_use_cache'
# Of the training step and of the two evaluations, which have this name.
_STEPS = '/jax/core/compile/backend_compile_duration', 'jit(step)'
# Without the evaluation of ten views.
_SHORT = '--config.duration=1 step', '--config.ten_views=False'


class CompilationTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.caches = self.directory / 'caches'

  def train(self, name, *flags, seed=0, **environment):
    """(JAX's events, the losses) of a tiny run."""
    images = self.directory / f'images{seed}'
    if not images.exists():
      testing.write_images(images, classes=2, per_class=10, seed=seed)
    folder = self.directory / name
    status, _, events, text = run_command(
        'main.py',
        '--config=tests/tiny.py',
        f'--workdir={folder}',
        f'--config.dataset.train_dir={images}',
        f'--config.seed={seed}',
        '--config.evaluation_batch_size=8',
        *tiny.SMALL,
        *flags,
        XDG_CACHE_HOME=str(self.caches),
        **environment,
    )
    self.assertIn(status, (None, 0), text)
    self.assertNotIn('warning', text.lower())
    losses = [
        (record['kind'], record['step'], record['loss'])
        for record in read_records(folder / 'metrics.jsonl')
    ]
    return events, losses

  def test_no_run_compiles_what_another_has(self):
    first, losses = self.train('first')
    self.assertGreater(first[_MISSES], 0)
    # The epochs' ends and the last batches have no shapes of their own.
    self.assertEqual(first[_STEPS], 3)
    (folder,) = (self.caches / 'alexnet-jax').iterdir()
    self.assertLen([*folder.glob('*-cache')], first[_MISSES])
    # Nobody else may place programs there that this user runs.
    self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)

    # The same from the cache is the same to the bit.
    second, same_losses = self.train('second')
    self.assertEqual(second[_MISSES], 0)
    self.assertEqual(second[_HITS], first[_REQUESTS])
    self.assertEqual(same_losses, losses)

    # Neither are another seed, other images and the rest of a run.
    other, other_losses = self.train('third', seed=1)
    self.assertEqual(other[_MISSES], 0)
    self.assertNotEqual(other_losses, losses)
    longer, _ = self.train('first', '--config.duration=8 steps')
    self.assertEqual(longer[_MISSES], 0)
    self.assertEqual(longer[_STEPS], 3)

  def test_processes_of_one_mesh_have_the_same_program(self):
    """Python orders sets of names differently in each process."""
    for hash_seed, kept in (('1', False), ('2', True)):
      events, _ = self.train(
          f'run{hash_seed}',
          '--config.mesh.tower=2',
          *_SHORT,
          JAX_NUM_CPU_DEVICES='2',
          PYTHONHASHSEED=hash_seed,
      )
      self.assertEqual(events[_MISSES] == 0, kept, events)

  def test_off(self):
    events, _ = self.train('run', '--compilation_cache=off', *_SHORT)
    self.assertEqual(events[_REQUESTS], 0)
    self.assertEqual(events[_STEPS], 2)
    # Other libraries may have caches there.
    self.assertFalse((self.caches / 'alexnet-jax').exists())


# Applies a command's flags and compiles something.
_USE = '''
import sys, warnings
from absl import flags
from alexnet.runtime import compilation_cache
flags.FLAGS(sys.argv)
compilation_cache.use_cache()
import jax
jax.jit(lambda x: x + 1)(1.0)
print(jax.config.jax_compilation_cache_dir)
print(jax.config.jax_compilation_cache_max_size)
'''

# As large as a training step's, compiled in the way of one, with its number of
# devices; nothing runs.
_USE_LARGE = """
import sys
import jax
import jax.numpy as jnp
from absl import flags
from alexnet.runtime import compilation, compilation_cache
flags.FLAGS(sys.argv[:1])
jax.config.update('jax_num_cpu_devices', int(sys.argv[1]))
compilation_cache.use_cache()
matrix = jax.ShapeDtypeStruct((6144, 6144), jnp.float32)
large = compilation.jit_for(
    jax.devices()[0], jnp.float32, lambda x: (x @ x) @ (x.T @ x)
)
memory = large.lower(matrix).compile().memory_analysis()
print(jax.config.jax_compilation_cache_dir, memory.temp_size_in_bytes)
"""


class FolderTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)

  def use(self, *flags, program=_USE, **environment):
    """(folder, its bound, stderr), with a home of its own."""
    result = subprocess.run(
        [sys.executable, '-c', program, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=tests.users_environment(
            HOME=str(self.directory / 'home'), XDG_CACHE_HOME='', **environment
        ),
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    folder, bound = result.stdout.split()
    return folder, int(bound), result.stderr

  def test_is_in_the_users_cache_folder_and_bounded(self):
    folder, bound, error = self.use()
    place = pathlib.Path(folder)
    self.assertEqual(
        place.parent, self.directory / 'home' / '.cache' / 'alexnet-jax'
    )
    self.assertEqual(bound, 2**30)
    self.assertNotEmpty([*place.glob('*-cache')])
    self.assertEqual(error, '')

  @parameterized.parameters(1, 2)
  def test_large_programs(self, devices):
    """JAX cannot keep one whose working memory is several blocks."""
    folder, size, error = self.use(str(devices), program=_USE_LARGE)
    self.assertGreater(size, 160 * 2**20)
    self.assertLen([*pathlib.Path(folder).glob('*-cache')], 1)
    self.assertEqual(error, '')

  def test_one_for_each_number_of_cores(self):
    """JAX would take one core's program on two."""
    if not hasattr(os, 'sched_setaffinity') or len(os.sched_getaffinity(0)) < 2:
      self.skipTest('needs two cores, of which a process can be given one')
    all_cores, _, _ = self.use()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
      one_core, _, _ = self.use()
    finally:
      os.sched_setaffinity(0, allowed)
    self.assertNotEqual(one_core, all_cores)

  def test_on_gpus_one_for_any_number_of_cores(self):
    """Hosts of a cluster may differ in them."""
    program = _USE.replace('jax.jit(lambda x: x + 1)(1.0)', '')
    folders = set()
    for cores in (1, 2, 64):
      folder, _, _ = self.use(
          program=program.replace(
              'flags.FLAGS(sys.argv)',
              f'compilation_cache.threads.cores = lambda: {cores}; '
              'flags.FLAGS(sys.argv)',
          ),
          JAX_PLATFORMS='cuda',
      )
      folders.add(folder)
    (folder,) = folders
    self.assertEndsWith(folder, '-accelerator')

  def test_flag_then_jaxs_variable_then_default(self):
    own, named = str(self.directory / 'own'), str(self.directory / 'named')
    variable = {'JAX_COMPILATION_CACHE_DIR': own}
    folder, bound, _ = self.use(**variable)
    self.assertEqual((folder, bound), (own, -1))  # As JAX has it.
    folder, _, _ = self.use(f'--compilation_cache={named}', **variable)
    self.assertEqual(str(pathlib.Path(folder).parent), named)

  def test_cannot_be_written(self):
    (self.directory / 'file').write_text('')
    folder, _, error = self.use(f'--compilation_cache={self.directory}/file')
    self.assertEqual(folder, 'None')
    self.assertIn('cannot keep compiled programs', error)
    self.assertNotIn('Traceback', error)

  def test_what_a_killed_process_has_left(self):
    """Without its -atime JAX could not write a program ever after."""
    folder, _, _ = self.use()
    place = pathlib.Path(folder)
    (program, *_) = place.glob('*-cache')
    whole = program.read_bytes()
    program.write_bytes(whole[:10])
    used = program.with_name(program.name.removesuffix('-cache') + '-atime')
    used.unlink()
    _, _, error = self.use()
    self.assertEqual(error, '')
    self.assertTrue(used.exists())
    self.assertGreater(program.stat().st_size, 10)


if __name__ == '__main__':
  absltest.main()
