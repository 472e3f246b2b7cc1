"""What is said when a GPU has not the memory; by devices that are none."""

import io
import pathlib
import types

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from alexnet import models
from alexnet.config.errors import DeviceMemoryError
from alexnet.inference import loading
from alexnet.metrics.console import Console
from alexnet.runtime import sharding
from alexnet.runtime.gpu import device_memory
from alexnet.training import trainer
from tests import testing, tiny, tiny_run

# As XLA's allocators and CUDA's libraries have it, and the bytes wanted.
TEXTS = (
    ('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 '
     'bytes.\nBufferAssignment OOM Debugging.', 'another 4.4 GiB'),
    ('RESOURCE_EXHAUSTED: Out of memory allocating 20029400304 bytes.',
     'another 18.7 GiB'),
    ('RESOURCE_EXHAUSTED: Failed to allocate request for 1.50GiB '
     '(1610612736B) on device ordinal 0', 'another 1.5 GiB'),
    ('INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out '
     'of memory', 'more'),
    ('INTERNAL: the library was not initialized: CUBLAS_STATUS_ALLOC_FAILED',
     'more'),
)


def gpu(limit):
  return types.SimpleNamespace(
      platform='gpu',
      device_kind='NVIDIA T1',
      memory_stats=lambda: limit and {'bytes_limit': limit},
  )


class ExplainedTest(parameterized.TestCase):

  @parameterized.parameters(*TEXTS)
  def test_messages(self, text, wanted):
    work = device_memory.Work('a step', 128, 'set less', gpu(3 * 2**30))
    with self.assertRaises(DeviceMemoryError) as caught, work.explained():
      raise jax.errors.JaxRuntimeError(text)
    self.assertRegex(
        str(caught.exception),
        rf'^a step with 128 images on each device needs {wanted}, which is not '
        r'free of the 3.0 GiB that JAX has of NVIDIA T1: set less\. nvidia-smi '
        r'.*XLA_CLIENT_MEM_FRACTION.* JAX says: [A-Z_]+: .*$',
    )

  @parameterized.parameters(
      jax.errors.JaxRuntimeError('INVALID_ARGUMENT: shapes differ'),
      ValueError('RESOURCE_EXHAUSTED: of another program'),
  )
  def test_other_errors_stay(self, error):
    work = device_memory.Work('a step', 1, 'set less', gpu(None))
    with self.assertRaises(type(error)) as caught, work.explained():
      raise error
    self.assertIs(caught.exception, error)


class CheckedTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.x = jnp.ones((256, 1024))  # 1 MiB.

  def program(self, limit, **arguments):
    """A program of one argument and a result of its size."""
    jitted = jax.jit(lambda x: x + 1, **arguments)
    self.calls = []

    class Counted:
      lower = jitted.lower

      def __call__(_, *arguments):
        self.calls.append(arguments)
        return jitted(*arguments)

    return device_memory.Checked(Counted(), gpu(limit))

  def test_too_large(self):
    program = self.program(limit=2**21 - 1)
    with self.assertRaisesRegex(
        DeviceMemoryError, 'needs 0.0 GiB, more than the 0.0 GiB that JAX has'
    ):
      program(self.x)
    self.assertEmpty(self.calls)

  def test_donated_memory_counts_once(self):
    program = self.program(limit=2**21 - 1, donate_argnums=0)
    self.assertEqual(program(self.x).shape, (256, 1024))

  @parameterized.parameters(2**22, None)
  def test_fits_or_is_not_told(self, limit):
    program = self.program(limit)
    for _ in range(2):
      self.assertEqual(float(program(self.x)[0, 0]), 2)
    self.assertLen(self.calls, 2)

  def test_in_a_message(self):
    work = device_memory.Work('a step', 1, 'set less', gpu(1))
    with self.assertRaisesRegex(
        DeviceMemoryError,
        '^a step with 1 image on each device needs .* of NVIDIA T1: set less',
    ), work.explained():
      self.program(limit=1)(self.x)


class RunTest(parameterized.TestCase):
  """A fake of the error, at each place where it may come."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.images = testing.write_images(self.root / 'images', 2, 10)

  def open(self, **fields):
    config = tiny.get_config()
    config.dataset.train_dir = str(self.images)
    with config.ignore_type():
      config.update_from_flattened_dict(fields)
    self.config = config
    return trainer.create(config, self.root / 'run', Console(io.StringIO()))

  def fail(self, *_):
    raise jax.errors.JaxRuntimeError(TEXTS[0][0])

  def test_training_step(self):
    run = self.open(batch_size=12, **{'mesh.data': 2, 'accumulation': 1})
    run.steps._train_step = self.fail
    with self.assertRaisesRegex(
        DeviceMemoryError,
        'a training step with 6 images on each device needs another 4.4 GiB.*'
        'set --config.accumulation=2, .*--config.model.dtype=bfloat16',
    ):
      run.train()

  def test_moving_a_batch(self):
    run = self.open()
    with (
        absltest.mock.patch.object(sharding, 'put_batch', self.fail),
        self.assertRaisesRegex(DeviceMemoryError, 'a training step with'),
    ):
      run.train()

  def test_measuring_layers(self):
    run = self.open(layer_statistics_images=4)
    run._observer._measure = self.fail
    with self.assertRaisesRegex(
        DeviceMemoryError, 'measuring layers with .*--config.layer_statistics_'
    ):
      run.train()

  def test_advice_is_a_config_that_works(self):
    run = self.open(batch_size=12, **{'mesh.data': 2, 'accumulation': 2})
    work = device_memory.training(run.task.config, run.task.mesh)
    self.assertIn('--config.accumulation=3,', work.advice)
    run.close()
    run = self.open(batch_size=12, **{'mesh.data': 2, 'accumulation': 3})
    models.check(run.task.config)
    run.close()

  def test_one_image_has_no_parts(self):
    run = self.open(batch_size=2, **{'mesh.data': 2, 'accumulation': 1})
    work = device_memory.training(run.task.config, run.task.mesh)
    self.assertNotIn('accumulation', work.advice)
    run.close()

  def test_a_step_that_fails_later(self):
    """On a GPU the host does not know before it reads a result."""
    run = self.open()
    later = type('Later', (), {'__float__': self.fail})()
    run.steps._train_step = lambda state, *_: (state, {'loss': later})
    with self.assertRaisesRegex(DeviceMemoryError, 'a training step'):
      run.train()

  def test_evaluation(self):
    run = self.open(evaluation_batch_size=4, **{'mesh.data': 2})
    run.task.eval_steps['centre'] = self.fail
    with self.assertRaisesRegex(
        DeviceMemoryError,
        'an evaluation with 2 images .*smaller --config.evaluation_batch_size',
    ):
      run.evaluate('centre')
    run.task.predict_steps['centre'] = self.fail
    with self.assertRaisesRegex(DeviceMemoryError, 'an evaluation'):
      run.task.predict(run.state.variables, 'centre')
    run.close()

  @parameterized.parameters('centre', 'dense')
  def test_prediction(self, views):
    tiny_run.write(self.root / 'run', self.images, 2)
    network = loading.load(self.root / 'run')
    with absltest.mock.patch.object(
        type(network), 'compiled', lambda *_: self.fail
    ), self.assertRaisesRegex(DeviceMemoryError, 'a prediction needs'):
      network.predict(sorted(self.images.glob('*/*.jpg'))[:1], views=views)


if __name__ == '__main__':
  absltest.main()
