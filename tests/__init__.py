"""What every test file needs before anything uses JAX.

Importing any module of `tests` sets the number of CPU devices and how they
compile, so that a test file that is run by itself (`python -m
tests.ops.ops_test`) has them too.
"""

import os

# Most of the time of these tests is spent in LLVM's optimizer, for networks
# that then run for a moment. The operations are the same without it.
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_backend_optimization_level=0'
    ' --xla_llvm_disable_expensive_passes=true'
)

# Tolerances are those of CPUs, meshes have four devices, and each of several
# processes would take a GPU for itself. `make test-gpu` asks for another one.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# Neither the user's cache of compiled programs is read nor is it filled, by the
# commands that tests start either.
os.environ.setdefault('JAX_ENABLE_COMPILATION_CACHE', 'false')

import jax
from absl import flags

jax.config.update('jax_num_cpu_devices', 4)

# Under pytest nobody parses absl's flags, and create_tempdir reads one.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()
