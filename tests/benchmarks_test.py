"""That benchmarks run; what they measure is not tested."""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parent.parent


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


if __name__ == '__main__':
  absltest.main()
