"""What every test file needs before anything uses JAX.

Importing any module of `tests` sets the number of CPU devices and how they
compile, so that a test file that is run by itself (`python -m
tests.ops.ops_test`) has them too.
"""

import atexit
import os
import shutil
import tempfile
from importlib import metadata

import psutil

# Most of the time of these tests would be spent in LLVM's optimizer, for
# networks that then run for a moment. The operations are the same without it,
# and with XLA's older code for fused ones, which compiles in a quarter of the
# time.
_FLAGS = (
    ' --xla_backend_optimization_level=0'
    ' --xla_llvm_disable_expensive_passes=true'
)
if metadata.version('jaxlib').startswith('0.10.'):  # Later ones have no other.
  _FLAGS += ' --xla_cpu_use_fusion_emitters=false'
if _FLAGS not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + _FLAGS

# Tolerances are those of CPUs, meshes have four devices, and each of several
# processes would take a GPU for itself. `make test-gpu` asks for another one.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# A short run waits for the disk for a third of its time, and never for a file
# system in memory, of which containers may have only 64 MB.
_MEMORY, _ENOUGH = '/dev/shm', 4 << 30
# What is compiled once is not compiled again by the same test process, nor by
# the commands that it starts. The user's own cache is neither read nor filled.
_PROGRAMS = {
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_COMPILATION_CACHE_DIR': '',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}
_OWNER = 'ALEXNET_TESTS_OWNER'  # The number of the process that made them.


def _has_room(folder):
  if not os.access(folder, os.W_OK):
    return False
  free = shutil.disk_usage(folder).free
  return min(free, psutil.virtual_memory().available) >= _ENOUGH


if _OWNER not in os.environ:
  if 'TMPDIR' not in os.environ and _has_room(_MEMORY):
    tempfile.tempdir = _MEMORY
  tempfile.tempdir = tempfile.mkdtemp(prefix='alexnet-tests-')
  os.chmod(tempfile.tempdir, 0o711)  # Some tests go on as another user.
  os.environ['TMPDIR'] = tempfile.tempdir
  _PROGRAMS['JAX_COMPILATION_CACHE_DIR'] = f'{tempfile.tempdir}/programs'
  os.environ.update(_PROGRAMS, **{_OWNER: str(os.getpid())})


@atexit.register
def _remove():
  if os.environ[_OWNER] == str(os.getpid()):
    shutil.rmtree(os.environ['TMPDIR'], ignore_errors=True)


import jax  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update('jax_num_cpu_devices', 4)

# Under pytest nobody parses absl's flags, and create_tempdir reads one.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


def users_environment(
    *, quick: bool = True, **variables: str
) -> dict[str, str]:
  """The environment of a command that has caches of its own, like a user's.

  Args:
    quick: whether its programs are compiled like those of the tests.
    **variables: that it has besides.
  """
  environment = {
      name: value
      for name, value in os.environ.items()
      if name not in _PROGRAMS
  }
  if not quick:
    environment['XLA_FLAGS'] = environment['XLA_FLAGS'].replace(_FLAGS, '')
  return {**environment, **variables}
