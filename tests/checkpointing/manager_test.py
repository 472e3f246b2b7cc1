"""Checkpoints: which of them count, and what happens to the others."""

import errno
import json
import os
import pathlib
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.checkpointing import manager, manifest
from alexnet.config.errors import CheckpointError, UnsavedError
from alexnet.metrics import writer
from tests import faulty


def state_of(step):
  return {'params': {'fc8': {'kernel': jnp.full((4, 3), step, jnp.float32)}}}


class CheckpointsTestCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.folder = self.workdir / 'checkpoints'
    self.store = manager.Checkpoints(self.workdir, keep=3)
    self.addCleanup(self.store.close)

  def save(self, *steps, **options):
    for step in steps:
      self.store.save(step, state_of(step), {'step': step}, **options)

  def reader(self):
    store = manager.Checkpoints(self.workdir, read_only=True)
    self.addCleanup(store.close)
    return store

  def names(self):
    return sorted(path.name for path in self.folder.iterdir())

  def assert_has(self, step, store=None):
    state, progress = (store or self.store).restore(step, state_of(0))
    self.assertEqual(progress, {'step': step})
    np.testing.assert_array_equal(
        state['params']['fc8']['kernel'], np.full((4, 3), step)
    )


class DamageTest(CheckpointsTestCase):

  def test_each_file_in_turn(self):
    """What Orbax does with it, or does not notice, makes no difference."""
    self.save(1, 2)
    newest = self.folder / '2'
    files = [p for p in newest.rglob('*') if p.is_file()]
    self.assertGreater(len(files), 5)
    kinds = set()
    for path in files:
      for what, damage in faulty.damages(path):
        if (path.name, what) == (manifest.FILE, 'missing'):
          continue  # Not complete; see below.
        kinds.add(what)
        name = str(path.relative_to(newest))
        with self.subTest(name, what=what), damage:
          before = self.names()
          said = []
          self.assertEqual(self.reader().find(report=said.append), 1)
          (text,) = said
          # Of another name or digest in the manifest a file may be the victim.
          victim = '' if path.name == manifest.FILE else f'{name} '
          self.assertIn(f'{newest} is damaged: {victim}', text)
          self.assertIn('Using step 1 instead', text)
          with self.assertRaisesRegex(CheckpointError, 'is damaged'):
            self.reader().restore(2, state_of(0))
          with self.assertRaisesRegex(CheckpointError, 'is damaged'):
            self.reader().variable_shapes(2)
          with self.assertRaisesRegex(CheckpointError, 'is damaged'):
            self.reader().find(2)
          self.assertEqual(self.names(), before)
    self.assertEqual(kinds, {'missing', 'truncated', 'a bit', 'longer'})
    self.assertEqual(self.reader().find(), 2)

  def test_half_deleted(self):
    self.save(1, 2)
    shutil.rmtree(self.folder / '2' / 'state')
    self.assertEqual(self.reader().find(report=lambda _: None), 1)

  @parameterized.parameters(
      ('no JSON', '{', 'cannot be read'),
      ('deep', '[' * 100_000, 'cannot be read'),
      ('a list', '[]', 'not a list of files'),
      ('nothing', '{}', 'not a list of files'),
      ('no digest', '{"a": 3}', "no SHA-256 of 'a'"),
      ('a short digest', '{"a": "00"}', "no SHA-256 of 'a'"),
      ('parent', {'../1/manifest.json': '0' * 64}, 'not a file in this folder'),
      ('parent later', {'a/../../x': '0' * 64}, 'not a file in this folder'),
      ('absolute', {'/etc/passwd': '0' * 64}, 'not a file in this folder'),
      ('itself', {'.': '0' * 64}, 'not a file in this folder'),
      ('zero byte', {'a\0b': '0' * 64}, 'not a file in this folder'),
      ('long', {'a' * 5000: '0' * 64}, 'cannot be read|is missing'),
  )
  def test_manifest(self, _, content, reason):
    self.save(1)
    text = content if isinstance(content, str) else json.dumps(content)
    (self.folder / '1' / manifest.FILE).write_text(text)
    with self.assertRaisesRegex(CheckpointError, f'is damaged: .*({reason})'):
      manifest.check(self.folder / '1')

  def test_a_manifest_that_is_too_long_is_not_read(self):
    self.save(1)
    with open(self.folder / '1' / manifest.FILE, 'r+b') as f:
      f.truncate(2**25)  # Of holes.
    with self.assertRaisesRegex(CheckpointError, '33,554,432 bytes'):
      manifest.check(self.folder / '1')

  def test_a_file_too_many(self):
    self.save(1)
    (self.folder / '1' / 'state' / 'more').write_text('')
    with self.assertRaisesRegex(CheckpointError, 'state/more is not in'):
      manifest.check(self.folder / '1')

  def test_a_link_to_elsewhere(self):
    """Of a file that is there, with the same content, and of a folder."""
    self.save(1)
    file = max(p for p in (self.folder / '1').rglob('*') if p.is_file())
    elsewhere = self.workdir / 'elsewhere'
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with self.assertRaisesRegex(CheckpointError, 'is missing'):
      manifest.check(self.folder / '1')
    file.unlink()
    elsewhere.rename(file)
    manifest.check(self.folder / '1')
    (self.folder / '1' / 'link').symlink_to(self.workdir)
    with self.assertRaisesRegex(CheckpointError, 'link is not in'):
      manifest.check(self.folder / '1')

  def test_all_are_damaged(self):
    self.save(1, 2)
    for step in (1, 2):
      (self.folder / str(step) / manifest.FILE).write_text('')
    for _ in range(2):
      with self.assertRaisesRegex(
          CheckpointError,
          'no checkpoint is left to continue from: .*2 is damaged.*1 is '
          f'damaged.*remove {self.folder} to start again',
      ):
        self.store.newest_good()
    self.assertEqual(self.names(), ['1', '2'])

  def test_damaged_since_it_was_looked_at(self):
    """A rollback, hours after the start."""
    self.save(1, 2)
    self.assertEqual(self.store.newest_good(), (2, {}))
    files = [p for p in (self.folder / '2').rglob('*') if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    step, damaged = self.store.newest_good()
    self.assertEqual((step, [*damaged]), (1, [2]))

  def test_set_aside(self):
    self.save(1)
    for name in ('2.damaged', '2.damaged.2'):
      self.save(2)
      self.assertEqual(self.store.set_aside(2).name, name)
    self.assertEqual(self.names(), ['1', '2.damaged', '2.damaged.2'])
    self.assertEqual(self.store.newest_good(), (1, {}))
    # Not from the beginning, if the others have gone somehow.
    shutil.rmtree(self.folder / '1')
    with self.assertRaisesRegex(CheckpointError, '2.damaged was set aside'):
      self.store.newest_good()


class KeptTest(CheckpointsTestCase):

  def test_best_ones_stay(self):
    self.save(1, 2, 3, 4, 5, 6, best=(2, 3))
    self.assertEqual(self.names(), ['2', '3', '4', '5', '6'])
    self.save(7, best=(3, 7))
    self.assertEqual(self.names(), ['3', '5', '6', '7'])
    self.assert_has(3)

  def test_no_old_one_goes_before_the_new_one_is_there(self):
    self.save(1, 2, 3)
    seen = []

    def delete(path, delete=shutil.rmtree):
      manifest.check(self.folder / '4')
      # Half deleted, it does not count either.
      seen.append((path.name, manager.complete_steps(self.workdir)))
      delete(path)

    with absltest.mock.patch.object(shutil, 'rmtree', delete):
      self.save(4)
    self.assertEqual(seen, [('1', [2, 3, 4])])
    self.assertEqual(self.names(), ['2', '3', '4'])

  def test_an_old_one_that_stays(self):
    """As with files that another machine has open on a network disk."""
    self.save(1, 2, 3)
    said, state = [], str(self.folder / '1' / 'state')

    def rmdir(path, *, dir_fd=None, rmdir=os.rmdir):
      if str(path) in ('state', state):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
      rmdir(path, dir_fd=dir_fd)

    with absltest.mock.patch.object(os, 'rmdir', rmdir):
      self.save(4, report=said.append)
    (text,) = said
    self.assertRegex(text, f'{self.folder}/1 is old .*Directory not empty')
    self.assertEqual(manager.complete_steps(self.workdir), [2, 3, 4])
    # All else is deleted, and this one when the run starts again.
    self.assertEqual([p.name for p in (self.folder / '1').iterdir()], ['state'])
    self.save(5, report=said.append)
    self.assertEqual(self.names(), ['1', '3', '4', '5'])
    self.assertEmpty(self.store.set_aside_unfinished())
    self.assertEqual(self.names(), ['3', '4', '5'])
    self.assertLen(said, 1)

  def test_an_old_one_whose_manifest_stays(self):
    """It is still complete then, and goes with the next."""
    self.save(1, 2, 3)
    said = []
    with absltest.mock.patch.object(
        pathlib.Path, 'unlink', side_effect=OSError(errno.EIO, 'failed')
    ):
      self.save(4, report=said.append)
    (text,) = said
    self.assertIn('1 is old and cannot be deleted (failed)', text)
    manifest.check(self.folder / '1')
    self.save(5, report=said.append)
    self.assertEqual(self.names(), ['3', '4', '5'])

  def test_on_the_disk_before_the_manifest_is(self):
    """After a power cut there is no manifest of files that are not there.

    Nor of a step whose records are not.
    """
    synced = {}
    records = self.workdir / writer.FILE
    records.write_text('{"kind": "train", "step": 1}\n')

    def fsync(descriptor):
      status = os.fstat(descriptor)
      synced[status.st_ino] = status.st_size

    def rename(source, target, rename=os.replace):
      target = pathlib.Path(target)
      if target.name == manifest.FILE:
        paths = [
            source, target.parent, *target.parent.rglob('*'), records,
            self.workdir,
        ]
        for path in paths:
          self.assertIn(path.stat().st_ino, synced, path)
          if path.is_file():
            self.assertEqual(synced[path.stat().st_ino], path.stat().st_size)
        renamed.append(target)
      return rename(source, target)

    renamed = []
    with (
        absltest.mock.patch.object(os, 'fsync', fsync),
        absltest.mock.patch.object(os, 'replace', rename),
    ):
      self.save(1)
    self.assertLen(renamed, 1)

  def test_records_that_cannot_be_synced(self):
    """As on a disk that fails; the checkpoint may be on it all the same."""
    records = self.workdir / writer.FILE
    self.save(1)  # Without any.
    records.write_text('')

    def fsync(descriptor, fsync=os.fsync):
      if os.path.samestat(os.fstat(descriptor), records.stat()):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
      fsync(descriptor)

    with absltest.mock.patch.object(os, 'fsync', fsync):
      self.save(2)
    self.assertEqual(self.reader().find(), 2)

  def test_what_a_killed_process_leaves(self):
    self.save(1, 2, 3)
    copy = lambda name: shutil.copytree(self.folder / '2', self.folder / name)
    copy('4.orbax-checkpoint-tmp-17')
    for name in ('1', '4'):
      shutil.copytree(
          self.folder / '2', self.folder / name, dirs_exist_ok=True
      )
      (self.folder / name / manifest.FILE).unlink()
    self.assertEqual(self.reader().find(), 3)
    renamed = self.store.set_aside_unfinished()
    self.assertEqual([path.name for path in renamed], ['4.incomplete'])
    self.assertEqual(self.names(), ['2', '3', '4.incomplete'])
    self.save(4)
    self.assertEqual(self.names(), ['2', '3', '4'])
    self.assert_has(4)

  def test_what_a_failed_save_leaves(self):
    """Orbax's threads may go on writing after the error."""
    self.save(1)
    (self.folder / '2.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
    self.save(3)
    self.assertEqual(self.names(), ['1', '3'])

  def test_best_for_readers(self):
    self.save(1, 2, 3)
    with self.assertRaisesRegex(CheckpointError, 'of a step that was evalua'):
      self.reader().find('best')
    top1 = {0: 0.9, 1: 0.3, 2: 0.5, 3: 0.5}
    (self.workdir / 'metrics.jsonl').write_text(''.join(
        json.dumps({'kind': 'eval_centre', 'step': step, 'top1': value}) + '\n'
        for step, value in top1.items()
    ))
    self.assertEqual(self.reader().find('best'), 2)
    self.assertEqual(self.reader().find(3), 3)
    with self.assertRaisesRegex(CheckpointError, 'step 4: it has 1, 2, 3'):
      self.reader().find(4)
    # Nothing else than what was asked for.
    (self.folder / '2' / manifest.FILE).write_text('')
    with self.assertRaisesRegex(CheckpointError, '2 is damaged'):
      self.reader().find('best')

  def test_best_of_records_that_have_a_top1(self):
    self.save(1, 2, 3)
    record = '{"kind": "eval_centre", "step": %d%s}\n'
    (self.workdir / writer.FILE).write_text(''.join(
        record % (step, rest)
        for step, rest in (
            (1, ''), (3, ', "top1": NaN'), (1, ', "top1": "1"'),
            (2, ', "top1": 0.5'), (3, ', "top1": Infinity'),
            (1, ', "top1": null'), (3, ', "top1": true'),
        )
    ))
    self.assertEqual(self.reader().find('best'), 2)
    (self.workdir / writer.FILE).write_text(record % (1, ''))
    with self.assertRaisesRegex(CheckpointError, 'of a step that was evalua'):
      self.reader().find('best')

  @parameterized.parameters(
      (None, 'newest'), ('newest', 'newest'), ('best', 'best'), ('12', 12)
  )
  def test_flag(self, value, wanted):
    self.assertEqual(manager.parse_step(value), wanted)

  def test_bad_flag(self):
    with self.assertRaisesRegex(CheckpointError, "--step is 'last': expected"):
      manager.parse_step('last')


class NoRoomTest(CheckpointsTestCase):

  def setUp(self):
    super().setUp()
    # 1 MiB of noise: more than any limit below, however it is compressed.
    noise = np.random.default_rng(0).standard_normal((2**18,), np.float32)
    self.large = {'params': {'fc8': {'kernel': jnp.asarray(noise)}}}

  def assert_saves_again(self, store):
    store.save(3, self.large, {'step': 3})
    state, progress = store.restore(3, self.large)
    self.assertEqual(progress, {'step': 3})
    np.testing.assert_array_equal(
        state['params']['fc8']['kernel'], self.large['params']['fc8']['kernel']
    )

  def test_no_file_may_grow(self):
    """Not root alone has that; the error is another one than a full disk's."""
    self.save(1)
    with (
        faulty.full_disk(200_000),
        self.assertRaisesRegex(
            UnsavedError, 'no room on disk for the checkpoint of step 2 in'
        ),
    ):
      self.store.save(2, self.large, {'step': 2})
    self.assertEqual(self.names(), ['1'])
    self.assert_has(1)
    self.assert_saves_again(self.store)

  def test_full_disk(self):
    disk = self.workdir / 'disk'
    disk.mkdir()
    mount = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=3m', 'none', disk],
        capture_output=True,
    ) if shutil.which('mount') else None
    if mount is None or mount.returncode:
      self.skipTest('this user may not mount a small disk')
    self.addCleanup(subprocess.run, ['umount', '-l', disk], check=True)
    store = manager.Checkpoints(disk, keep=1)
    self.addCleanup(store.close)
    store.save(1, self.large, {'step': 1})
    (disk / 'other').write_bytes(bytes(3 * 2**19))
    before = shutil.disk_usage(disk).free
    # Once by what the disk says it has, once by finding out.
    usage = shutil.disk_usage(disk)
    for free in (usage.free, 2**30):
      with (
          absltest.mock.patch.object(
              shutil, 'disk_usage', return_value=usage._replace(free=free)
          ),
          self.assertRaisesRegex(UnsavedError, 'no room on disk'),
      ):
        store.save(2, self.large, {'step': 2})
    self.assertEqual(shutil.disk_usage(disk).free, before)
    self.assertEqual(manager.complete_steps(disk), [1])
    (disk / 'other').unlink()
    self.assert_saves_again(store)
    self.assertEqual(manager.complete_steps(disk), [3])

  def test_room_is_looked_for_first(self):
    usage = shutil.disk_usage(self.workdir)._replace(free=1000)
    with (
        absltest.mock.patch.object(shutil, 'disk_usage', return_value=usage),
        self.assertRaisesRegex(UnsavedError, 'takes 1 MiB, 0 MiB are free'),
    ):
      self.store.save(1, self.large, {})

  @parameterized.parameters(
      (28, 'no room on disk'), (122, 'no room on disk'), (5, 'Input/output')
  )
  def test_within_orbax(self, number, message):
    error = ValueError('x')
    error.__cause__ = OSError(number, os.strerror(number))
    with (
        absltest.mock.patch.object(
            self.store._manager, 'save', side_effect=error
        ),
        self.assertRaisesRegex(UnsavedError, message),
    ):
      self.save(1)

  def test_other_errors_are_not_hidden(self):
    with (
        absltest.mock.patch.object(
            self.store._manager, 'save', side_effect=ValueError('a bug')
        ),
        self.assertRaisesRegex(ValueError, 'a bug'),
    ):
      self.save(1)



if __name__ == '__main__':
  absltest.main()
