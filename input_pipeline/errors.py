"""Errors that a user can fix, shown without a traceback."""

import errno

# What the system says of a full disk, a quota, and a file that may not grow.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
  """An error that a user can fix; the message says how."""


class DataError(UserError):
  """Data is missing or cannot be used; the message says what to do."""


class ImageError(DataError):
  """One image cannot be used.

  Attributes:
    name: of its file.
    reason: why, without the name.
  """

  def __init__(self, name: str, reason: str):
    super().__init__(
        f'cannot use {printable(name)} ({reason}): replace or remove it'
    )
    self.name = name
    self.reason = reason


def printable(name: str) -> str:
  r"""A file's name on one line: what cannot be shown is escaped, as is \."""
  return ''.join(
      c
      if c.isprintable() and c != '\\'
      else c.encode('unicode_escape', 'surrogatepass').decode()
      for c in name
  )
