"""That benchmarks run; what they measure is not tested."""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]


class InputPipelineTest(absltest.TestCase):

  def test_ours(self):
    """The others need packages that only `make bench` installs."""
    file = pathlib.Path(self.create_tempdir().full_path) / 'results.json'
    command = [
        '-m', 'benchmarks.input_pipeline', '--images=64', '--rounds=2',
        '--seconds=0.1', '--only=prepared_raw', '--only=tfrecord',
        f'--json={file}',
    ]
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    results = json.loads(file.read_text())
    self.assertCountEqual(
        results,
        ['median_images_per_second', 'median_images_per_core_second'],
    )
    for medians in results.values():
      self.assertCountEqual(medians, ['prepared_raw', 'tfrecord'])
      for name, median in medians.items():
        self.assertGreater(median, 0)
        self.assertIn(name, result.stdout)


class FeedingTest(absltest.TestCase):

  def test_all_sources(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    file = directory / 'results.json'
    command = [
        '-m', 'benchmarks.feeding', '--images=32', '--batch_size=2',
        '--rounds=1', '--steps=1', '--seconds=0', f'--json={file}',
        f'--work={directory}',
    ]
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    medians = json.loads(file.read_text())['median_seconds_per_step']
    self.assertCountEqual(
        medians, ['constant', 'prepared_jpeg', 'prepared_raw']
    )
    for name, median in medians.items():
      self.assertGreater(median, 0)
      self.assertIn(f'{name:15s} {median:.3f} s a step, ', result.stdout)


class RetrievalTest(absltest.TestCase):

  def test_all_ways(self):
    work = pathlib.Path(self.create_tempdir().full_path)
    command = [
        '-m', 'benchmarks.retrieval', '--vectors=5000', '--dimensions=64',
        '--classes=20', '--queries=5', '--steps=20', f'--work={work}',
    ]
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertIn('5,000 x 64 float16, 0.00 GB', result.stdout)
    lines = result.stdout.splitlines()
    rows = [x for x in lines if ' bits of' in x and not x.endswith('done')]
    self.assertLen(rows, 4)
    self.assertEmpty([*work.iterdir()])


if __name__ == '__main__':
  absltest.main()
