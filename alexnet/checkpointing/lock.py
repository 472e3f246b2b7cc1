"""Allows one job at a time in a workdir.

The lock is the system's (`flock`) and ends with the process, however that ends.
The file says whose it is, for the message, and for disks that know no locks.
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

# What a disk without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
# Of this process, by path: a run that is opened again, in a notebook for
# instance, is not another job.
_held: 'weakref.WeakValueDictionary[pathlib.Path, Lock]' = (
    weakref.WeakValueDictionary()
)


class Lock:
  """Lock of this process on a workdir; deleting the object releases it."""

  def __init__(self, path: pathlib.Path):
    """Use `take`."""
    self.path = path
    self.held = False
    self._lock = filelock.FileLock(
        path, blocking=False, thread_local=False, preserve_lock_file=True
    )

  def take(self, warn: Callable[[str], None]) -> None:
    """See the function."""
    workdir = self.path.parent
    try:
      self._lock.acquire()
    except filelock.Timeout:
      raise _in_use(workdir, _owner(self.path)) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
    owner = _owner(self.path)  # None: new, or the last job came to its end.
    if owner and owner['host'] != socket.gethostname():
      # With locks between machines it is gone; without, nobody knows.
      warn(
          f'the last job in {workdir} did not come to its end: {_name(owner)}. '
          'If it still runs, stop one of the two: not all network disks know '
          'locks between machines'
      )
    elif owner and not self._lock.is_locked and _is_alive(owner):
      raise _in_use(workdir, owner)
    self.held = True
    with contextlib.suppress(OSError):  # A full disk: the lock holds anyway.
      self.path.write_text(json.dumps(_describe_this()) + '\n')

  def release(self) -> None:
    """Releases the workdir for other jobs."""
    if self.held:
      self.held = False
      # Empty: this job has come to its end. The file stays: who removes it may
      # remove the lock of a job that has just opened it.
      with contextlib.suppress(OSError):
        os.truncate(self.path, 0)
      self._lock.release()

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
  """Reads the owner from the lock file; None if it is incomplete."""
  try:
    with open(path, 'rb') as file:
      owner = json.loads(file.read(4096))
    kinds = [type(owner[name]) for name in ('host', 'pid', 'since')]
  except (OSError, ValueError, KeyError, TypeError):
    return None
  return owner if kinds == [str, int, str] else None


def _is_alive(owner):
  """Whether the owner is running, and not another process with its number."""
  try:
    os.kill(owner['pid'], 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass  # It is there, and somebody else's.
  return owner.get('started') in (None, _started(owner['pid']))


def _started(pid):
  """Start of a process in ticks since boot; None if unknown."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    # After the name, which may have anything in it.
    return int(stat.rpartition(')')[2].split()[19])
  except (OSError, ValueError, IndexError):
    return None
