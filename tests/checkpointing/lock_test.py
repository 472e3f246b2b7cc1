"""Two jobs on one workdir."""

import errno
import fcntl
import gc
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

from alexnet.checkpointing import lock
from alexnet.config.errors import WorkdirInUseError

ROOT = pathlib.Path(__file__).parents[2]

_CHILD = '''
import pathlib, sys
from alexnet.checkpointing import lock
held = lock.take(pathlib.Path(sys.argv[1]), print)
print('taken', flush=True)
sys.stdin.read()
held.release()
'''


class LockTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(
        self.enterContext(tempfile.TemporaryDirectory())
    )
    self.file = self.workdir / lock.FILE
    self.warnings = []

  def take(self):
    return lock.take(self.workdir, self.warnings.append)

  def child(self):
    process = subprocess.Popen(
        [sys.executable, '-c', _CHILD, self.workdir],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    self.addCleanup(process.communicate)
    self.addCleanup(process.kill)
    self.assertEqual(process.stdout.readline(), 'taken\n')
    return process

  def write(self, **values):
    owner = {'host': socket.gethostname(), 'pid': 1, 'since': 'noon', **values}
    self.file.write_text(json.dumps(owner))

  def without_locks(self, number=errno.ENOLCK):
    error = OSError(number, os.strerror(number))
    self.enterContext(
        absltest.mock.patch.object(fcntl, 'flock', side_effect=error)
    )

  def test_another_process_has_it(self):
    process = self.child()
    for _ in range(2):
      with self.assertRaisesRegex(
          WorkdirInUseError,
          f'{self.workdir} is in use by another job: process {process.pid} on '
          rf'{socket.gethostname()}, since 20\d\d-.*or use another --workdir',
      ):
        self.take()
    process.communicate('')  # It ends by itself.
    self.take().release()
    self.assertEmpty(self.warnings)

  def test_it_was_killed(self):
    process = self.child()
    process.send_signal(signal.SIGKILL)
    process.wait()
    self.assertEqual(json.loads(self.file.read_text())['pid'], process.pid)
    held = self.take()
    self.assertEqual(json.loads(self.file.read_text())['pid'], os.getpid())
    self.assertEmpty(self.warnings)
    held.release()
    self.assertEqual(self.file.read_text(), '')

  def test_this_process_again(self):
    held = self.take()
    self.assertIs(self.take(), held)
    held.release()
    self.assertIsNot(self.take(), held)

  def test_it_goes_with_its_object(self):
    held = self.take()
    del held
    gc.collect()
    process = self.child()
    process.communicate('')

  @parameterized.parameters('', 'x', '[]', '{"host": "a"}', '{"pid": "1"}')
  def test_a_file_that_says_nothing(self, content):
    self.file.write_text(content)
    self.take()
    self.assertEmpty(self.warnings)

  def test_of_another_machine(self):
    self.write(host='elsewhere', pid=12)
    self.take()
    (text,) = self.warnings
    self.assertRegex(
        text, r'did not finish: process 12 on elsewhere, since noon'
    )

  def test_a_disk_without_locks(self):
    self.without_locks()
    mine = lock._describe_this()
    self.write(**mine)
    with self.assertRaisesRegex(WorkdirInUseError, f'process {os.getpid()} on'):
      self.take()
    if mine['started'] is not None:
      # Another process had the number before.
      self.write(**{**mine, 'started': mine['started'] - 1})
      self.take().release()
    child = subprocess.Popen([sys.executable, '-c', ''])
    child.wait()
    self.write(pid=child.pid)
    self.take().release()

  def test_other_errors_are_not_hidden(self):
    self.without_locks(errno.EIO)
    with self.assertRaises(OSError):
      self.take()


if __name__ == '__main__':
  absltest.main()
