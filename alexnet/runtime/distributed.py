"""One run in several processes: how a process joins them, and how it ends.

The runtime is `jax.distributed`, and nothing of our own lies in between. Here
are the flags that start it, and what a user gets to see when a process, a host
or the network goes: JAX then aborts each process with a stack trace, and the
last line is ours. Import this module in a command to give it the flags.

What the processes of a run tell each other is in multihost.py.
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

# Exit status of a process that has lost another one, or has never met it:
# EX_PROTOCOL of sysexits.h, "remote error in protocol". Start all of them
# again, and they continue from the last checkpoint.
LOST = 76

# The first process is the one that the others have their news from, so it lets
# them say what is wrong with themselves before it goes.
_LAST_WORDS = 2.0  # Seconds.

_ADDRESS = re.compile(r'(\[[^\]]+\]|[^\s:/\[\]]+):(\d+)')
# What the errors of collectives have in common whose other end is gone.
_CONNECTION = re.compile(
    r'gloo|nccl|rccl|coordination service|barrier|socket closed'
    r'|connection (reset|closed|refused)',
    re.IGNORECASE,
)

_DISTRIBUTED = flags.DEFINE_bool(
    'distributed',
    False,
    'Whether this is one of several processes that train one run, as JAX '
    'finds them under SLURM, Open MPI or Kubernetes. Elsewhere name '
    'them by --coordinator, --num_processes and --process_id.',
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT of process 0, as all processes reach it; a port that no other '
    'job uses.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'How many processes train one run.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id',
    None,
    'Which of them this is, from 0; that one writes the logs.',
    lower_bound=0,
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    'peer_timeout',
    30,
    'Seconds after which a process that is not heard of any more, because its '
    f'host or the network is gone, ends the job, with exit status {LOST}.',
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
  """Joins the processes that the flags name, for the time of a run.

  Without flags, nothing. To be entered before JAX is used. If what is inside
  fails, the process ends at once, so that the others notice and do not wait:
  with status 1 and its message, or with LOST if another process has failed.

  Raises:
    ConfigError: flags that do not fit together, no such environment, or an
      address that cannot be had.
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

    # Waits for all; from here on nobody is missed.
    jax.distributed.shutdown()


def _arguments() -> dict[str, Any] | None:
  """Arguments of `jax.distributed.initialize`; None for a single process."""
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
      # Otherwise JAX would still look for such an environment, and take from
      # it which devices of the host are this process's.
      'cluster_detection_method': 'deactivate',
  }


def _is_address(text):
  match = _ADDRESS.fullmatch(text)
  return match is not None and 0 < int(match[2]) < 2**16


def _initialize(arguments, last_line):
  import jax

  # It would take SIGTERM for itself, which is the run's own to answer.
  jax.config.update('jax_enable_preemption_service', False)
  # Two collectives under way can hold all threads that a third one needs, and
  # wait for each other for ever (seen with two devices in each process).
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  where = arguments.get('coordinator_address', 'the address that JAX has found')
  count = arguments.get('num_processes', 'all')
  last_line.text = (
      f'no connection to process 0 at {where} within {_START_TIMEOUT.value} s, '
      f'or not from all the others: start {count} processes of the same '
      'command, see that its host and port can be reached from theirs, or set '
      'a longer --start_timeout'
  )
  if arguments.get('process_id') == 0:
    _check_port(where)
  # Python's own would have Ctrl-C wait until the others are there.
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
  """What differs where one process is not alone; before JAX has devices."""
  import jax
  from jax._src import distributed  # There is no public way to its store.

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
  """Raises ConfigError if another program listens there.

  JAX finds out as well, but may then crash (seen in jaxlib 0.10).
  """
  if os.environ.get('JAX_COORDINATOR_BIND_ADDRESS'):
    return  # It is not at that port of all addresses that JAX listens.
  port = int(address.rpartition(':')[2])
  for family, host in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    with contextlib.suppress(OSError), socket.socket(family) as probe:
      # As JAX does it, which so gets a port that its starter has reserved.
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
  """Shows why this process ends, and returns its exit status."""
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
  """Ends the process without JAX's farewell, which waits for all others."""
  from alexnet.runtime import multihost

  if multihost.place()[0] == 0:
    time.sleep(_LAST_WORDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


class _LastLine:
  """What a user reads last when JAX aborts the process from one of its threads.

  It does so when a process is lost, or cannot be reached at the start, after a
  long log; Python does not get to know of it.
  """

  def __init__(self):
    self.text = ''

  @contextlib.contextmanager
  def shown_on_abort(self) -> Iterator[None]:
    """SIGABRT inside prints the text and ends the process with LOST."""
    try:
      libc = ctypes.CDLL(None)
      set_handler = libc.signal
    except (AttributeError, OSError, TypeError):  # Windows.
      yield
      return
    # Python's own handlers wait for its main thread, which an aborting process
    # does not; this one is called by the thread that aborts.
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
