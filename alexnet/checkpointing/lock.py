"""A lock that allows one job at a time in a workdir.

It is a lock of the operating system (`flock`), which ends with its process,
even if that is killed. The file names the owner, for error messages and for
disks that do not support locks.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
import weakref
from collections.abc import Callable
from typing import Any

import filelock

from alexnet.config.errors import WorkdirInUseError

FILE = 'job.lock'

# Errors of disks that do not support locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
# Locks of this process by path: opening a run again in the same process, such
# as in a notebook, is not another job.
_held: 'weakref.WeakValueDictionary[pathlib.Path, Lock]' = (
    weakref.WeakValueDictionary()
)


class Lock:
  """Lock of this process on a workdir; deleting the object releases it."""

  def __init__(self, path: pathlib.Path):
    """Creates the lock without taking it; use the function `take`."""
    self.path = path
    self.held = False
    self._lock = filelock.FileLock(
        path, blocking=False, thread_local=False, preserve_lock_file=True
    )

  def take(self, warn: Callable[[str], None]) -> None:
    """Takes the lock; see the function `take`."""
    workdir = self.path.parent
    try:
      self._lock.acquire()
    except filelock.Timeout:
      raise _in_use(workdir, _owner(self.path)) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
    owner = _owner(self.path)  # None if new, or if the last job has finished.
    if owner and owner['host'] != socket.gethostname():
      # Without locks between machines, the other job may still be running.
      warn(
          f'the last job in {workdir} did not finish: {_name(owner)}. '
          'If it still runs, stop one of the two: not all network disks '
          'support locks between machines'
      )
    elif owner and not self._lock.is_locked and _is_alive(owner):
      raise _in_use(workdir, owner)
    self.held = True
    with contextlib.suppress(OSError):  # The lock also holds on a full disk.
      self.path.write_text(json.dumps(_describe_this()) + '\n')

  def release(self) -> None:
    """Releases the lock; does nothing if it is not held."""
    if self.held:
      self.held = False
      # An empty file means that the job has finished. The file is not removed,
      # because another job may just have opened it.
      with contextlib.suppress(OSError):
        os.truncate(self.path, 0)
      self._lock.release()

  def __del__(self):
    self.release()


def take(workdir: pathlib.Path, warn: Callable[[str], None]) -> Lock:
  """Locks a workdir for this process.

  Args:
    workdir: the folder to lock; must exist.
    warn: called with a message if another job may still be running on another
      machine.

  Returns:
    The lock; if this process holds it already, the same object.

  Raises:
    WorkdirInUseError: another job holds the lock.
    OSError: the file cannot be opened or locked.
  """
  path = (workdir / FILE).resolve()
  lock = _held.get(path)
  if lock is None or not lock.held:
    lock = _held[path] = Lock(path)
    lock.take(warn)
  return lock


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


def _owner(path) -> dict[str, Any] | None:
  """Reads the owner from the lock file; None if empty or incomplete."""
  try:
    with open(path, 'rb') as file:
      owner = json.loads(file.read(4096))
    kinds = [type(owner[name]) for name in ('host', 'pid', 'since')]
  except (OSError, ValueError, KeyError, TypeError):
    return None
  return owner if kinds == [str, int, str] else None


def _is_alive(owner):
  """Returns whether the owner is running, not another process with its pid."""
  try:
    os.kill(owner['pid'], 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass  # The process exists and belongs to another user.
  return owner.get('started') in (None, _started(owner['pid']))


def _started(pid):
  """Returns a process's start in ticks since boot; None if unknown."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    # The name of the process may contain spaces and parentheses.
    return int(stat.rpartition(')')[2].split()[19])
  except (OSError, ValueError, IndexError):
    return None
