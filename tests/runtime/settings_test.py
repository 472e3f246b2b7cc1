"""JAX's own variables: what a command makes of them."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
from absl.testing import absltest, parameterized

from tests import testing, tiny_run

ROOT = pathlib.Path(__file__).parents[2]

# What a config and a seed begin with.
_BEGIN = '''
import json
from alexnet.runtime import settings
settings.fix()
import jax, jax.numpy as jnp

@jax.jit
def begin(key):
  normal = jax.random.normal(key, (2, 3)) * 0.01
  mask = jax.random.bernoulli(key, 0.5, (2, 3))
  return jnp.where(mask, normal, 0) + jnp.arange(3) * 1e-3

found = begin(jax.random.key(3))
print(json.dumps([str(found.dtype), found.tolist(), settings.describe()]))
'''


def run(code, *arguments, **variables):
  """(exit status, stdout, stderr) of code, with variables of JAX."""
  environment = {
      name: value for name, value in os.environ.items()
      if not name.startswith('JAX_') or name == 'JAX_PLATFORMS'
  }
  result = subprocess.run(
      [sys.executable, '-c', code, *map(str, arguments)],
      cwd=ROOT, capture_output=True, text=True, env=environment | variables,
  )
  return result.returncode, result.stdout, result.stderr


class FixTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    status, output, error = run(_BEGIN)
    assert not status, error
    cls.usual = json.loads(output)

  @parameterized.parameters(
      {'JAX_ENABLE_X64': '1', 'JAX_DEFAULT_PRNG_IMPL': 'rbg'},
      {'JAX_DEFAULT_PRNG_IMPL': 'unsafe_rbg', 'JAX_RANDOM_SEED_OFFSET': '7'},
      {'JAX_THREEFRY_PARTITIONABLE': '0', 'JAX_DISABLE_JIT': '1'},
      {'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
       'JAX_NUMPY_RANK_PROMOTION': 'raise', 'JAX_TRANSFER_GUARD': 'disallow'},
  )
  def test_the_same_begin(self, **variables):
    status, output, error = run(_BEGIN, **variables)
    self.assertEqual(status, 0, error)
    self.assertEqual(json.loads(output), self.usual)
    for name in variables:
      self.assertRegex(error, f'{name}=.* is set, and not used')

  def test_would_be_another_one(self):
    """What is fixed makes a difference, so the test above says something."""
    code = _BEGIN.replace('settings.fix()', '')
    _, output, _ = run(code, JAX_DEFAULT_PRNG_IMPL='rbg')
    self.assertNotEqual(json.loads(output)[1], self.usual[1])

  def test_rounding_is_the_users(self):
    status, output, error = run(_BEGIN, JAX_DEFAULT_MATMUL_PRECISION='highest')
    self.assertEqual(status, 0)
    self.assertIn(
        'JAX_DEFAULT_MATMUL_PRECISION=highest is set, and used', error
    )
    settings = json.loads(output)[2]
    self.assertEqual(settings['jax_default_matmul_precision'], 'highest')
    self.assertIsNone(self.usual[2]['jax_default_matmul_precision'])

  @parameterized.parameters('JAX_ENABLE_X64', 'JAX_DEFAULT_PRNG_IMPL')
  def test_what_jax_cannot_read(self, name):
    status, _, error = run(
        'import sys; from input_pipeline import cli\n'
        'from alexnet.runtime import settings\n'
        'cli.run(lambda argv: settings.fix())',
        **{name: 'banana'},
    )
    self.assertEqual(status, 1)
    self.assertNotIn('Traceback', error)
    # Some as the variable's name, some as the setting's.
    self.assertRegex(error, f'(?i)error: JAX cannot read .*banana.*{name}')


class PlatformTest(parameterized.TestCase):

  @parameterized.product(
      platform=('cuda', 'gpu', 'banana'),
      names=(('JAX_PLATFORMS',), ('JAX_PLATFORM_NAME',),
             ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')),
  )
  def test_one_that_cannot_be_started(self, platform, names):
    code = (
        'import sys; from input_pipeline import cli\n'
        'from alexnet.runtime import mesh\n'
        'cli.run(lambda argv: print(mesh.devices()))'
    )
    self.enter_context(absltest.mock.patch.dict(os.environ))
    os.environ.pop('JAX_PLATFORMS', None)
    status, output, error = run(code, **dict.fromkeys(names, platform))
    if status == 0:
      self.skipTest(f'this machine has {output}')
    self.assertNotIn('Traceback', error)
    told = ' and '.join(f'{name}={platform}' for name in names)
    self.assertRegex(
        error,
        rf'error: {told}, which JAX cannot start here \(.+\)'
        r': this machine has \d+ \w+ device.* or set JAX_PLATFORM',
    )
    advised = dict(re.findall(r'(JAX_\w+)=(\w+)', error.split('or set ')[1]))
    self.assertSameElements(advised, names)
    status, output, error = run(code, **advised)
    self.assertEqual(status, 0, error)


_PREDICT = '''
import sys
import numpy as np
import alexnet, jax
before = dict(jax.config.values)
network = alexnet.load(sys.argv[1])
found = network.predict(sys.argv[2:])
print(found.dtype, *found.reshape(-1))
assert {n: v for n, v in jax.config.values.items() if v != before[n]} == {}
'''


class LibraryTest(absltest.TestCase):

  def test_a_users_settings_stay(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    images = testing.write_images(folder / 'images', 2, 1)
    network = tiny_run.write(folder / 'run', images, 2)
    photos = sorted(images.glob('*/*.jpg'))
    wanted = network.predict(photos)
    status, output, error = run(
        _PREDICT, folder / 'run', *photos,
        JAX_ENABLE_X64='1', JAX_DEFAULT_PRNG_IMPL='rbg',
    )
    self.assertEqual(status, 0, error)
    dtype, *found = output.split()
    self.assertEqual(dtype, 'float32')
    np.testing.assert_allclose(
        np.array(found, float).reshape(wanted.shape), wanted, rtol=1e-4
    )


if __name__ == '__main__':
  absltest.main()
