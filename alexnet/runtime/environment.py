"""What a run ran on, for workdir/environment.json."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax
from jax.sharding import Mesh

from alexnet.runtime import settings
from input_pipeline.files import threads

_PACKAGES = (
    'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'ml-collections',
    'numpy', 'pillow', 'tensorflow', 'tensorflow-cpu', 'tensorflow-datasets',
)


def describe(mesh: Mesh, compile_options: dict[str, Any]) -> dict[str, Any]:
  """What may make a difference to a result, as JSON has it.

  Args:
    mesh: of the run.
    compile_options: of the step of training, see `compilation.options`.

  Returns:
    Versions, devices, mesh, cores, settings of JAX, options of the compiler,
    XLA's flags and the git revision.
  """
  return {
      'python': platform.python_version(),
      'platform': platform.platform(),
      'cpus': os.cpu_count(),
      'cpus_allowed': threads.cores(),
      'packages': _versions(),
      'devices': [str(device) for device in jax.devices()],
      'device_kind': jax.devices()[0].device_kind,
      'processes': jax.process_count(),
      'mesh': dict(mesh.shape),
      'jax_settings': settings.describe(),
      'compile_options': compile_options,
      'xla_flags': os.environ.get('XLA_FLAGS', '').split(),
      'git_revision': _git_revision(),
  }


def idle_accelerator_warning() -> str | None:
  """A message if the machine has an NVIDIA GPU that JAX does not use."""
  has_driver = pathlib.Path('/proc/driver/nvidia/version').exists()
  if has_driver and jax.devices()[0].platform == 'cpu':
    return (
        'this machine has an NVIDIA driver, but JAX runs on the CPU: install '
        'requirements-gpu.txt'
    )
  return None


def _versions():
  versions = {}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _git_revision():
  root = pathlib.Path(__file__).parents[2]
  try:
    return subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--abbrev=40'],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None  # Not a git checkout, or no git.
