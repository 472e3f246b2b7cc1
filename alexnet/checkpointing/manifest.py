"""Manifests, which list the SHA-256 of each file in a checkpoint's folder.

They detect damage that Orbax does not notice, such as a flipped bit. A manifest
is written last, so a folder without one is incomplete.
"""

import contextlib
import json
import os
import pathlib
import re

from alexnet.config.errors import CheckpointError
from input_pipeline.files import atomic, checksums

FILE = 'manifest.json'

# Largest size of a manifest in bytes; a checkpoint of many hosts has thousands
# of files.
_LARGEST = 2**24
_DIGEST = re.compile('[0-9a-f]{64}')


def write(directory: pathlib.Path) -> None:
  """Writes the manifest of a folder after syncing its files to disk.

  The order guarantees that, after a power cut, a folder with a manifest has all
  files that the manifest names.

  Raises:
    OSError: the files cannot be read, synced or written.
  """
  files = {}
  for path in sorted(_files(directory)):
    files[path.relative_to(directory).as_posix()] = checksums.of_file(path)
    _sync(path)
  for folder in {directory, *(p for p in directory.rglob('*') if p.is_dir())}:
    sync_folder(folder)
  atomic.replace_text(directory / FILE, json.dumps(files, indent=1))
  sync_folder(directory)
  sync_folder(directory.parent)


def sync_folder(directory: pathlib.Path) -> None:
  """Syncs a folder's list of names to disk, where the file system can."""
  with contextlib.suppress(OSError):  # Some network disks do not support this.
    _sync(directory)


def _sync(path):
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def check(directory: pathlib.Path) -> None:
  """Compares a folder with its manifest, reading every file.

  Raises:
    CheckpointError: the manifest cannot be read, or a file is missing, has
      changed, cannot be read or is not in the manifest; names the first.
  """
  files = _read(directory)
  for name, digest in files.items():
    path = directory / name
    try:
      if path.is_symlink() or not path.is_file():
        raise _damaged(directory, f'{name} is missing')
      if checksums.of_file(path) != digest:
        raise _damaged(directory, f'{name} is not as it was written')
    except OSError as error:
      reason = f'{name} cannot be read ({error.strerror})'
      raise _damaged(directory, reason) from error
  for path in _files(directory):
    name = path.relative_to(directory).as_posix()
    if name not in files and name != FILE:
      raise _damaged(directory, f'{name} is not in {FILE}')


def _read(directory):
  """Reads the manifest, {file name: SHA-256}; all names lie in the folder."""
  path = directory / FILE
  try:
    if path.stat().st_size > _LARGEST:
      raise ValueError(f'it has {path.stat().st_size:,} bytes')
    files = json.loads(path.read_bytes())
  except (OSError, ValueError, RecursionError) as error:
    raise _damaged(directory, f'{FILE} cannot be read ({error})') from error
  if not isinstance(files, dict) or not files:
    raise _damaged(directory, f'{FILE} is not a list of files')
  for name, digest in files.items():
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
      raise _damaged(directory, f'{FILE} has no SHA-256 of {name!r}')
    parts = pathlib.PurePosixPath(name).parts
    if not parts or name.startswith('/') or '..' in parts or '\0' in name:
      reason = f'{FILE} names {name!r}, which is not a file in this folder'
      raise _damaged(directory, reason)
  return files


def _files(directory):
  for path in directory.rglob('*'):
    if path.is_symlink() or not path.is_dir():
      yield path


def _damaged(directory, reason):
  return CheckpointError(f'{directory} is damaged: {reason}')
