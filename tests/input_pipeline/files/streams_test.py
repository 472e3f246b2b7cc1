"""Commands whose reader, terminal or standard input is not there."""

import io
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest, parameterized

from input_pipeline.files import streams

ROOT = pathlib.Path(__file__).parents[3]

# A command that says much, and writes a file beside it.
_COMMAND = '''
import contextlib, os, signal, sys
from input_pipeline import cli

def main(argv):
  file, number = argv[1], int(argv[2])
  with open(file, 'w') as f:
    for line in range(5000):
      print('line \\u00e4', line, flush=line % 100 == 0)
      if line == 100:
        print('to stderr', file=sys.stderr)
        with contextlib.suppress(OSError):  # As a library would.
          os.write(2, b'from a library\\n')
        if number:
          os.kill(os.getpid(), number)
    f.write('whole')
  return 0

cli.run(main, finishes=True)
'''


# One that gets a signal while it writes a file, twice as from a cluster.
_WRITING = '''
import contextlib, os, pathlib, sys
from input_pipeline import cli
from input_pipeline.files import atomic

def main(argv):
  path, number, noting = pathlib.Path(argv[1]), int(argv[2]), int(argv[3])
  note = cli.noting_signals() if noting else contextlib.nullcontext()
  with note, atomic.opened(path, path.parent) as f:
    for line in range(10):
      f.write(b'line')
      if line == 3:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
      if cli.stopped_by():
        break

cli.run(main, finishes=True)
'''


class SignalsTest(parameterized.TestCase):

  @parameterized.product(
      name=('SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGXCPU', 'SIGALRM'),
      noting=(False, True),
  )
  def test_a_file_that_is_written(self, name, noting):
    file = pathlib.Path(self.create_tempdir().full_path) / 'file'
    number = getattr(signal, name)
    process = subprocess.run(
        [sys.executable, '-c', _WRITING, file, str(int(number)),
         str(int(noting))],
        cwd=ROOT, capture_output=True, text=True,
        # A shell has it ignored in the background.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    self.assertEqual(process.returncode, 128 + number, process.stderr)
    if noting:
      self.assertEqual(file.read_text(), 4 * 'line')
      self.assertEqual(process.stderr, '')
    else:
      self.assertEqual(process.stderr, f'\nerror: stopped by {name}\n')
      self.assertEmpty([*file.parent.iterdir()])


class StreamsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.file = pathlib.Path(self.create_tempdir().full_path) / 'file'

  def start(self, number=0, **options):
    options = {'stdin': subprocess.DEVNULL, 'stderr': subprocess.PIPE} | options
    return subprocess.Popen(
        [sys.executable, '-c', _COMMAND, self.file, str(int(number))],
        cwd=ROOT, **options,
    )

  def check(self, process, status=0):
    error = process.communicate()[1] or b''
    self.assertNotIn(b'Traceback', error)
    self.assertEqual(process.returncode, status, error)
    # All of it, and nothing else.
    self.assertEqual(self.file.read_text(), 'whole')
    return error

  def test_a_reader_that_goes(self):
    process = self.start(stdout=subprocess.PIPE)
    self.assertEqual(process.stdout.readline(), 'line ä 0\n'.encode())
    process.stdout.close()
    process.stdout = None
    self.check(process)

  def test_a_terminal_that_is_closed(self):
    ours, theirs = pty.openpty()
    process = self.start(
        signal.SIGHUP, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.read(ours, 10)
    os.close(ours)
    self.check(process)

  @parameterized.parameters(
      ((0,),), ((1,),), ((2,),), ((0, 1),), ((1, 2),), ((0, 1, 2),),
  )
  def test_closed_streams(self, numbers):
    def close():
      for number in numbers:
        os.close(number)

    self.check(self.start(stdout=subprocess.DEVNULL, preexec_fn=close))

  def test_a_full_disk(self):
    if not os.path.exists('/dev/full'):
      self.skipTest('needs /dev/full')
    with open('/dev/full', 'w') as full:
      error = self.check(self.start(stdout=full), status=1)
    self.assertIn(b'error: the output above is incomplete (No space', error)

  def test_a_pipe_that_does_not_wait(self):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = self.start(stdout=theirs)
    os.close(theirs)
    with open(ours) as f:
      self.assertLen(f.readlines(), 5000)
    self.check(process)

  @parameterized.parameters(
      ({'LC_ALL': 'C'}, 'line ä 0'),
      ({'PYTHONIOENCODING': 'ascii'}, r'line \xe4 0'),
      ({'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'LC_ALL': 'POSIX'},
       r'line \xe4 0'),
  )
  def test_a_terminal_without_umlauts(self, environment, line):
    process = self.start(
        stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    output, error = process.communicate()
    self.assertEqual(process.returncode, 0, error)
    self.assertEqual(output.decode().splitlines()[0], line)


class ProgressTest(absltest.TestCase):

  def test_a_file_gets_lines(self):
    file = io.StringIO()
    with mock.patch.object(streams, '_SECONDS', 0.1):
      for _ in streams.progress(range(10), 'things', 10, file=file):
        time.sleep(0.05)
    lines = file.getvalue().splitlines()
    self.assertBetween(len(lines), 2, 6)
    self.assertRegex(lines[0], r'^things: \d of 10 \(\d0 %\), .*img/s, ')
    self.assertIn('things: 10 of 10 (100 %)', lines[-1])
    self.assertNotIn('\r', file.getvalue())

  def test_what_is_done_soon_has_no_line(self):
    file = io.StringIO()
    self.assertEqual([*streams.progress(range(9), 'few', 9, file=file)],
                     [*range(9)])
    self.assertEqual(file.getvalue(), '')

  def test_a_terminal_gets_a_bar(self):
    file = io.StringIO()
    file.isatty = lambda: True
    self.assertEqual([*streams.progress('ab', 'letters', 2, file=file)],
                     ['a', 'b'])
    self.assertRegex(file.getvalue(), r'\rletters: 100%.* 2/2 .*\n$')


if __name__ == '__main__':
  absltest.main()
