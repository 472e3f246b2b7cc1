"""One job at a time in a workdir.

The lock is the system's (`flock`) and ends with the process, however that ends.
The file says whose it is, for the message, and for disks that know no locks.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import weakref
from collections.abc import Callable
from typing import Any, BinaryIO

from alexnet.config.errors import WorkdirInUseError

FILE = 'job.lock'

# Of this process, by path: a run that is opened again, in a notebook for
# instance, is not another job.
_held: 'weakref.WeakValueDictionary[pathlib.Path, Lock]' = (
    weakref.WeakValueDictionary()
)


class Lock:
  """That of this process on a workdir; it ends with the object, too."""

  def __init__(self, file: BinaryIO):
    """Use `take`."""
    self._file = file

  def release(self) -> None:
    """Lets another job have the workdir."""
    if not self._file.closed:
      # Empty: this job has come to its end. The file stays: who removes it may
      # remove the lock of a job that has just opened it.
      with contextlib.suppress(OSError):
        self._file.truncate(0)
      self._file.close()

  def __del__(self):
    self.release()


def take(workdir: pathlib.Path, warn: Callable[[str], None]) -> Lock:
  """Locks a workdir for this process.

  Args:
    workdir: a folder that is there.
    warn: is told what may be wrong and cannot be known.

  Returns:
    The lock; the one that this process has already, if any.

  Raises:
    WorkdirInUseError: another job has it.
    OSError: the file cannot be written.
  """
  path = (workdir / FILE).resolve()
  lock = _held.get(path)
  if lock is not None and not lock._file.closed:
    return lock
  # Not for writing alone, which would empty it.
  file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 'r+b', 0)
  try:
    _lock(file, workdir, warn)
    file.seek(0)
    file.truncate(0)
    with contextlib.suppress(OSError):  # A full disk: the lock holds anyway.
      file.write((json.dumps(_describe_this()) + '\n').encode())
  except BaseException:
    file.close()
    raise
  lock = _held[path] = Lock(file)
  return lock


def _lock(file, workdir, warn):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    locks = True
  except BlockingIOError:
    raise _in_use(workdir, _owner(file)) from None
  except OSError as error:
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS,
                           errno.EINVAL):
      raise
    locks = False
  owner = _owner(file)
  if owner is None:
    return  # New, or the last job came to its end.
  if owner['host'] == socket.gethostname():
    if not locks and _is_alive(owner):
      raise _in_use(workdir, owner)
    return  # It was killed.
  # With locks between machines it is gone; without, nobody knows.
  warn(
      f'the last job in {workdir} did not come to its end: {_name(owner)}. If '
      'it still runs, stop one of the two: not all network disks know locks '
      'between machines'
  )


def _in_use(workdir, owner):
  return WorkdirInUseError(
      f'{workdir} is in use by '
      + (f'another job: {_name(owner)}' if owner else 'another job')
      + '. Wait for its end or stop it, or use another --workdir'
  )


def _name(owner):
  return f'process {owner["pid"]} on {owner["host"]}, since {owner["since"]}'


def _describe_this():
  return {
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'started': _started(os.getpid()),
      'since': datetime.datetime.now().astimezone().isoformat(' ', 'seconds'),
  }


def _owner(file) -> dict[str, Any] | None:
  """What the file says; None if it says nothing, or not all."""
  file.seek(0)
  try:
    owner = json.loads(file.read(4096))
  except ValueError:
    return None
  wanted = {'host': str, 'pid': int, 'since': str}
  if not isinstance(owner, dict) or not all(
      isinstance(owner.get(name), kind) for name, kind in wanted.items()
  ):
    return None
  return owner


def _is_alive(owner):
  """Whether its process is there: that one, not another with its number."""
  try:
    os.kill(owner['pid'], 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass  # It is there, and somebody else's.
  return owner.get('started') in (None, _started(owner['pid']))


def _started(pid):
  """When a process began, in ticks since the machine did; None: not known."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    # After the name, which may have anything in it.
    return int(stat.rpartition(')')[2].split()[19])
  except (OSError, ValueError, IndexError):
    return None
