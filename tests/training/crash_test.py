"""The command, killed; and that the benchmarks of this see what there is."""

import pathlib
import shutil
import signal
import subprocess
from unittest import mock

import psutil
from absl.testing import absltest

from alexnet.checkpointing import manager
from alexnet.metrics import writer
from benchmarks import crash, soak
from tests import commands, testing, tiny

MiB = 2**20


class Forked(commands.Started):
  """A command as `subprocess.Popen` starts it, but forked."""

  def __init__(self, command, **options):
    del options  # The folder and the pipe are those of `Started`.
    super().__init__(*command[1:])

  def poll(self):
    status = psutil.Process(self.pid).status()
    return 0 if status == psutil.STATUS_ZOMBIE else None

  def kill(self):
    self.send_signal(signal.SIGKILL)

  def communicate(self):
    return super().communicate(), None


class CrashTest(absltest.TestCase):

  def test_three_kills(self):
    """One of them during a save; the end is that of an undisturbed run."""
    work = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(mock.patch.object(
        crash, 'subprocess', mock.Mock(wraps=subprocess, Popen=Forked)
    ))
    images = testing.write_images(work / 'images', 2, 6)
    command = [
        'main.py', '--config=tests/tiny.py',
        f'--config.dataset.train_dir={images}',
        *tiny.SMALL,
    ]
    killed = crash.Crash(work / 'killed', command, interval=2, seed=1)
    steps = killed.steps_for(3)
    for _ in range(3):
      killed.kill(steps)
    moments = [kill.moment for kill in killed.kills]
    self.assertEqual(moments[0], crash.SAVE)
    for kill in killed.kills:
      self.assertLessEqual(kill.lost, 2, killed.kills)
    self.assertLess(manager.newest_step(killed.workdir), steps)
    output = killed.finish(steps)
    self.assertRegex(output, r'continuing from step \d+')
    killed.finish(steps, work / 'undisturbed')
    found = lambda: list(
        crash.differences(work / 'undisturbed', work / 'killed')
    )
    self.assertEqual(found(), [])
    self.assertIn('3 kills', crash.table(killed.kills, 2))
    # That it would have seen a difference.
    path = work / 'killed' / writer.FILE
    path.write_text(path.read_text().replace('"loss": 0', '"loss": 1', 1))
    self.assertLen(found(), 1)
    shutil.rmtree(work / 'killed' / 'checkpoints' / str(steps))
    self.assertGreater(len(found()), 10)


class SoakTest(absltest.TestCase):

  def judge(self, memory=lambda t: 500 * MiB, files=lambda t: 30,
            threads=lambda t: 20):
    return soak.judge([
        soak.Sample(t, memory(t), memory(t), files(t), threads(t))
        for t in range(0, 3600, 5)
    ])

  def test_flat(self):
    """With a peak at each evaluation, and growth at first only."""
    found = self.judge(
        memory=lambda t: (400 + min(t, 600) / 6 + 9 * (t % 60 < 10)) * MiB,
        files=lambda t: 30 + (t % 60 < 10),
    )
    self.assertTrue(found['flat'], found)
    self.assertBetween(found['memory_slope'], -MiB, MiB)

  def test_slope(self):
    found = self.judge(memory=lambda t: (500 + t / 60) * MiB)
    self.assertAlmostEqual(found['memory_slope'] / MiB, 60, places=3)
    self.assertAlmostEqual(found['memory_growth'], 40 / 540, delta=0.001)
    self.assertFalse(found['flat'])

  def test_files_and_threads(self):
    self.assertFalse(self.judge(files=lambda t: 30 + t // 600)['flat'])
    self.assertFalse(self.judge(threads=lambda t: 20 + t // 600)['flat'])


if __name__ == '__main__':
  absltest.main()
