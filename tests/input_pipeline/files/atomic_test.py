"""Files that are complete or not there."""

import fcntl
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest

from input_pipeline.files import atomic


class AtomicTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(folder)
    self.path = self.root / 'result'

  def test_is_not_there_before_it_is_complete(self):
    def write(file):
      file.write(b'half ')
      file.flush()
      self.assertFalse(self.path.exists())
      file.write(b'and half')

    atomic.write(self.path, write, self.root)
    self.assertEqual(self.path.read_bytes(), b'half and half')
    self.assertEqual(list(self.root.iterdir()), [self.path])

  def test_a_failure_leaves_what_was_there(self):
    self.path.write_bytes(b'before')

    def write(file):
      file.write(b'half')
      raise OSError('no room')

    with self.assertRaisesRegex(OSError, 'no room'):
      atomic.write(self.path, write, self.root)
    self.assertEqual(self.path.read_bytes(), b'before')
    self.assertEqual(list(self.root.iterdir()), [self.path])

  def test_leftovers_of_the_dead_only(self):
    stale = self.root / 'shard.0123.tmp'
    stale.write_bytes(b'half')
    other = self.root / 'shard.npy'
    other.write_bytes(b'whole')

    def write(file):
      atomic.remove_stale(self.root)  # As another process would.
      file.write(b'all')

    atomic.write(self.path, write, self.root)
    self.assertEqual(self.path.read_bytes(), b'all')
    self.assertFalse(stale.exists())
    self.assertTrue(other.exists())

  def test_taken_for_a_leftover_before_it_is_locked(self):
    lock, taken = fcntl.flock, []

    def late(file, operation):
      if not taken:
        taken.append(True)
        atomic.remove_stale(self.root)
      lock(file, operation)

    with mock.patch.object(atomic.fcntl, 'flock', late):
      atomic.write(self.path, lambda f: f.write(b'whole'), self.root)
    self.assertEqual(self.path.read_bytes(), b'whole')
    self.assertEqual(list(self.root.iterdir()), [self.path])

  def test_a_lock_is_held_while_it_is_written(self):
    def write(file):
      with open(file.name, 'rb') as again, self.assertRaises(OSError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)

    atomic.write(self.path, write, self.root)


if __name__ == '__main__':
  absltest.main()
