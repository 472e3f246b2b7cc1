"""A run is the same to the bit, however many processes read its images."""

import contextlib
import os
import signal
import time

import psutil
from absl.testing import absltest, parameterized

from input_pipeline.errors import DataError
from tests import commands, faulty, tiny


class ReadingProcessesTest(faulty.RunTestCase):

  def readers(self):
    return [
        child for child in psutil.Process().children()
        if any('reading process' in part for part in child.cmdline())
    ]

  @parameterized.parameters(1, 2)
  def test_undisturbed(self, processes):
    run = self.open(dataset__processes=processes)
    run.train()
    self.assert_same_end(run, self.undisturbed())

  def test_one_is_killed_and_another_number_goes_on(self):
    def kill():
      # Readers of an earlier test may be left, and numbers start again.
      newest = max(self.readers(), key=psutil.Process.create_time)
      os.kill(newest.pid, signal.SIGKILL)

    # More steps than there are batches on their way.
    fields = dict(duration='32 steps')
    run = self.open(
        console=faulty.AtSteps(self.said, {3: kill}), dataset__processes=2,
        **fields,
    )
    with self.assertRaisesRegex(DataError, 'reading process .*SIGKILL.*again'):
      run.train()
    def stop():
      os.kill(os.getpid(), signal.SIGTERM)

    run = self.open(
        console=faulty.AtSteps(self.said, {20: stop}), dataset__processes=1,
        **fields,
    )
    self.assertBetween(run.progress.step, 2, 19)
    self.assertIsNone(run.train())
    run = self.open(**fields)
    self.assertBetween(run.progress.step, 20, 31)
    run.train()
    self.assert_same_end(run, self.undisturbed(**fields))

  def test_all_are_killed(self):
    """By the command, with SIGKILL: no process is left, and it goes on."""
    process = commands.Started(
        'main.py', '--config=tests/tiny.py',
        f'--workdir={self.workdir}', '--config.dataset.processes=2',
        f'--config.dataset.train_dir={self.images}',
        '--config.dataset.eval_fraction=0.34', *tiny.SMALL,
        '--config.duration=8 steps',
        '--config.evaluate_every=never', '--config.ten_views=False',
    )
    metrics = self.workdir / 'metrics.jsonl'
    end = time.monotonic() + 300
    while not metrics.exists() or '"step": 4' not in metrics.read_text():
      self.assertLess(time.monotonic(), end)
      time.sleep(0.01)
    readers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    # The output ends when nobody can write to it any more.
    process.communicate()
    self.assertGreaterEqual(len(readers), 2)
    for reader in readers:
      with contextlib.suppress(psutil.NoSuchProcess):
        self.assertEqual(reader.status(), psutil.STATUS_ZOMBIE)
    run = self.open(dataset__processes=1)
    self.assertGreaterEqual(run.progress.step, 2)
    run.train()
    self.assert_same_end(run, self.undisturbed())


if __name__ == '__main__':
  absltest.main()
