"""Errors that a user can fix, shown without a traceback."""

import errno

# Errors of a full disk, an exceeded quota, and a file of limited size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
  """An error that a user can fix; the message says how."""


class DataError(UserError):
  """Data is missing or cannot be used; the message says what to do."""


class ImageError(DataError):
  """One image cannot be used.

  Attributes:
    name: name of its file.
    reason: the reason, without the name.
  """

  def __init__(self, name: str, reason: str):
    super().__init__(
        f'cannot use {printable(name)} ({reason}): replace or remove it'
    )
    self.name = name
    self.reason = reason

  def __reduce__(self):
    return type(self), (self.name, self.reason)


def printable(name: str) -> str:
  r"""Formats a file's name as one line, with \ and unprintables escaped."""
  return ''.join(
      c
      if c.isprintable() and c != '\\'
      else c.encode('unicode_escape', 'surrogatepass').decode()
      for c in name
  )
