"""What a run ran on, for workdir/environment.json."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from alexnet.workdir import write_json

FILE = 'environment.json'

_PACKAGES = (
    'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'ml-collections',
    'numpy', 'pillow', 'tensorflow', 'tensorflow-cpu', 'tensorflow-datasets',
)


def write(path: pathlib.Path) -> None:
  """Writes versions, devices, git revision and the command line.

  A run of several sessions keeps one entry for each.
  """
  # Unreadable if a session was killed while it wrote: only this one counts.
  sessions = read(path)
  sessions.append({
      'command': sys.argv,
      'python': platform.python_version(),
      'platform': platform.platform(),
      'cpus': os.cpu_count(),
      'packages': _versions(),
      'devices': [str(device) for device in jax.devices()],
      'device_kind': jax.devices()[0].device_kind,
      'git_revision': _git_revision(),
  })
  write_json(path, {'sessions': sessions})


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """What `write` has noted of each session; nothing if it cannot be read."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    return list(json.loads(path.read_text())['sessions'])
  return []


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
  root = pathlib.Path(__file__).parent.parent
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
