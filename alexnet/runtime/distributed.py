"""The start and the end of a process in a run of several processes.

The runtime is `jax.distributed`. This module defines the flags that start it,
and the error messages for the loss of a process, a host or the network: JAX
then aborts each process with a stack trace, and this module prints the last
line. Commands that import it have these flags.

multihost.py has the communication between the processes of a run.
"""

import contextlib
import ctypes
import errno
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from absl import flags

from alexnet.config.errors import ConfigError
from alexnet.runtime import compilation_cache
from input_pipeline import cli

# Exit status of a process that has lost, or never reached, another process:
# EX_PROTOCOL of sysexits.h, "remote error in protocol". If all processes are
# started again, they continue from the last checkpoint.
LOST = 76

# Seconds that process 0 waits before it exits after an error. The other
# processes abort without it, so they first get time to report their own errors.
_LAST_WORDS = 2.0

_ADDRESS = re.compile(r'(\[[^\]]+\]|[^\s:/\[\]]+):(\d+)')
# Words in errors of collectives whose other end has gone.
_CONNECTION = re.compile(
    r'gloo|nccl|rccl|coordination service|barrier|socket closed'
    r'|connection (reset|closed|refused)',
    re.IGNORECASE,
)

_DISTRIBUTED = flags.DEFINE_bool(
    'distributed',
    False,
    'Whether this is one of several processes that train one run, which JAX '
    'finds under SLURM, Open MPI or Kubernetes. Elsewhere, set '
    '--coordinator, --num_processes and --process_id.',
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT at which all processes reach process 0; a port that no other '
    'job uses.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'Number of processes of the run.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id',
    None,
    'Index of this process, from 0; process 0 writes the logs.',
    lower_bound=0,
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    'peer_timeout',
    30,
    'Seconds without a sign of another process, such as when its host or the '
    f'network has failed, after which the job ends with exit status {LOST}.',
    lower_bound=2,
)
_START_TIMEOUT = flags.DEFINE_integer(
    'start_timeout',
    300,
    'Seconds that the processes wait for each other at the start.',
    lower_bound=1,
)


@contextlib.contextmanager
def session() -> Iterator[None]:
  """Joins the processes that the flags name, while the body runs.

  Does nothing without flags. Enter it before JAX is used. If the body fails,
  the process exits at once, so that the others do not wait for it: with status
  1 and its message, or with LOST if another process has failed.

  Raises:
    ConfigError: the flags do not fit together, JAX finds no environment, or the
      address cannot be used.
  """
  arguments = _arguments()
  if arguments is None:
    yield
    return
  last_line = _LastLine()
  with last_line.shown_on_abort():
    _initialize(arguments, last_line)
    try:
      _set_up_several()
      yield
    except (Exception, KeyboardInterrupt) as error:
      _end(_report(error))
    import jax

    # Waits for all processes, which may then end at different times.
    jax.distributed.shutdown()


def _arguments() -> dict[str, Any] | None:
  """Returns `jax.distributed.initialize`'s arguments; None without flags."""
  given = {
      '--coordinator': _COORDINATOR.value,
      '--num_processes': _NUM_PROCESSES.value,
      '--process_id': _PROCESS_ID.value,
  }
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given):
    return {} if _DISTRIBUTED.value else None
  if missing:
    names = ', '.join(name for name in given if name not in missing)
    raise ConfigError(
        f'{names} without {" and ".join(missing)}: give all three, or none of '
        'them but --distributed where JAX can find them'
    )
  if not _is_address(_COORDINATOR.value):
    raise ConfigError(
        f'--coordinator is {_COORDINATOR.value}: expected HOST:PORT, such as '
        'node1:8476'
    )
  if _PROCESS_ID.value >= _NUM_PROCESSES.value:
    raise ConfigError(
        f'--process_id is {_PROCESS_ID.value} and --num_processes is '
        f'{_NUM_PROCESSES.value}: expected an id from 0 to '
        f'{_NUM_PROCESSES.value - 1}'
    )
  return {
      'coordinator_address': _COORDINATOR.value,
      'num_processes': _NUM_PROCESSES.value,
      'process_id': _PROCESS_ID.value,
      # Otherwise JAX would still look for a cluster's environment, and choose
      # this process's devices by it.
      'cluster_detection_method': 'deactivate',
  }


def _is_address(text):
  match = _ADDRESS.fullmatch(text)
  return match is not None and 0 < int(match[2]) < 2**16


def _initialize(arguments, last_line):
  import jax

  # JAX's service would handle SIGTERM, which the run handles itself.
  jax.config.update('jax_enable_preemption_service', False)
  # Two collectives at a time can hold all threads that a third one needs, so
  # that processes wait forever (seen with two devices in each process).
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  where = arguments.get('coordinator_address', 'the address that JAX has found')
  count = arguments.get('num_processes', 'all')
  last_line.text = (
      f'no connection to process 0 at {where} within {_START_TIMEOUT.value} s, '
      f'or not from all the others: start {count} processes of the same '
      'command, check that all of them can reach that host and port, or set a '
      'longer --start_timeout'
  )
  if arguments.get('process_id') == 0:
    _check_port(where)
  # With Python's handler, Ctrl-C would wait until the others have joined.
  on_interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    jax.distributed.initialize(
        **arguments,
        initialization_timeout=_START_TIMEOUT.value,
        heartbeat_timeout_seconds=_PEER_TIMEOUT.value,
    )
  except Exception as error:  # JAX raises many kinds.
    raise ConfigError(_explanation(error, where)) from error
  finally:
    signal.signal(signal.SIGINT, on_interrupt)
  last_line.text = (
      'another process of this run has ended or was not heard of for '
      f'{_PEER_TIMEOUT.value} s (--peer_timeout), or this one has crashed: see '
      'the lines above and those of the others. Start all processes again to '
      'continue from the last checkpoint'
  )


def _set_up_several():
  """Sets up a run of several processes; call it before JAX opens devices."""
  import jax
  from jax._src import distributed  # Its store has no public interface.

  from alexnet.runtime import multihost
  from alexnet.runtime.gpu import shared_gpus

  if multihost.place()[1] == 1:
    return
  compilation_cache.leave_out_of_several()
  shared_gpus.check(
      distributed.global_state.client,
      jax.config.values['jax_cuda_visible_devices'],
      _START_TIMEOUT.value,
  )


def _check_port(address):
  """Raises ConfigError if another program listens at the address's port.

  JAX detects this too, but may then crash (seen in jaxlib 0.10).
  """
  if os.environ.get('JAX_COORDINATOR_BIND_ADDRESS'):
    return  # JAX then listens at another address.
  port = int(address.rpartition(':')[2])
  for family, host in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    with contextlib.suppress(OSError), socket.socket(family) as probe:
      # As in JAX, which can thereby use a port that a launcher has reserved.
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
      if family == socket.AF_INET6:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
      try:
        probe.bind((host, port))
      except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
          raise ConfigError(
              f'cannot listen at the port of --coordinator={address} '
              f'({error.strerror}): choose another one for all processes'
          ) from error


def _explanation(error, where):
  text = str(error)
  if 'should be defined' in text or 'must be defined' in text:
    return (
        f'--distributed, but JAX finds no environment to take it from ({text}) '
        'It knows SLURM (srun), Open MPI (mpirun), Kubernetes (with its '
        'package kubernetes); elsewhere set --coordinator=HOST:PORT, '
        '--num_processes and --process_id'
    )
  return f'cannot join the other processes at {where}: {text}'


def _report(error) -> int:
  """Prints why this process ends; returns its exit status."""
  from alexnet.runtime import multihost

  index, count = multihost.place()
  name = f'process {index} of {count}'
  if message := cli.explain(error):
    return cli.fail(f'{message} ({name})')
  if _is_lost_connection(error):
    cli.fail(
        f'{name} has lost the connection to another one, which has ended, or '
        'whose host or network is gone. Start all processes again to continue '
        f'from the last checkpoint. JAX says: {_first_line(error)}'
    )
    return LOST
  traceback.print_exception(error)
  return cli.fail(f'{name} has failed')


def _is_lost_connection(error):
  while error is not None:
    kind = type(error)
    by_jax = kind.__module__.startswith(('jax', 'orbax')) or kind in (
        ValueError, RuntimeError,
    )
    if by_jax and _CONNECTION.search(str(error)):
      return True
    error = error.__cause__ or error.__context__
  return False


def _first_line(error):
  return next(iter(str(error).splitlines()), '')


def _end(status):
  """Ends the process without JAX's shutdown, which waits for all others."""
  from alexnet.runtime import multihost

  if multihost.place()[0] == 0:
    time.sleep(_LAST_WORDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


class _LastLine:
  """Last line of output when one of JAX's threads aborts the process.

  JAX aborts, after a long log, when another process is lost or cannot be
  reached at the start. It does not tell Python.
  """

  def __init__(self):
    self.text = ''

  @contextlib.contextmanager
  def shown_on_abort(self) -> Iterator[None]:
    """Makes SIGABRT print the text and end the process with LOST."""
    try:
      libc = ctypes.CDLL(None)
      set_handler = libc.signal
    except (AttributeError, OSError, TypeError):  # Windows.
      yield
      return
    # Python runs its handlers in the main thread, for which an aborting process
    # does not wait. This one runs in the thread that aborts.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._show)
    set_handler.restype = ctypes.c_void_p
    set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
    before = set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
      yield
    finally:
      set_handler(signal.SIGABRT, before)

  def _show(self, number):
    del number
    os.write(2, f'\nerror: {self.text}\n'.encode())
    os._exit(LOST)
