"""Description of a run's environment, for workdir/environment.json."""

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from alexnet.runtime import compilation_cache, settings
from alexnet.runtime.gpu import accelerators, precision
from input_pipeline.files import threads

_PACKAGES = (
    'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'ml-collections',
    'numpy', 'pillow', 'tensorflow', 'tensorflow-cpu', 'tensorflow-datasets',
    'jax-cuda12-plugin', 'nvidia-cublas-cu12', 'nvidia-cudnn-cu12',
    'jax-cuda13-plugin', 'nvidia-cublas', 'nvidia-cudnn-cu13',
)
# XLA's flags for kernels whose results are the same each time.
_DETERMINISTIC = re.compile(
    r'--xla_gpu_(deterministic_ops|exclude_nondeterministic_ops)(=(true|1))?'
)


def describe(
    mesh: Mesh,
    model: ml_collections.ConfigDict,
    compile_options: dict[str, Any],
) -> dict[str, Any]:
  """Describes all that may affect a run's results, as values of JSON.

  Args:
    mesh: mesh of the run.
    model: the `model` part of the run's config.
    compile_options: compiler options of the training step, see
      `compilation.options`.

  Returns:
    Versions, devices, mesh, cores, precision, how kernels are chosen, settings
    of JAX, compiler options, XLA's flags and the git revision.
  """
  device = mesh.devices.flat[0]
  flags = os.environ.get('XLA_FLAGS', '').split()
  deterministic = compile_options.get('xla_gpu_deterministic_ops', False)
  deterministic |= any(map(_DETERMINISTIC.fullmatch, flags))
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
      'precision': precision.in_force(model, device),
      'nvidia_driver': accelerators.driver_version(),
      'kernels': kernels(device, deterministic),
      'jax_settings': settings.describe(),
      'compile_options': compile_options,
      'xla_flags': flags,
      'git_revision': _git_revision(),
  }


def kernels(device: jax.Device, deterministic: bool) -> dict[str, Any]:
  """Describes whether another session gets the same kernels and results.

  On a GPU, XLA measures several kernels, which differ in rounding, and uses the
  fastest. It keeps its choice beside the compiled programs.

  Args:
    device: device that programs are compiled for.
    deterministic: whether XLA may only use kernels whose results are the same
      each time.

  Returns:
    'deterministic', and 'kept_in', the folder of compiled programs or None; {}
    for a CPU, whose kernels are chosen without measurements.
  """
  if device.platform == 'cpu':
    return {}
  return {
      'deterministic': deterministic,
      'kept_in': compilation_cache.in_use(),
  }


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
