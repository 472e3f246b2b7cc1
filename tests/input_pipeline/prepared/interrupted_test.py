"""The command interrupted, in parts, at the same time, and without room."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
from unittest import mock

from absl.testing import absltest, parameterized

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.prepared import writer
from tests import preparing
from tests.preparing import manifest, run, snapshot


class WholeTestCase(preparing.PreparingTest):
  """Has photos, and what an undisturbed command makes of them."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.photos = preparing.write_photos(pathlib.Path(folder, 'in'), 6)
    cls.whole = pathlib.Path(folder, 'whole')
    run('--help')  # Starts the server that forks them.
    start = time.monotonic()
    result = run(f'--source={cls.photos}', f'--output={cls.whole}', shard=2)
    cls.seconds = time.monotonic() - start
    assert not result.status, result.error


class InterruptedTest(WholeTestCase):

  def setUp(self):
    super().setUp()
    self.flags = f'--source={self.photos}', f'--output={self.out}'

  def test_the_number_of_threads_makes_no_difference(self):
    for workers in (1, 5):
      out = self.root / f'{workers}'
      self.prepare(self.photos, f'--workers={workers}', out=out, shard=2)
      self.assert_same_bytes(out, self.whole)

  def test_killed_ten_times(self):
    """At any moment, between shards or within one."""
    generator = random.Random(0)
    killed = 0
    for _ in range(10):
      command = preparing.Command(
          *self.flags, f'--workers={generator.randint(1, 4)}', shard=2
      )
      time.sleep(generator.uniform(0, 0.4 * self.seconds))
      command.send(signal.SIGKILL)
      killed += command.wait().status == -signal.SIGKILL
    self.assertGreaterEqual(killed, 3)
    self.prepare(self.photos, shard=2)
    self.assert_same_bytes(self.out, self.whole)

  @parameterized.parameters(signal.SIGKILL, signal.SIGXFSZ)
  def test_killed_again_and_again_at_a_change_to_the_disk(self, by):
    """Each time after up to twenty files were opened, renamed or removed."""
    generator = random.Random(2)
    for _ in range(10):
      # Merging is more than twenty changes, and begins again each time.
      result = run(
          *self.flags, shard=2, die_at=generator.randint(0, 20), by=by
      )
      self.assertEqual(result.status, -by)
    self.prepare(self.photos, shard=2)
    self.assert_same_bytes(self.out, self.whole)

  @parameterized.parameters(signal.SIGKILL, signal.SIGXFSZ)
  def test_killed_at_each_change_of_the_end(self, by):
    """From merging over the manifest to cleaning up."""
    parts = self.root / 'parts'
    # All shards in few files, the rest of which are those of the end.
    self.prepare(self.photos, out=self.root / 'one')
    self.prepare(self.photos, '--part=0/1', out=parts)
    before_manifest = after_manifest = 0
    for number in range(100):
      shutil.rmtree(self.out, ignore_errors=True)
      shutil.copytree(parts, self.out)
      status = run(*self.flags, '--merge', die_at=number, by=by).status
      if status == 0:
        break
      self.assertEqual(status, -by)
      if (self.out / 'manifest.json').exists():
        after_manifest += 1
        # It is usable as it is.
        expected = snapshot(self.root / 'one')
        self.assertEqual(snapshot(self.out), snapshot(self.out) | expected)
        self.assertIn('prepared already', self.prepare(self.photos))
      else:
        before_manifest += 1
        self.prepare(self.photos)
      self.assert_same_bytes(self.out, self.root / 'one')
    self.assertGreater(before_manifest, 10)
    self.assertGreaterEqual(after_manifest, 3)

  def test_written_before_it_is_renamed(self):
    """A power cut after a renaming finds all of the file on the disk."""
    synced = {}

    def fsync(descriptor):
      stat = os.fstat(descriptor)
      synced[stat.st_ino] = stat.st_size

    def replace(source, target, replace=os.replace):
      stat = os.stat(source)
      self.assertEqual(synced.get(stat.st_ino), stat.st_size, target)
      names.append(target.name)
      replace(source, target)

    names = []
    self.out.mkdir()
    with (
        mock.patch.object(os, 'fsync', fsync),
        mock.patch.object(os, 'replace', replace),
    ):
      one = writer.Preparation(
          dict(train=sources.open_folder(self.photos)), self.out,
          writer.Settings(),
      )
      one.run()
      one.merge()
    self.assertCountEqual(
        names,
        ['begun.json', 'train-00000.npz'] + [p.name for p in self.out.iterdir()]
    )
    self.assertEqual(names[-1], 'manifest.json')

  def test_finished_shards_are_not_made_again(self):
    # One shard takes six changes; the first ones are of the beginning.
    run(*self.flags, shard=2, die_at=30)
    before = {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in self.out.glob('train-*.npy')
    }
    self.assertGreater(len(before), 2)
    self.prepare(self.photos, shard=2)
    after = {
        name: ((self.out / name).stat().st_ino,
               (self.out / name).stat().st_mtime_ns)
        for name in before
    }
    # The last one may have been killed before it was noted.
    changed = [name for name in before if before[name] != after[name]]
    self.assertLessEqual(len(changed), 1)

  @parameterized.parameters(10, 15, 20, 25, 70)
  def test_ctrl_c(self, moment):
    result = run(*self.flags, shard=2, die_at=moment, by=signal.SIGINT)
    self.assert_failed(
        result, f'interrupted; .*stays in {self.out}: run the same command'
    )
    self.assertFalse((self.out / 'manifest.json').exists())
    self.prepare(self.photos, shard=2)
    self.assert_same_bytes(self.out, self.whole)

  def test_finished(self):
    before = snapshot(self.whole)
    times = {p: p.stat().st_mtime_ns for p in self.whole.iterdir()}
    output = self.prepare(self.photos, out=self.whole, shard=2)
    self.assertIn(f'{self.whole} is prepared already', output)
    self.assertEqual(snapshot(self.whole), before)
    for path, mtime in times.items():
      self.assertEqual(path.stat().st_mtime_ns, mtime)


class OtherOutputTest(preparing.PreparingTest):
  """An output directory that has something in it."""

  def setUp(self):
    super().setUp()
    self.photos = preparing.write_photos(self.root / 'in', 2)

  def test_foreign_files(self):
    (self.out / 'b').mkdir(parents=True)
    (self.out / 'a.txt').write_text('precious')
    before = snapshot(self.out)
    self.assert_refused(
        rf'{self.out} is not empty \(a.txt, b\): set --output',
        f'--source={self.photos}',
    )
    self.assertEqual(snapshot(self.out), before)

  def test_foreign_files_without_the_command(self):
    self.out.mkdir()
    (self.out / 'a.txt').write_text('precious')
    with self.assertRaisesRegex(DataError, 'is not empty'):
      writer.Preparation(
          dict(train=sources.open_folder(self.photos)), self.out,
          writer.Settings(),
      )

  @parameterized.product(
      finished=(True, False),
      change=(
          ('--quality=80', 'settings.quality was 95, is 80'),
          ('--storage=raw', 'settings.storage was jpeg, is raw'),
          ('--aspect=warp', 'settings.aspect was keep, is warp'),
          ('--seed=5', 'sources.train was .*identity'),
          ('--eval_fraction=0', 'sources.evaluation was .*is None'),
      ),
  )
  def test_other_settings(self, finished, change):
    flag, message = change
    self.prepare(self.photos, *() if finished else ('--part=0/2',))
    before = snapshot(self.out)
    what = 'prepared data' if finished else 'an unfinished preparation'
    self.assert_refused(
        f'{self.out} has {what} of something else .*{message}.*--output',
        f'--source={self.photos}', flag,
    )
    self.assertEqual(snapshot(self.out), before)

  def test_other_images(self):
    self.prepare(self.photos)
    preparing.write_picture(self.photos / 'ant/more.jpg', 99)
    self.assert_refused(
        "sources.train was .*'images': 3.*is .*'images': 4",
        f'--source={self.photos}',
    )

  def test_a_set_that_is_no_longer_there(self):
    photos = self.root / 'sets'
    for name in ('train', 'val'):
      preparing.write_photos(photos / name, 2)
    self.prepare(photos, '--part=0/2')
    shutil.rmtree(photos / 'val')
    self.assert_refused(
        'sources.evaluation was .*is None', f'--source={photos}',
        '--eval_fraction=0',
    )


class PartsTest(WholeTestCase):

  @parameterized.parameters(((0,),), ((2, 0, 1),), ((6, 3, 5, 1, 0, 4, 2),))
  def test_any_order(self, order):
    for part in order:
      output = self.prepare(
          self.photos, f'--part={part}/{len(order)}', shard=2
      )
      self.assertIn(f'part {part}/{len(order)} is done', output)
      self.assertFalse((self.out / 'manifest.json').exists())
    self.prepare(self.photos, '--merge', shard=2)
    self.assert_same_bytes(self.out, self.whole)

  def test_more_parts_than_shards(self):
    photos = preparing.write_photos(self.root / 'few', 2)
    for part in range(4):
      self.prepare(photos, f'--part={part}/4')
    self.prepare(photos, '--merge')
    self.assertEqual(manifest(self.out)['sets']['train']['images'], 3)

  def test_a_part_is_missing(self):
    # 15 + 3 images in shards of 2: 8 + 2 shards; part 1 has the odd ones.
    self.prepare(self.photos, '--part=0/2', shard=2)
    self.assert_refused(
        r'5 shard\(s\) are not prepared yet, the first is number 1 of train',
        f'--source={self.photos}', '--merge', shard=2,
    )
    self.assertFalse((self.out / 'manifest.json').exists())
    self.prepare(self.photos, '--part=1/2', shard=2)
    self.prepare(self.photos, '--merge', shard=2)
    self.assert_same_bytes(self.out, self.whole)

  def test_at_the_same_time(self):
    """More processes than are of use, of machines that do not know of others.

    In containers all of them may have the same number.
    """
    commands = [
        preparing.Command(
            f'--source={self.photos}', f'--output={self.out}', *flags, shard=2,
            number=7,
        )
        for flags in ((), (), ('--part=1/2',), ('--workers=3',))
    ]
    for command in commands:
      result = command.wait()
      self.assertEqual(result.status, 0, result.error)
    self.prepare(self.photos, shard=2)
    self.assert_same_bytes(self.out, self.whole)

  @parameterized.parameters('run', 'merge')
  def test_another_process_ends_first(self, what):
    """And has removed all notes, just when this one wants to go on."""
    sets = dict(train=sources.open_folder(self.photos))
    of = lambda: writer.Preparation(
        sets, self.out, writer.Settings(), origin='o'
    )
    self.out.mkdir()
    with mock.patch.object(writer, '_SHARD', 4):
      slow, fast = of(), of()
      # Both have begun, and the fast one ends.
      fast.run()
      if what == 'merge':
        slow.run()
      expected = fast.merge()
      before = snapshot(self.out)
      if what == 'run':
        slow.run()
      self.assertEqual(slow.merge(), expected)
    self.assertEqual(snapshot(self.out), before)

  @parameterized.parameters(False, True)
  def test_another_process_ends_while_this_one_begins(self, begun):
    """And removes its notes after this one has looked for them."""
    sets = dict(train=sources.open_folder(self.photos))
    of = lambda: writer.Preparation(
        sets, self.out, writer.Settings(), origin='o'
    )
    if begun:
      of()
    remove_stale = writer.atomic.remove_stale

    def other(scratch):
      with mock.patch.object(writer.atomic, 'remove_stale', remove_stale):
        fast = of()
        fast.run()
        fast.merge()

    with mock.patch.object(writer.atomic, 'remove_stale', other):
      slow = of()
    self.assertTrue(slow.finished)
    self.assertFalse(writer.unfinished(self.out).exists())

  @parameterized.parameters('1', '2/2', '-1/2', '0/0', 'a/b', '1/2/3', '0.5/2')
  def test_bad_part(self, part):
    self.assert_refused(
        f"--part is '{part}': expected I/N", f'--source={self.photos}',
        f'--part={part}',
    )
    self.assertFalse(self.out.exists())

  def test_part_and_merge(self):
    self.assert_refused(
        '--part and --merge exclude each other', f'--source={self.photos}',
        '--part=0/1', '--merge',
    )


class RoomTest(preparing.PreparingTest):

  def setUp(self):
    super().setUp()
    self.photos = preparing.write_photos(self.root / 'in', 4)
    self.whole = self.root / 'whole'
    self.prepare(self.photos, '--storage=raw', out=self.whole, shard=2)

  def command(self, *flags, **options):
    return run(
        f'--source={self.photos}', f'--output={self.out}', '--storage=raw',
        *flags, shard=2, **options
    )

  def noted(self):
    """{path of a shard that is complete: which file it is}."""
    notes = (self.out / 'unfinished').glob('*-*.npz')
    shards = [next(self.out.glob(f'{note.stem}-*')) for note in notes]
    return {path: path.stat().st_ino for path in shards}

  def test_a_file_may_not_grow(self):
    # The limit is less than 2 * 256 * 256 * 3.
    self.assertEqual(self.command('--part=1/2').status, 0)
    self.assertLen(self.noted(), 3)
    result = self.command(limit=200_000)
    self.assert_failed(
        result, rf'no room in {self.out} \(File too large\): .*same command'
    )
    before = self.noted()
    self.assertLen(before, 3)
    self.assertEmpty(list(self.out.rglob('*.tmp')))
    self.assertEqual(self.command().status, 0)
    self.assertEqual({p: p.stat().st_ino for p in before}, before)
    self.assert_same_bytes(self.out, self.whole)

  def test_full_disk(self):
    disk = self.root / 'disk'
    disk.mkdir()
    mount = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'none', disk],
        capture_output=True,
    ) if shutil.which('mount') else None
    if mount is None or mount.returncode:
      self.skipTest('this user may not mount a small disk')
    self.addCleanup(subprocess.run, ['umount', '-l', disk], check=True)
    self.out = disk / 'out'
    result = self.command()
    self.assertIn('warning: this will need about 0.0 GB', result.output)
    self.assert_failed(
        result, rf'no room in {self.out} \(No space left on device\): .*again'
    )
    # A shard and its sums are 1.2 MB.
    before = self.noted()
    self.assertLen(before, 1)
    self.assertEmpty(list(self.out.rglob('*.tmp')))
    subprocess.run(['mount', '-o', 'remount,size=20m', disk], check=True)
    self.assertEqual(self.command().status, 0)
    self.assertEqual({p: p.stat().st_ino for p in before}, before)
    self.assert_same_bytes(self.out, self.whole)


if __name__ == '__main__':
  absltest.main()
