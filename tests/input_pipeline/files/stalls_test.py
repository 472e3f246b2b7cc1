"""Data that does not come: who says so, and that a signal is heard."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.runtime import preemption
from input_pipeline import cli
from input_pipeline.errors import DataError
from input_pipeline.files import stalls

_MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('data',))

ROOT = pathlib.Path(__file__).parents[3]


class WatchTest(parameterized.TestCase):

  def test_names_what_is_waited_for(self):
    said, reported = [], threading.Event()

    def report(text):
      said.append(text)
      reported.set()

    watch = stalls.Watch(0.05, report)
    with watch.reading(lambda: 'quick.jpg'):
      pass
    with watch.reading(lambda: 'slow\n.jpg'):
      self.assertTrue(reported.wait(30))
    self.assertRegex(said[0], r'waiting for slow\\n.jpg for \d+ s now: check')
    self.assertRegex(said[-1], r'slow\\n.jpg has been read after \d+ s')
    self.assertNotIn('quick', ' '.join(said))

  def test_less_and_less_often(self):
    said = []
    watch = stalls.Watch(1000.0, said.append)
    with watch.reading(lambda: 'a.jpg') as reading:
      for seconds in (999, 1001, 1999, 2003, 4003, 4007):
        watch.look(reading.since + seconds)
    times = [text.split(' s now')[0].split()[-1] for text in said[:-1]]
    self.assertEqual(times, ['1001', '2003', '4007'], said)

  def test_several_threads(self):
    said = []
    watch = stalls.Watch(1000.0, said.append)
    begun, done = threading.Barrier(7), threading.Event()

    def read(name):
      with watch.reading(lambda: name):
        begun.wait()
        done.wait()

    names = [f'{i}.jpg' for i in range(6)]
    threads = [threading.Thread(target=read, args=(name,)) for name in names]
    for thread in threads:
      thread.start()
    begun.wait()
    watch.look(time.monotonic() + 1001)
    done.set()
    for thread in threads:
      thread.join()
    self.assertRegex(said[0], r'(\d.jpg, ){3}\d.jpg and 2 more for 1001 s')
    self.assertLen(said, 7)

  def test_the_thread_ends_and_comes_back(self):
    said = []
    watch = stalls.Watch(0.05, said.append)
    for number in (1, 2):
      with watch.reading(lambda: 'a.jpg'):
        while len(said) < 2 * number - 1:
          time.sleep(0.01)
      while watch._thread is not None:
        time.sleep(0.01)

  def test_a_name_that_cannot_be_had(self):
    said = []
    watch = stalls.Watch(0.01, said.append)

    def describe():
      raise OSError('gone')

    with watch.reading(describe):
      while not said:
        time.sleep(0.01)
    self.assertIn('waiting for an image (gone)', said[0])

  def test_no_limit(self):
    watch = stalls.Watch(None, self.fail)
    with watch.reading(lambda: 'a.jpg'):
      pass
    self.assertIsNone(watch._thread)

  @parameterized.parameters(0.0, -1.0, float('nan'))
  def test_bad_limit(self, limit):
    with self.assertRaisesRegex(DataError, 'stalled_after is .*expected'):
      stalls.Watch(limit, print)


class WaitingTest(absltest.TestCase):

  def test_items_and_end(self):
    closed = []

    def items():
      try:
        yield from range(3)
      finally:
        closed.append(threading.current_thread())

    self.assertEqual(list(preemption.until(lambda: False, items())), [0, 1, 2])
    self.assertLen(closed, 1)
    some = preemption.until(lambda: False, items())
    self.assertEqual(next(some), 0)
    some.close()
    self.assertLen(closed, 2)

  def test_errors_come_as_they_are(self):
    error = DataError('broken')

    def items():
      yield 1
      raise error

    found = preemption.until(lambda: False, items())
    self.assertEqual(next(found), 1)
    with self.assertRaises(DataError) as caught:
      next(found)
    self.assertIs(caught.exception, error)

  def test_nothing_is_made_before_it_is_wanted(self):
    made = []

    def items():
      for number in range(9):
        made.append(number)
        yield number

    found = preemption.until(lambda: False, items())
    next(found)
    self.assertEqual(made, [0])
    found.close()

  def test_a_signal_is_heard(self):
    """Where the thread waits for ever, as for a disk that is gone."""
    ever = threading.Event()
    self.addCleanup(ever.set)

    def items():
      yield 1
      os.kill(os.getpid(), signal.SIGTERM)
      ever.wait()

    stop = preemption.Stop(_MESH)
    with stop.listening():
      found = preemption.until(stop.__bool__, items())
      next(found)
      with self.assertRaises(preemption.Stopped):
        next(found)
    self.assertEqual(stop.name, 'SIGTERM')


  def test_an_end_that_is_not_waited_for(self):
    """Something was ready, and what is made in advance does not come."""
    ever = threading.Event()
    self.addCleanup(ever.set)

    def items():
      try:
        yield from range(3)
      finally:
        ever.wait()

    found = preemption.until(lambda: False, items())
    next(found)
    found.close()


class SignalsTest(absltest.TestCase):

  def test_a_second_sigterm_changes_nothing(self):
    stop = preemption.Stop(_MESH)
    with stop.listening():
      self.assertFalse(stop)
      for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    self.assertTrue(stop)
    self.assertIs(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

  def test_a_second_ctrl_c_ends_the_process(self):
    stop = preemption.Stop(_MESH)
    with stop.listening():
      os.kill(os.getpid(), signal.SIGINT)
      self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_DFL)
    self.assertEqual(stop.name, 'SIGINT')


class EndTest(absltest.TestCase):

  def test_a_thread_that_waits_does_not_hold_up_the_end(self):
    code = (
        'import threading\n'
        'from input_pipeline import cli\n'
        'cli._ENDING = 0.2\n'
        'def main(argv):\n'
        '  threading.Thread(target=threading.Event().wait).start()\n'
        '  print("saved")\n'
        '  return cli.STOPPED\n'
        'cli.run(main)\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE,
        text=True,
    )
    with contextlib.closing(process.stdout):
      self.addCleanup(process.kill)
      self.assertEqual(process.wait(timeout=120), 75)
      self.assertEqual(process.stdout.read(), 'saved\n')
    self.assertEqual(cli.STOPPED, 75)


if __name__ == '__main__':
  absltest.main()
