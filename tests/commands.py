"""Runs commands in processes forked from one that has imported the libraries.

Importing them takes seconds, most commands a moment. The process that is forked
uses no devices; one of the test runner's could not be forked.

  done = commands.run('main.py', '--config=tests/tiny.py', ...)
  done = commands.run('-m', 'alexnet.predict', ...)

What depends on the order of imports, or on variables that are read when Python
or JAX begin, needs a process of its own.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
_LONGEST = 300  # Seconds that a command may take.
_TOO_LATE = ('JAX_', 'XLA_', 'PYTHON', 'TF_')


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
  """Runs `python ARGUMENTS` in the repository, as `subprocess.run` does.

  Args:
    *arguments: a file or `-m MODULE`, and its flags.
    **variables: of its environment, besides those of this process.
  """
  with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
    process = _start(arguments, variables, stdout.fileno(), stderr.fileno())
    status = _wait(process)
    output = []
    for file in (stdout, stderr):
      file.seek(0)
      output.append(file.read().decode())
  return subprocess.CompletedProcess(arguments, status, *output)


class Started:
  """A command that runs.

  Attributes:
    pid: its number.
    stdout: lines of its output and its errors, as they come.
    returncode: its exit status, minus the signal that ended it; None before
      `communicate`.
  """

  def __init__(self, *arguments: str):
    """Starts it; as for `run`."""
    here, there = os.pipe()
    self.stdout = os.fdopen(here)
    self.returncode = None
    self.pid = _start(arguments, {}, there, there)
    os.close(there)

  def send_signal(self, number: int) -> None:
    os.kill(self.pid, number)

  def communicate(self) -> str:
    """Waits for its end; returns the rest of what it says."""
    with contextlib.closing(self.stdout):
      rest = self.stdout.read()
    self.returncode = _wait(self.pid)
    return rest


def _start(arguments, variables, *descriptors):
  assert not any(name.startswith(_TOO_LATE) for name in variables), variables
  question = dict(
      arguments=list(map(str, arguments)),
      environment={**os.environ, **variables},
  )
  return _ask(question, descriptors)


def _wait(process):
  return _ask({'wait': process})


def _ask(question, descriptors=()):
  to = _server()
  # The answer says that all of it was read.
  length = f'{len(json.dumps(question)):8d}'.encode()
  socket.send_fds(to, [length], descriptors)
  to.sendall(json.dumps(question).encode())
  return json.loads(to.recv(64))


@functools.cache
def _server():
  ours, theirs = socket.socketpair()
  process = subprocess.Popen(
      [sys.executable, __file__, str(theirs.fileno())],
      cwd=ROOT,
      pass_fds=[theirs.fileno()],
  )
  theirs.close()

  @atexit.register
  def end():
    ours.close()
    process.wait()

  return ours


def _questions(connection) -> Iterator[tuple[dict, list[int]]]:
  while True:
    length, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    if not length:
      return
    text = connection.recv(int(length), socket.MSG_WAITALL)
    yield json.loads(text), descriptors


def _serve():
  """Starts commands, and waits for them, until nobody asks any more."""
  sys.path[0] = str(ROOT)
  import tensorboardX  # noqa: F401

  import alexnet.training.trainer  # noqa: F401

  # Else each command would look through them as it ends, for a second.
  gc.freeze()
  connection = socket.socket(fileno=int(sys.argv[1]))
  for question, descriptors in _questions(connection):
    if 'wait' in question:
      _, status = os.waitpid(question['wait'], 0)
      answer = os.waitstatus_to_exitcode(status)
    else:
      answer = os.fork()
      if not answer:
        connection.close()
        return _become(**question, descriptors=descriptors)
      for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(json.dumps(answer).encode())


def _become(arguments, environment, descriptors):
  """Is the command; returns or raises as its interpreter would."""
  signal.alarm(_LONGEST)
  for number, descriptor in enumerate(
      [os.open(os.devnull, os.O_RDONLY), *descriptors]
  ):
    os.dup2(descriptor, number)
    os.close(descriptor)
  os.environ.clear()
  os.environ.update(environment)
  if arguments[0] == '-m':
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
  else:
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name='__main__')


if __name__ == '__main__':
  _serve()
