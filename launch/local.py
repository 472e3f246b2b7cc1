"""Starts one run in several processes of this machine, on its CPU.

  python -m launch.local --processes=2 -- --config=configs/alexnet.py \
      --workdir=runs/alexnet

What follows `--` is for main.py. To try out what many hosts do: on one machine
a single process is faster, and drives all its GPUs. SIGTERM, Ctrl-C and other
signals that ask for an end are passed on to all processes. The exit status is
that of the first one to fail; of a process that a signal has killed, 128 and
its number.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys

from absl import app, flags

from input_pipeline import cli

_PROCESSES = flags.DEFINE_integer(
    'processes', 2, 'How many processes to start.', lower_bound=1
)

_HOST = '127.0.0.1'
_MAIN = pathlib.Path(__file__).parent.parent / 'main.py'


def main(argv: list[str]) -> int:
  """Starts them, and waits for their end."""
  reserved = _reserve_port()
  port = reserved.getsockname()[1]
  environment = {
      'JAX_PLATFORMS': 'cpu',
      **os.environ,
      # Reached from this machine only.
      'JAX_COORDINATOR_BIND_ADDRESS': f'{_HOST}:{port}',
  }
  running, early, starting = {}, [], True

  def forward(number, frame):
    del frame
    if starting:  # One that is being started is not known yet.
      early.append(number)
      return
    for pid in list(running):
      # Not by Popen, which would take the status that `wait` waits for.
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

  for number in cli.ENDING:
    # Under nohup a terminal that closes ends none of them.
    ignored = signal.getsignal(number) is signal.SIG_IGN
    if not ignored or number == signal.SIGINT:
      signal.signal(number, forward)
  with reserved:
    for index in range(_PROCESSES.value):
      process = subprocess.Popen(
          [
              sys.executable,
              str(_MAIN),
              f'--coordinator={_HOST}:{port}',
              f'--num_processes={_PROCESSES.value}',
              f'--process_id={index}',
              *argv[1:],
          ],
          env=environment,
          # A terminal would send Ctrl-C to them too, and a second one kills.
          process_group=0,
      )
      running[process.pid] = process
    starting = False
    for number in early:
      forward(number, None)
    status = 0
    while running:
      pid, wait_status = os.wait()
      process = running.pop(pid)
      code = os.waitstatus_to_exitcode(wait_status)
      process.returncode = code
      status = status or (code if code >= 0 else 128 - code)
  return status


def _reserve_port() -> socket.socket:
  """Reserves a port for process 0, so that no other program gets it.

  This process binds the port until process 0 does; SO_REUSEPORT lets processes
  of the same user bind it again.
  """
  reserved = socket.socket()
  reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
  reserved.bind((_HOST, 0))
  return reserved


if __name__ == '__main__':
  app.run(main)
