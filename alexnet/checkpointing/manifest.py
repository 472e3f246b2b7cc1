"""Writes and checks manifests: the SHA-256 of each file of a folder.

Orbax does not notice a flipped bit in a checkpoint; this does. It is written
last, and a folder without it was interrupted.
"""

import contextlib
import json
import os
import pathlib
import re

from alexnet.config.errors import CheckpointError
from input_pipeline.files import atomic, checksums

FILE = 'manifest.json'

_LARGEST = 2**24  # Bytes; a checkpoint on many hosts has some thousand files.
_DIGEST = re.compile('[0-9a-f]{64}')


def write(directory: pathlib.Path) -> None:
  """Writes the manifest of a folder after syncing its files to disk.

  After a power cut the manifest is there only if all that it names is.

  Raises:
    OSError: no room, for instance.
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
  """Syncs the names in a folder to disk."""
  with contextlib.suppress(OSError):  # Some network disks cannot.
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
    CheckpointError: the first difference: a file that is missing, is not as it
      was written, or is not of this folder at all.
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
  """{name of a file: SHA-256}, all in the folder."""
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
