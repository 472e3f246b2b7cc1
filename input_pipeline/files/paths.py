"""Resolves paths that users write in flags, configs and calls.

All of them go through `local`, so that the same text names the same file in
every command.
"""

import os
import pathlib
import re
from typing import Any

from absl import flags

from input_pipeline.errors import UserError

# gs://bucket/run, which as a path would be a local folder named 'gs:'.
_ADDRESS = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')


def is_address(text: str) -> bool:
  """Returns whether a path begins with a scheme such as gs://."""
  return _ADDRESS.match(text) is not None


class PathError(UserError):
  """Raised for text that is not a path on this machine."""


def local(given: str | os.PathLike, name: str = 'the path') -> pathlib.Path:
  """Returns the absolute path of a user's text; it need not exist.

  `~` and `~user` are expanded. Relative paths start at the working directory.
  Links are kept.

  Args:
    given: the user's text.
    name: name of the flag or field, for messages.

  Raises:
    PathError: the text is a URL such as gs://bucket/run, empty, has a zero
      byte, or names an unknown home folder.
  """
  text = os.fspath(given)
  if is_address(text):
    raise PathError(
        f'{name} is {text}, an address: expected a path on this machine. Copy '
        'what is there to a disk, or mount it as a folder'
    )
  if not text or '\0' in text:
    raise PathError(f'{name} is {text!r}: expected a path')
  try:
    path = pathlib.Path(text).expanduser()
  except RuntimeError as error:
    raise PathError(
        f'{name} is {text}, but nothing says where that home folder is: write '
        'the whole path, or set HOME'
    ) from error
  return path.absolute()


def cache_folder() -> pathlib.Path | None:
  """Returns the user's cache folder; None without a home."""
  # The specification says to ignore relative paths.
  folder = pathlib.Path(os.environ.get('XDG_CACHE_HOME', ''))
  if folder.is_absolute():
    return folder
  try:
    home = pathlib.Path.home()
  except RuntimeError:  # HOME is unset and the user is not in the database.
    return None
  return home / '.cache' if home.is_absolute() else None


class _Parser(flags.ArgumentParser):
  """Parses a flag's path; messages name the flag."""

  def parse(self, argument: str) -> pathlib.Path:
    try:
      return local(argument, 'it')
    except PathError as error:
      raise ValueError(str(error)) from error

  def flag_type(self) -> str:
    return 'path'


def define(name: str, help: str) -> flags.FlagHolder:
  """Defines a flag that is a `pathlib.Path`, or None if unset."""
  return flags.DEFINE(
      _Parser(), name, None, help, serializer=flags.ArgumentSerializer()
  )


def define_several(name: str, default: Any, help: str) -> flags.FlagHolder:
  """Defines a repeatable flag: a list of `pathlib.Path`."""
  return flags.DEFINE_multi(
      _Parser(), flags.ArgumentSerializer(), name, default, help
  )
