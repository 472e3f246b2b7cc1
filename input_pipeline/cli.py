"""Runs commands; errors that users can fix are shown as messages."""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from input_pipeline.errors import NO_ROOM, UserError
from input_pipeline.files import paths, streams
from input_pipeline.images import limits

# A config's file, which goes through `paths.local` like every path.
_CONFIG = re.compile('^(--?config=)([^:]+)')

# Exit status of training stopped by a signal and saved: "try again" of
# sysexits.h (EX_TEMPFAIL). A cluster would take 0 for finished; 143 and 130
# mean that nothing was saved.
STOPPED = 75

# Seconds that the process may take to end after that.
_ENDING = 5
# Seconds in which a repeated signal is ignored: clusters send one to a process
# and to its group.
_AGAIN = 1

# Signals that ask a process to end; not every system has all of them.
ENDING = tuple(
    signal.Signals[name]
    for name in (
        'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2',
        'SIGXCPU', 'SIGALRM', 'SIGVTALRM', 'SIGPWR', 'SIGIO',
    )
    if name in signal.Signals.__members__
)

# Fields of the config in messages, and the flags that set the same in commands
# without --config.
_ADVICE = re.compile(r'--config\.([a-z_][\w.]*\w)')
_FLAGS_OF_FIELDS = {
    'dataset.train_dir': ('train_dir', 'source'),
    'dataset.eval_dir': ('eval_dir', 'eval_source'),
    'dataset.dir': ('data_dir',),
    'mesh.data': ('data',),
    'mesh.tower': ('tower',),
}


def run(
    main: Callable[[list[str]], int | None], *, finishes: bool = False
) -> None:
  """Runs `main(argv)` under absl; errors that users can fix become messages.

  The exit status is main's result (None for 0); 1 after a message or if there
  was no room to write standard output; and 128 plus the signal's number if a
  signal ended a command with `finishes`. After STOPPED, threads that wait for
  data do not delay the exit.

  Args:
    main: the command.
    finishes: whether it writes files. It then ignores a closed terminal
      (SIGHUP). Other signals that ask for an end raise Stopped, so that no
      half-written file remains; inside `noting_signals` they are only noted.
  """
  streams.make_lasting()
  # Commands need no screen. Notebooks export a backend that may be missing
  # here, and TensorFlow imports matplotlib.
  os.environ['MPLBACKEND'] = 'agg'
  for number in ENDING if finishes else ():
    if number.name == 'SIGHUP':
      signal.signal(number, signal.SIG_IGN)
    elif signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, _on_signal)

  def wrapped(argv):
    # JAX and Orbax log about themselves at the level below.
    logging.set_verbosity(logging.WARNING)

    try:
      limits.set_memory(flags.FLAGS.image_memory)
      status = main(argv)
    except BaseException as error:
      message = explain(error)
      if message is None:
        raise
      return _status(fail(message))
    status = _status(status)
    if status == STOPPED or stopped_by():
      _end_soon(status)
    if not status and (lost := streams.failure()):
      return fail(f'the output above is incomplete ({lost.strerror})')
    return status

  limits.define_flag()
  app.run(wrapped, flags_parser=_parse_flags)


class Stopped(KeyboardInterrupt):
  """Raised when a signal asks the command to end."""


_heard: signal.Signals | None = None
_heard_at = 0.0
_noting = False


def stopped_by() -> signal.Signals | None:
  """Returns the signal that asked a command inside `noting_signals` to end."""
  return _heard


@contextlib.contextmanager
def noting_signals() -> Iterator[None]:
  """Signals do not raise Stopped inside; check `stopped_by` instead."""
  global _noting
  _noting = True
  try:
    yield
  finally:
    _noting = False


def _on_signal(number, frame):
  global _heard, _heard_at
  del frame
  if _heard is None:
    _heard, _heard_at = signal.Signals(number), time.monotonic()
    if not _noting:
      raise Stopped
  elif time.monotonic() > _heard_at + _AGAIN:  # A second signal ends at once.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _status(status):
  return 128 + _heard if _heard else status


def explain(error: BaseException) -> str | None:
  """Returns the message of an error that a user can fix; None for any other."""
  if isinstance(error, UserError):
    return _ADVICE.sub(_as_flag, str(error))
  if isinstance(error, Stopped):
    return f'stopped by {_heard.name}'
  if isinstance(error, KeyboardInterrupt):  # Nothing to save yet.
    return 'interrupted'
  if isinstance(error, OSError):  # A missing permission or file, a full disk.
    if error.errno in NO_ROOM:
      return (
          f'no room on disk ({error}): free some, then run the same command '
          'again to continue from the last checkpoint'
      )
    return f'{type(error).__name__}: {error}'
  return None


def _as_flag(field):
  """Returns the flag of this command that corresponds to `--config.FIELD`."""
  name = field[1]
  values = flags.FLAGS
  if 'set' in values and isinstance(values['set'], flags.MultiFlag):
    return f'--set={name}'
  if 'config' in values:
    return field[0]
  for flag in _FLAGS_OF_FIELDS.get(name, ()):
    if flag in values:
      return f'--{flag}'
  return name  # Only a new run can change such a field.


def _end_soon(status):
  """Ends the process even if Python waits for a thread that never ends."""
  sys.stdout.flush()
  timer = threading.Timer(_ENDING, os._exit, [status])
  timer.daemon = True
  timer.start()


def _parse_flags(argv):
  try:
    return app.parse_flags_with_usage([_CONFIG.sub(_local, a) for a in argv])
  except paths.PathError as error:
    sys.exit(fail(str(error)))
  except (AttributeError, KeyError, TypeError) as error:
    # ml_collections raises these for `--config.field=value` if there is no such
    # field, or its type differs.
    given = ' '.join(a for a in argv if a.startswith('--config.'))
    sys.exit(
        fail(
            f'an override does not fit the config ({_innermost(error)}); got '
            f'{given}. The fields are listed, with comments, in the file that '
            '--config names'
        )
    )


def _local(found):
  path = paths.local(found[2], '--config')
  if not path.is_file():
    raise paths.PathError(f'--config is {path}: there is no such file')
  return f'{found[1]}{path}'


def _innermost(error):
  while error.args and isinstance(error.args[0], BaseException):
    error = error.args[0]
  return f'no field {error}' if isinstance(error, KeyError) else str(error)


def fail(message: str) -> int:
  """Prints why the program ends, and returns the exit status 1."""
  sys.stdout.flush()
  print(f'\nerror: {message}', file=sys.stderr)
  return 1
