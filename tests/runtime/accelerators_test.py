"""What is set up by the GPUs of a machine, with files that look like theirs."""

import ctypes
import os
import pathlib
import types

from absl.testing import absltest, parameterized
from jaxlib import xla_client

from alexnet import evaluate, predict, verify
from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags
from alexnet.runtime import compilation_cache, heap
from alexnet.runtime.gpu import accelerators

mock = absltest.mock


class AcceleratorsTestCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.create_tempdir().full_path)
    self.driver, self.nodes = root / 'version', root / 'dev'
    self.nodes.mkdir()
    self.enter_context(mock.patch.multiple(
        accelerators, _DRIVER=self.driver, _NODES=self.nodes
    ))
    self.enter_context(mock.patch.dict(os.environ))
    for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME', 'CUDA_VISIBLE_DEVICES',
                 'XLA_PYTHON_CLIENT_PREALLOCATE'):
      os.environ.pop(name, None)

  def have_gpu(self):
    self.driver.write_text('NVRM version: NVIDIA 550.54\nGCC version: 12\n')
    (self.nodes / 'nvidia0').touch()


class ExpectedTest(AcceleratorsTestCase):

  def test_driver_and_a_device(self):
    self.assertFalse(accelerators.expected())
    self.assertIsNone(accelerators.driver_version())
    self.driver.write_text('NVRM version: NVIDIA 550.54\n')
    # A container without GPUs, on a host that has some.
    (self.nodes / 'nvidiactl').touch()
    self.assertFalse(accelerators.expected())
    self.have_gpu()
    self.assertTrue(accelerators.expected())
    self.assertEqual(
        accelerators.driver_version(), 'NVRM version: NVIDIA 550.54'
    )

  def test_a_device_that_the_job_may_not_open(self):
    self.driver.touch()
    (self.nodes / 'nvidia3').mkdir()  # Which cannot be opened to be written.
    self.assertFalse(accelerators.expected())

  @parameterized.parameters('', '-1', '-1,0')
  def test_hidden(self, visible):
    self.have_gpu()
    os.environ['CUDA_VISIBLE_DEVICES'] = visible
    self.assertFalse(accelerators.expected())

  @parameterized.parameters(
      ('JAX_PLATFORMS', 'cpu', True, False),
      ('JAX_PLATFORMS', 'cpu,cuda', True, False),
      ('JAX_PLATFORM_NAME', 'cpu', True, False),
      ('JAX_PLATFORMS', 'cuda,cpu', False, True),
      ('JAX_PLATFORMS', 'tpu', False, True),
  )
  def test_what_jax_is_told_counts(self, name, value, gpu, expected):
    if gpu:
      self.have_gpu()
    os.environ[name] = value
    self.assertEqual(accelerators.expected(), expected)

  def test_memory_of_cpu_steps_is_kept_on_cpus_only(self):
    self.have_gpu()
    with mock.patch.object(heap, '_libc') as libc:
      self.assertFalse(heap.keep_freed())
    libc.assert_not_called()


class CheckUsedTest(AcceleratorsTestCase):

  def check(self, platform, plugin=False, told=None):
    config = types.SimpleNamespace(
        jax_platforms=told, values={'jax_platform_name': ''}
    )
    found = lambda name: plugin and name.startswith('jax_cuda12')
    with (
        mock.patch('jax.config', config),
        mock.patch('importlib.util.find_spec', found),
    ):
      accelerators.check_used([types.SimpleNamespace(platform=platform)])

  def test_no_gpu(self):
    self.check('cpu')

  def test_used_or_not_wanted(self):
    self.have_gpu()
    self.check('gpu')
    self.check('cpu', told='cpu')

  @parameterized.parameters(
      (False, 'not installed: pip install -r requirements-gpu.txt'),
      (True, 'driver may be too old .*JAX_PLATFORMS=cuda'),
  )
  def test_not_seen(self, plugin, advice):
    self.have_gpu()
    with self.assertRaisesRegex(
        ConfigError, f'JAX does not see.*{advice}.*set JAX_PLATFORMS=cpu'
    ):
      self.check('cpu', plugin)


class MemoryTest(AcceleratorsTestCase):

  def test_of_others(self):
    self.assertNotIn(
        'preallocate', xla_client.generate_pjrt_gpu_plugin_options()
    )
    accelerators.take_memory_as_needed()
    options = xla_client.generate_pjrt_gpu_plugin_options()
    self.assertIs(options['preallocate'], False)

  def test_as_the_user_has_it(self):
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'true'
    accelerators.take_memory_as_needed()
    options = xla_client.generate_pjrt_gpu_plugin_options()
    self.assertIs(options['preallocate'], True)

  @parameterized.named_parameters(
      ('evaluate', lambda: evaluate.main([''])),
      ('verify', lambda: verify.main([''])),
      ('predict', lambda: predict.main(['', 'photo.jpg'])),
      ('features_report_and_others', lambda: run_flags.start([''])),
  )
  def test_commands_that_look_at_a_run(self, command):
    """Before they do anything that starts JAX."""

    class Called(Exception):
      pass

    with (
        mock.patch.object(
            accelerators, 'take_memory_as_needed', side_effect=Called
        ),
        mock.patch.object(predict, '_check'),
        mock.patch.object(heap, 'keep_freed') as later,
        self.assertRaises(Called),
    ):
      command()
    later.assert_not_called()

  def test_commands_that_train(self):
    with (
        mock.patch.object(accelerators, 'take_memory_as_needed') as never,
        mock.patch.object(heap, 'keep_freed'),
        mock.patch.object(compilation_cache, 'use_cache'),
    ):
      run_flags.start([''], trains=True)
    never.assert_not_called()


class FakeCuda:
  """libcuda of a machine with two GPUs."""

  def __init__(self, error=0):
    self.error = error

  def cuInit(self, flags):
    del flags
    return self.error

  def cuDeviceGetCount(self, count):
    count._obj.value = 2
    return 0

  def cuDeviceGet(self, device, ordinal):
    device._obj.value = 10 + ordinal
    return 0

  def cuDeviceGetUuid_v2(self, uuid, device):
    uuid.raw = bytes([device.value]) * 16
    return 0


class IdsTest(absltest.TestCase):

  def test_ids(self):
    with mock.patch.object(ctypes, 'CDLL', return_value=FakeCuda()):
      self.assertEqual(accelerators.nvidia_ids(), ['0a' * 16, '0b' * 16])

  def test_no_answer(self):
    with mock.patch.object(ctypes, 'CDLL', return_value=FakeCuda(error=100)):
      self.assertEqual(accelerators.nvidia_ids(), [])
    with mock.patch.object(ctypes, 'CDLL', side_effect=OSError):
      self.assertEqual(accelerators.nvidia_ids(), [])


if __name__ == '__main__':
  absltest.main()
