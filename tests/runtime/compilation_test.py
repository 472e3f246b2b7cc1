"""Options of the compiler: which a device gets, and which XLA knows."""

import io
import pathlib
import types

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from alexnet.metrics.console import Console
from alexnet.runtime import compilation
from alexnet.training import trainer
from tests import testing, tiny

_CPU = jax.devices('cpu')[0]


def gpu_options(processes=1, **arguments):
  """Of a GPU; the XLA of this machine's CPU is asked what it knows."""
  gpu = types.SimpleNamespace(platform='gpu', process_index=0)
  is_known = compilation._is_known
  with absltest.mock.patch.object(
      compilation, '_is_known', lambda _, *option: is_known(_CPU, *option)
  ), absltest.mock.patch.object(jax, 'process_count', lambda: processes):
    return compilation.options(gpu, jnp.float32, **arguments)


class OptionsTest(parameterized.TestCase):

  def test_of_gpus(self):
    self.assertEqual(gpu_options(), {
        'xla_gpu_experimental_parallel_collective_overlap_limit': 4,
        'xla_gpu_all_reduce_combine_threshold_bytes': 4194304,
    })

  def test_several_processes_tune_for_themselves(self):
    several, one = gpu_options(processes=2), gpu_options()
    self.assertEqual(
        several.items() - one.items(), {('xla_gpu_shard_autotuning', False)}
    )

  def test_deterministic(self):
    switched, usual = gpu_options(deterministic=True), gpu_options()
    self.assertEqual(
        switched.items() - usual.items(), {('xla_gpu_deterministic_ops', True)}
    )
    on_cpu = lambda **switch: compilation.options(_CPU, jnp.float32, **switch)
    self.assertEqual(on_cpu(deterministic=True), on_cpu())

  def test_deterministic_in_all_programs_of_a_run(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    config = tiny.get_config()
    config.dataset.train_dir = str(
        testing.write_images(folder / 'images', 2, 10)
    )
    config.deterministic = True
    config.layer_statistics_images = 4
    asked, options = [], compilation.options

    def recorded(*arguments, deterministic=False):
      asked.append(deterministic)
      return options(*arguments)

    with absltest.mock.patch.object(compilation, 'options', recorded):
      run = trainer.create(config, folder / 'run', Console(io.StringIO()))
      run.close()
    # Training, evaluation, prediction, layers; and environment.json.
    self.assertLen(asked, 5)
    self.assertTrue(all(asked), asked)

  def test_of_others(self):
    tpu = types.SimpleNamespace(platform='tpu', process_index=0)
    self.assertEqual(compilation.options(tpu, jnp.float32), {})

  def test_what_xla_does_not_know_is_left_out(self):
    wanted = {
        'xla_gpu_deterministic_ops': True, 'xla_gpu_of_another_release': 3
    }
    for logs in True, False:  # Once.
      compilation._is_known.cache_clear() if logs else None
      context = self.assertLogs if logs else self.assertNoLogs
      with context(level='WARNING') as seen:
        known = compilation.known_options(_CPU, wanted)
      self.assertEqual(known, {'xla_gpu_deterministic_ops': True})
      if logs:
        (line,) = seen.output
        self.assertIn('xla_gpu_of_another_release is left out', line)

  def test_a_value_that_xla_refuses(self):
    """Is no unknown option."""
    with self.assertRaisesRegex(jax.errors.JaxRuntimeError, 'INVALID'):
      compilation.known_options(_CPU, {'xla_gpu_deterministic_ops': 'perhaps'})

  def test_they_are_in_the_program(self):
    """Which is compiled with them: XLA refuses one that is made up."""
    made_up = {'xla_gpu_of_another_release': 3}
    with absltest.mock.patch.object(
        compilation, 'options', lambda *_, **__: made_up
    ):
      program = compilation.jit_for(_CPU, jnp.float32, lambda x: x + 1)
    with self.assertRaisesRegex(jax.errors.JaxRuntimeError, 'No such compile'):
      program.lower(jnp.ones(3)).compile()


if __name__ == '__main__':
  absltest.main()
