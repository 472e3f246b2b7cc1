"""Resolves paths that users write in flags, configs and calls.

All of them go through `local`, so that the same words name the same file in
every command.
"""

import os
import pathlib
import re
from typing import Any

from absl import flags

from input_pipeline.errors import UserError

# gs://bucket/run. As a path it would be a folder called 'gs:' here.
_ADDRESS = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')


def is_address(text: str) -> bool:
  """Whether a path begins with a scheme such as gs://."""
  return _ADDRESS.match(text) is not None


class PathError(UserError):
  """Not a path on this machine."""


def local(given: str | os.PathLike, name: str = 'the path') -> pathlib.Path:
  """The absolute path of what a user has written, which need not be there.

  `~` and `~user` are home folders, and what is relative is so to the folder
  that the program was called in. Links stay as they are.

  Args:
    given: in the user's words.
    name: of the flag or field, for messages.

  Raises:
    PathError: an address, such as gs://bucket/run, nothing at all, a zero
      byte, or a home folder that is not known.
  """
  text = os.fspath(given)
  if is_address(text):
    raise PathError(
        f'{name} is {text}, an address: wanted a path on this machine. Copy '
        'what is there to a disk, or mount it as a folder'
    )
  if not text or '\0' in text:
    raise PathError(f'{name} is {text!r}: wanted a path')
  try:
    path = pathlib.Path(text).expanduser()
  except RuntimeError as error:
    raise PathError(
        f'{name} is {text}, but nothing says where that home folder is: write '
        'the whole path, or set HOME'
    ) from error
  return path.absolute()


def cache_folder() -> pathlib.Path | None:
  """The user's cache folder; None without a home."""
  # A relative one is to be ignored, says its specification.
  folder = pathlib.Path(os.environ.get('XDG_CACHE_HOME', ''))
  if folder.is_absolute():
    return folder
  try:
    home = pathlib.Path.home()
  except RuntimeError:  # No HOME, and a user that no file knows.
    return None
  return home / '.cache' if home.is_absolute() else None


class _Parser(flags.ArgumentParser):
  """Of a flag; its message names the flag."""

  def parse(self, argument: str) -> pathlib.Path:
    try:
      return local(argument, 'it')
    except PathError as error:
      raise ValueError(str(error)) from error

  def flag_type(self) -> str:
    return 'path'


def define(name: str, help: str) -> flags.FlagHolder:
  """Defines a flag whose value is a `pathlib.Path`; unset it is None."""
  return flags.DEFINE(
      _Parser(), name, None, help, serializer=flags.ArgumentSerializer()
  )


def define_several(name: str, default: Any, help: str) -> flags.FlagHolder:
  """Defines a flag that may be repeated: a list of `pathlib.Path`."""
  return flags.DEFINE_multi(
      _Parser(), flags.ArgumentSerializer(), name, default, help
  )
