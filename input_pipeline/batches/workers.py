"""Processes that read batches, each with its own Python lock.

They import this file and what the sources need, but neither TensorFlow, JAX nor
the program's main module, which may be a notebook. Each receives the sources
once, then reads one batch at a time. It answers with labels, and with pixels in
memory that both processes map. The memory is anonymous: it is freed with the
last process that maps it, and does not need /dev/shm, which may have 64 MB in
containers. New memory costs as much as reading prepared pixels, so memory that
is no longer referenced is reused.
"""

import collections
import contextlib
import itertools
import math
import mmap
import multiprocessing
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import connection, reduction

import numpy as np

from input_pipeline import cli
from input_pipeline.batches import reading
from input_pipeline.errors import DataError, UserError
from input_pipeline.files import stalls
from input_pipeline.images import limits
from input_pipeline.sources import Source

_ROOT = pathlib.Path(__file__).parents[2]
# Kinds of answers of a process.
_REPORT, _FAILED, _DONE = range(3)
# Seconds to wait for the end of a process, and between two checks that its
# parent exists.
_PATIENCE = 2.0
_TICK = 0.5
# Batches of a process whose memory is kept for reuse.
_KEPT = 4


class Workers:
  """The reading processes of one pipeline.

  They start with the first batch, and end with this object or this process,
  even if it is killed.
  """

  def __init__(
      self,
      sources: Sequence[Source],
      count: int,
      *,
      stalled_after: float | None,
      report: Callable[[str], None],
  ):
    """Prepares the processes without starting them.

    Args:
      sources: sources of the batches.
      count: number of processes, at least 1.
      stalled_after: see `stalls.Watch`.
      report: see `stalls.Watch`; called in a thread that reads a batch.
    """
    self._sources = sources
    self._count = count
    self._stalled_after = stalled_after
    self._report = report
    self._lock = threading.Lock()
    self._workers: list[_Worker] = []
    self._idle = queue.SimpleQueue()
    weakref.finalize(self, _end, self._workers)

  def read(
      self,
      index: np.ndarray,
      offset: np.ndarray | None = None,
      words: np.ndarray | None = None,
      *,
      source: int,
      form: reading.Form,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Reads a batch in the first free process, see `reading.read`.

    Args:
      index: see `reading.read`.
      offset: see `reading.read`.
      words: see `reading.read`.
      source: index of the source in `sources`.
      form: see `reading.read`.

    Raises:
      DataError: an image cannot be read, a process has ended, cannot be
        started or cannot use the sources, or there is no memory for the batch.
    """
    with self._lock:
      if not self._workers:
        self._start()
    worker = self._idle.get()
    try:
      what = dict(index=index, offset=offset, words=words, form=form)
      return worker.read(self._report, source, what)
    finally:
      self._idle.put(worker)

  def _start(self):
    try:
      sources = reduction.ForkingPickler.dumps(self._sources)
    except UserError:
      raise
    except Exception as error:  # Pickling may raise any kind.
      raise _cannot_send(error) from error
    try:
      for number in range(1, self._count + 1):
        name = f'reading process {number} of {self._count}'
        self._workers.append(_Worker(name, self._stalled_after))
    except DataError:
      _end(self._workers)
      self._workers.clear()
      raise
    # All start first, so that they import at the same time.
    for worker in self._workers:
      worker.send(sources)
      self._idle.put(worker)


class _Worker:
  """A reading process, seen from its parent."""

  def __init__(self, name, stalled_after):
    self._pipe, theirs = multiprocessing.Pipe()
    # The child's own path would lack what this process has added.
    path = [str(_ROOT), *sys.path]
    options = os.getpid(), limits.MEMORY >> 20, stalled_after
    code = (
        f'import sys; sys.path[:] = {path!r}; '
        'from input_pipeline.batches import workers; '
        f'workers.serve({theirs.fileno()}, *{options!r})'
    )
    with theirs:
      try:
        self._process = subprocess.Popen(
            [sys.executable, '-c', code, name],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # Ctrl-C in a terminal goes to the parent only, which saves its run.
            start_new_session=True,
        )
      except OSError as error:
        raise DataError(
            f'cannot start {name} ({error}): set a smaller '
            '--config.dataset.processes'
        ) from error
    self.name = f'{name} (pid {self._process.pid})'
    # Memories by number, and the unreferenced ones, the latest last.
    self._memories: dict[int, mmap.mmap] = {}
    self._free = collections.deque()

  def send(self, data):
    """Sends bytes; if the process has ended, reading its answer fails."""
    with contextlib.suppress(OSError):
      self._pipe.send_bytes(data)

  def read(self, report, source, what):
    shape = what['form'].shape(len(what['index']))
    number, forgotten = self._memory_of(math.prod(shape))
    request = source, what, shape, number, forgotten
    self.send(reduction.ForkingPickler.dumps(request))
    kind, value = self._answer()
    while kind == _REPORT:
      report(value)
      kind, value = self._answer()
    if kind == _FAILED:
      if number is not None:
        self._free.append(number)
      raise value
    number, labels, descriptor = value
    if descriptor is not None:
      try:
        self._memories[number] = mmap.mmap(descriptor, math.prod(shape))
      except OSError as error:
        raise _no_room(math.prod(shape), error.strerror) from error
      finally:
        os.close(descriptor)
    pixels = np.frombuffer(self._memories[number], np.uint8)
    # Arrays made of it, here or in TensorFlow or JAX, refer to it.
    weakref.finalize(pixels, self._free.append, number).atexit = False
    return pixels.reshape(shape), labels

  def _memory_of(self, size):
    """(number of free memory of that size or None, numbers to forget)."""
    found, forgotten = None, []
    for number in sorted(self._free.copy(), reverse=True):
      if found is None and len(self._memories[number]) == size:
        found = number
        self._free.remove(number)
    while len(self._free) > _KEPT:
      forgotten.append(self._free.popleft())
      del self._memories[forgotten[-1]]
    return found, forgotten

  def _answer(self):
    try:
      kind, value = self._pipe.recv()
      if kind == _DONE:
        is_new = value[0] not in self._memories
        descriptor = reduction.recv_handle(self._pipe) if is_new else None
        value = *value, descriptor
      return kind, value
    except RuntimeError as error:  # The system drops files it cannot open.
      raise DataError(
          f'{self.name} cannot pass a batch on, as this process may open no '
          'more files: set a smaller --config.dataset.processes, or a larger '
          'limit with ulimit -n'
      ) from error
    except (EOFError, OSError) as error:
      raise self._has_ended() from error

  def _has_ended(self):
    try:
      status = self._process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
      how = 'does not answer any more'
    else:
      how = f'has ended with status {status}; its own message is above'
      if status < 0:
        how = f'was ended by {signal.Signals(-status).name}'
      if status == -signal.SIGKILL:
        how += ', as a system does that is short of memory'
    return DataError(
        f'{self.name} {how}: run the same command again to continue, with '
        'another --config.dataset.processes if it happens again (0: none)'
    )

  def kill(self):
    """Kills the process, which has nothing to save."""
    self._process.kill()

  def wait(self):
    """Awaits its end, unless it hangs on an unresponsive disk."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(_PATIENCE)


def _end(workers):
  for worker in workers:
    worker.kill()
  for worker in workers:
    worker.wait()


def _cannot_send(error):
  return DataError(
      f'the images cannot be read by other processes ({type(error).__name__}: '
      f'{error}): set --config.dataset.processes=0'
  )


# --- In a reading process ---


def serve(
    descriptor: int, parent: int, memory: int, stalled_after: float | None
) -> None:
  """Runs a reading process until its parent closes the connection or ends.

  Args:
    descriptor: file descriptor of the connection to the parent.
    parent: process id of the parent.
    memory: limit in MiB, see `limits.set_memory`.
    stalled_after: see `stalls.Watch`.
  """
  for number in cli.ENDING:  # Clusters send them to all processes of a job.
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  limits.set_memory(memory)
  pipe, lock = connection.Connection(descriptor), threading.Lock()

  def send(kind, value, file=None):
    with lock:
      pipe.send((kind, value))
      if file:
        reduction.send_handle(pipe, file.fileno(), parent)

  watch = stalls.Watch(stalled_after, lambda text: send(_REPORT, text))
  memories, numbers = {}, itertools.count()
  with contextlib.suppress(EOFError, OSError):  # The parent has ended.
    sources = _received(pipe)
    while True:
      source, what, shape, number, forgotten = pipe.recv()
      for old in forgotten:
        del memories[old]
      file = None
      try:
        if isinstance(sources, Exception):
          raise sources
        if number is None:
          number, (file, memory) = next(numbers), _new_memory(math.prod(shape))
          memories[number] = memory
        images = np.frombuffer(memories[number], np.uint8).reshape(shape)
        _, labels = reading.read(
            **what, source=sources[source], watch=watch, images=images
        )
      except Exception as error:
        if file:
          file.close()
          del memories[number]
        send(_FAILED, _portable(error))
        continue
      send(_DONE, (number, labels), file)
      if file:
        file.close()


def _end_with(parent):
  # A closed connection is not noticed while an image is being read.
  while os.getppid() == parent:
    time.sleep(_TICK)
  os._exit(0)


def _received(pipe):
  """Returns the sources, or the error if they cannot be used."""
  data = pipe.recv_bytes()
  try:
    return reduction.ForkingPickler.loads(data)
  except Exception as error:  # Such as a class defined in a notebook.
    return _cannot_send(error)


def _portable(error):
  """Returns an exception that can be sent to the parent."""
  if not isinstance(error, UserError):
    error.add_note(traceback.format_exc())
  try:
    return reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(error))
  except Exception:
    return RuntimeError(''.join(traceback.format_exception(error)))


def _new_memory(size):
  """Allocates anonymous memory; returns (file, mapping).

  Raises:
    DataError: there is not enough memory.
  """
  with contextlib.ExitStack() as opened:
    try:
      file = opened.enter_context(_nameless())
      # Extending the file alone would reserve no memory.
      rest = memoryview(bytes(size))
      while rest:
        rest = rest[file.write(rest) :]
      memory = mmap.mmap(file.fileno(), size)
    except OSError as error:
      raise _no_room(size, error.strerror) from error
    opened.pop_all()
    return file, memory


def _no_room(size, reason):
  return DataError(
      f'no room for a batch of {size:,} bytes ({reason}): set a smaller '
      '--config.dataset.processes, each of which has some batches in memory, '
      'or a smaller batch size'
  )


def _nameless():
  try:
    return open(os.memfd_create('images'), 'w+b', 0)
  except (AttributeError, OSError):  # The system has or allows no memfd.
    return tempfile.TemporaryFile(buffering=0)
