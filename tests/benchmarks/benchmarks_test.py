"""That benchmarks run; what they measure is not tested."""

import contextlib
import functools
import io
import json
import pathlib
import types
from unittest import mock

from absl.testing import absltest

from benchmarks import feeding
from tests import commands


class InputPipelineTest(absltest.TestCase):

  def test_ours(self):
    """The others need packages that only `make bench` installs."""
    file = pathlib.Path(self.create_tempdir().full_path) / 'results.json'
    command = [
        '-m', 'benchmarks.input_pipeline', '--images=64', '--rounds=1',
        '--seconds=0.1', '--only=prepared_raw', '--only=tfrecord',
        f'--json={file}',
    ]
    result = commands.run(*command)
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
    """By a narrow network."""
    directory = pathlib.Path(self.create_tempdir().full_path)
    file = directory / 'results.json'
    values = types.SimpleNamespace(
        source=None, images=32, batch_size=2, rounds=1, steps=1, seconds=0,
        json=file, work=directory,
    )
    narrow = functools.partial(feeding.measure, width=0.0625)
    with (
        mock.patch.object(feeding.flags, 'FLAGS', values),
        mock.patch.object(feeding, 'measure', narrow),
        contextlib.redirect_stdout(io.StringIO()) as output,
    ):
      feeding.main(['feeding'])
    medians = json.loads(file.read_text())['median_seconds_per_step']
    self.assertCountEqual(
        medians, ['constant', 'prepared_jpeg', 'prepared_raw']
    )
    for name, median in medians.items():
      self.assertGreater(median, 0)
      self.assertIn(
          f'{name:15s} {median:.3f} s a step, ', output.getvalue()
      )

  def test_flags(self):
    """They are those that the test above gives values."""
    result = commands.run(
        '-m', 'benchmarks.feeding', '--source=x', '--images=32',
        '--batch_size=2', '--rounds=1', '--steps=1', '--seconds=0',
        '--json=x', '--work=x', 'nonsense',
    )
    self.assertEqual(result.returncode, 1)
    self.assertIn('unknown argument nonsense', result.stderr)


class RetrievalTest(absltest.TestCase):

  def test_all_ways(self):
    work = pathlib.Path(self.create_tempdir().full_path)
    command = [
        '-m', 'benchmarks.retrieval', '--vectors=500', '--dimensions=64',
        '--classes=20', '--queries=5', '--steps=2', f'--work={work}',
    ]
    result = commands.run(*command)
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertIn('500 x 64 float16, 0.00 GB', result.stdout)
    lines = result.stdout.splitlines()
    rows = [x for x in lines if ' bits of' in x and not x.endswith('done')]
    self.assertLen(rows, 4)
    self.assertEmpty([*work.iterdir()])


if __name__ == '__main__':
  absltest.main()
