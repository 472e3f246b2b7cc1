"""A few hundred mutated files through each reader, and that it would notice."""

import collections
import io
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from benchmarks import fuzz
from benchmarks.fuzzing import images, metadata, mutations, worker
from input_pipeline.errors import ImageError

ROOT = pathlib.Path(__file__).parents[2]
# Not as a module of `tests`, which import JAX.
BAD = 'fuzz_targets:Impatient'


class ReadersTest(parameterized.TestCase):

  @parameterized.parameters(
      ('image', 300), ('webp', 150), ('gif', 150), ('tiff', 150), ('bmp', 150),
      ('definition', 150), ('prepared', 100), ('archive', 100),
      ('features', 40), ('workdir', 100), ('checkpoint', 40),
      ('forged_checkpoint', 20),
  )
  def test_no_finding(self, name, inputs):
    report = fuzz.fuzz(
        name, (fuzz.IMAGES | fuzz.FILES)[name], inputs=inputs, workers=1
    )
    self.assertEmpty(report.findings)
    self.assertEqual(report.inputs, inputs)
    refused = sum(report.outcomes['refused'].values())
    self.assertGreater(refused, inputs / 10)
    accepted = sum(report.outcomes['accepted'].values())
    if name != 'checkpoint':
      self.assertGreater(accepted, 0)
    self.assertBetween(report.peak, 2**24, worker.MEMORY)

  def test_metadata_decides_nothing(self):
    """All are taken; orientations that can be read turn some."""
    report = fuzz.fuzz(
        'metadata', fuzz.IMAGES['metadata'], inputs=400, workers=1
    )
    self.assertEmpty(report.findings)
    accepted = report.outcomes['accepted']
    self.assertEqual(sum(accepted.values()), 400)
    for kind in ('JPEG', 'PNG', 'WebP', 'GIF', 'TIFF', 'BMP'):
      self.assertGreater(accepted[kind], 30)
    self.assertGreater(accepted['JPEG, turned'], 1)

  def test_a_refusal_for_metadata_is_a_finding(self):
    target = metadata.Metadata(pathlib.Path(self.create_tempdir()))
    made = target.make(random.Random(0))
    kind, seed, file = made
    self.assertStartsWith(target.read(made), kind)
    others = [other for other in target._pixels if other[0] != kind]
    with self.assertRaisesRegex(worker.Finding, 'its pixels are others'):
      other = next(
          key for key in others
          if not np.array_equal(target._pixels[key], target._pixels[kind, seed])
      )
      target.read((*other, file))
    # No error is one that the worker lets pass.
    with self.assertRaises(ImageError):
      target.read((kind, seed, file[:40]))
    self.assertEqual(target.refusals, ())

  def test_all_readers_are_tried(self):
    self.assertEqual(
        {*fuzz.IMAGES, *fuzz.FILES},
        {'image', 'webp', 'gif', 'tiff', 'bmp', 'metadata', 'definition',
         'prepared', 'archive', 'features', 'workdir',
         'checkpoint', 'forged_checkpoint'},
    )


class FindingsTest(absltest.TestCase):
  """Readers that crash, hang, take memory, or take what they must not."""

  def setUp(self):
    super().setUp()
    folders = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    self.enter_context(
        absltest.mock.patch.dict(os.environ, PYTHONPATH=folders)
    )

  def test_each_is_found_and_saved(self):
    folder = pathlib.Path(self.create_tempdir())
    # The numbers of inputs that are the first of their kind.
    chosen = {}
    for number in range(200):
      kind = worker.generator(BAD, 0, number).randrange(10)
      chosen.setdefault(kind, number)
    found = {}
    for kind, number in chosen.items():
      report = fuzz.fuzz(
          'bad', BAD, inputs=1, first=number, workers=1, findings=folder
      )
      self.assertEqual(report.inputs, 1)
      found[kind] = dict(report.findings).get(number)
      saved = folder / f'bad-0-{number}'
      self.assertEqual(saved.exists(), found[kind] is not None)
      if saved.exists():
        self.assertEqual(saved.read_text(), str(kind))
    expected = {
        0: 'died by SIGSEGV', 1: 'more than 5 s of the processor',
        2: 'waited longer', 3: r'took 1,\d+ MiB', 4: "KeyError: 'field'",
        5: '^taken$', 6: 'memory was refused', 7: 'status 3',
    }
    for kind, message in expected.items():
      self.assertRegex(found[kind], message)
    self.assertIsNone(found[8])
    self.assertIsNone(found[9])

  def test_goes_on_after_one(self):
    """An error, the end of its process, one that is taken, another error."""
    first, kinds = 141, [4, 7, 9, 4]
    for number, kind in enumerate(kinds, first):
      self.assertEqual(worker.generator(BAD, 0, number).randrange(10), kind)
    report = fuzz.fuzz('bad', BAD, inputs=len(kinds), first=first, workers=2)
    self.assertEqual(report.inputs, len(kinds))
    self.assertEqual([number for number, _ in report.findings], [141, 142, 144])
    self.assertIn('FINDING at', '\n'.join(report.lines()))


class MutationsTest(parameterized.TestCase):

  def test_are_a_function_of_the_seed(self):
    seeds = images.seeds()

    def some(seed):
      return [
          mutations.mutate(
              seeds[0], worker.generator('x', seed, i), seeds
          )
          for i in range(20)
      ]

    self.assertEqual(some(0), some(0))
    self.assertNotEqual(some(0), some(1))

  @parameterized.parameters(True, False)
  def test_are_changes(self, text):
    rng, data = random.Random(0), b'[conv1]\nfilters=48\nstride=4\n' * 3
    changed = [
        mutations.mutate(data, rng, [b'other'], [b'word'], text=text)
        for _ in range(500)
    ]
    self.assertNotIn(data, changed)
    self.assertGreater(len(set(changed)), 400)
    lengths = collections.Counter(map(len, changed))
    self.assertGreater(len(lengths), 20)

  def test_checksums_are_right(self):
    """So that Pillow reads what has been changed."""
    png = next(s for s in images.seeds() if s.startswith(b'\x89PNG'))
    broken = png[:20] + b'\0\0\0\x07' + png[24:]
    with self.assertRaises(Exception):  # noqa: B017
      Image.open(io.BytesIO(broken)).load()
    image = Image.open(io.BytesIO(mutations.with_checksums(broken)))
    self.assertEqual(image.height, 7)


class CommandTest(absltest.TestCase):

  def test_status(self):
    folder = pathlib.Path(self.create_tempdir())
    result = subprocess.run(
        [sys.executable, '-m', 'benchmarks.fuzz', '--only=image',
         '--images=120', '--workers=1', f'--json={folder / "x.json"}',
         f'--findings={folder / "found"}'],
        cwd=ROOT, capture_output=True, text=True,
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertIn('120 inputs, 0 finding(s), seed 0', result.stdout)
    self.assertTrue((folder / 'x.json').exists())
    self.assertFalse((folder / 'found').exists())



if __name__ == '__main__':
  absltest.main()
