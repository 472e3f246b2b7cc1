"""Processes that run a command, forked from one that has imported everything.

Importing takes longer than what tests let them do. This one uses no devices, so
that it can be forked; a process of the test runner could not.

  starter = several.Starter(cache)
  process = starter.start(flags, log, devices=1)
  status = starter.wait(process)
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
HANGS = 'it hangs'


class Starter:
  """Starts `main.py`, or something else, again and again."""

  def __init__(self, cache: pathlib.Path):
    """Begins to import.

    Args:
      cache: folder of compiled programs, which they share.
    """
    environment = {
        **os.environ,
        'JAX_ENABLE_COMPILATION_CACHE': 'true',
        'JAX_PLATFORMS': 'cpu',
    }
    self._cache = cache
    self._process = subprocess.Popen(
        [sys.executable, '-m', 'tests.several'],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

  def start(
      self,
      flags: list[str],
      log: pathlib.Path,
      *,
      devices: int = 1,
      signal_at: tuple[int, int] | None = None,
      instead: str | None = None,
  ) -> int:
    """Starts a process.

    Args:
      flags: of main.py.
      log: file for its output and its errors.
      devices: CPU devices that it has.
      signal_at: (signal, n), to send itself before its n-th training step.
      instead: 'MODULE:FUNCTION' to run in main.py's session in place of
        training; its arguments are the config and the workdir.

    Returns:
      Its number.
    """
    return self._ask(
        flags=[f'--compilation_cache={self._cache}', *flags],
        log=str(log),
        devices=devices,
        signal_at=signal_at,
        instead=instead,
    )

  def wait(self, number: int, seconds: float = 120) -> int | str:
    """Exit status of a process, minus the signal that killed it, or HANGS."""
    return self._ask(wait=number, seconds=seconds)

  def close(self) -> None:
    """Ends them all."""
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()

  def _ask(self, **question):
    self._process.stdin.write(json.dumps(question) + '\n')
    self._process.stdin.flush()
    return json.loads(self._process.stdout.readline())


def _serve():
  import tensorboardX  # noqa: F401

  import alexnet.training.trainer  # noqa: F401
  import main  # noqa: F401
  import tests.tiny  # noqa: F401

  children = set()
  for line in sys.stdin:
    question = json.loads(line)
    if 'wait' in question:
      answer = _wait(question['wait'], question['seconds'])
      children.discard(question['wait'])
    else:
      answer = os.fork()
      if not answer:
        _child(**question)
      children.add(answer)
    print(json.dumps(answer), flush=True)
  for number in children:
    os.kill(number, signal.SIGKILL)


def _wait(number, seconds):
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    ended, status = os.waitpid(number, os.WNOHANG)
    if ended:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.02)
  os.kill(number, signal.SIGKILL)
  os.waitpid(number, 0)
  return HANGS


def _child(flags, log, devices, signal_at, instead):
  import importlib

  import jax

  import main
  from alexnet.training import trainer
  from input_pipeline import cli

  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  for descriptor in (1, 2):
    os.dup2(file, descriptor)
  jax.config.update('jax_num_cpu_devices', devices)
  if signal_at:
    _signal_before_step(*signal_at)
  if instead:
    module, function = instead.split(':')
    called = getattr(importlib.import_module(module), function)
    # Nothing would mean that a signal has stopped it.
    trainer.train_and_evaluate = lambda config, workdir, *rest: (
        called(config, workdir) or {}
    )
  sys.argv = ['main.py', *flags]
  cli.run(main.main)
  os._exit(0)  # It does not return.


def _signal_before_step(number, n):
  from alexnet.training import train_step

  make = train_step.make_train_step

  def make_train_step(**arguments):
    step, calls = make(**arguments), []

    def counted(*arguments):
      calls.append(None)
      if len(calls) == n:
        os.kill(os.getpid(), number)
      return step(*arguments)

    return counted

  train_step.make_train_step = make_train_step


if __name__ == '__main__':
  _serve()
