"""Two processes of one run: who has which GPU, and no program from a cache.

There is no GPU: what the processes believe to have is given to them.
"""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

import tests
from tests.runtime import distributed_test

ROOT = pathlib.Path(__file__).parents[2]

_PROCESS = '''
import json, sys
from alexnet.runtime import compilation_cache, distributed
from alexnet.runtime.gpu import accelerators
from input_pipeline import cli

gpus = json.loads(sys.argv.pop())
accelerators.expected = lambda: gpus is not None
accelerators.nvidia_ids = lambda: gpus

def main(argv):
  compilation_cache.use_cache()
  with distributed.session():
    import collections, jax
    events = collections.Counter()
    jax.monitoring.register_event_listener(
        lambda name, **_: events.update([name.split('/')[-1]])
    )
    jax.jit(lambda x: x + 1)(1.0)
    print(json.dumps(dict(events)))

cli.run(main)
'''


class SharedTest(parameterized.TestCase):

  def run_two(self, *gpus, flags=(), **variables):
    """(exit statuses, output, errors) of two processes with these GPUs.

    Each has caches of its own, and of each variable its own value.
    """
    self.caches = [self.create_tempdir(f'cache{i}') for i in range(2)]
    with distributed_test.port() as port:
      processes = [
          subprocess.Popen(
              [
                  sys.executable, '-c', _PROCESS,
                  f'--coordinator=127.0.0.1:{port}', '--num_processes=2',
                  f'--process_id={index}', *flags, json.dumps(gpus[index]),
              ],
              cwd=ROOT, text=True,
              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
              env=tests.users_environment(
                  XDG_CACHE_HOME=self.caches[index].full_path,
                  **{name: value[index] for name, value in variables.items()},
              ),
          )
          for index in range(2)
      ]
      ended = [process.communicate(timeout=120) for process in processes]
    return [p.returncode for p in processes], *zip(*ended)

  def programs(self):
    """Number of programs in the cache of each process."""
    return [
        len([*pathlib.Path(cache.full_path).glob('alexnet-jax/*/*-cache')])
        for cache in self.caches
    ]

  def test_on_cpus_the_first_process_keeps_programs(self):
    """So a second run would have one process that compiles nothing."""
    statuses, outputs, errors = self.run_two(None, None)
    self.assertEqual(statuses, [0, 0], errors)
    first, second = self.programs()
    self.assertGreater(first, 0)
    self.assertEqual(second, 0)
    self.assertIn('compile_requests_use_cache', json.loads(outputs[1]))

  def test_on_gpus_no_process_does(self):
    statuses, outputs, errors = self.run_two(['a', 'b'], ['c', 'd'])
    self.assertEqual(statuses, [0, 0], errors)
    self.assertEqual(self.programs(), [0, 0])
    for output in outputs:
      self.assertNotIn('compile_requests_use_cache', json.loads(output))
    self.assertNotIn('warning', ''.join(errors).lower())

  def test_a_cache_that_somebody_has_asked_for(self):
    own = self.create_tempdir('own').full_path
    _, _, errors = self.run_two(
        ['a'], ['b'], flags=[f'--compilation_cache={own}']
    )
    for error in errors:
      self.assertIn('Leave out --compilation_cache', error)

  @parameterized.parameters(
      (['a', 'b'], ['a', 'b']), (['a', 'b'], ['c', 'b']), (['a'], ['a'])
  )
  def test_one_gpu_twice(self, *gpus):
    statuses, _, errors = self.run_two(*gpus)
    self.assertEqual(statuses, [1, 1], errors)
    for error in errors:
      self.assertNotIn('Traceback', error)
      self.assertRegex(
          error,
          r'error: the processes 0 and 1 of 2 would take the same GPU: .*'
          r'JAX_LOCAL_DEVICE_IDS=0 .*\(process \d of 2\)',
      )

  def test_the_way_out(self):
    statuses, _, errors = self.run_two(
        ['a', 'b'], ['a', 'b'], JAX_LOCAL_DEVICE_IDS=['0', '1']
    )
    self.assertEqual(statuses, [0, 0], errors)


if __name__ == '__main__':
  absltest.main()
