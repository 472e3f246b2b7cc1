"""Images in tar and zip files, whole and broken, found again byte by byte."""

import gzip
import io
import pathlib
import shutil
import tarfile
import threading
import zipfile

import numpy as np
from absl.testing import absltest, parameterized

from input_pipeline.errors import ImageError
from input_pipeline.prepared import archives
from tests import preparing
from tests.packing import (
  CLASSES,
  JUNK,
  SETS,
  WRITERS,
  OriginsTest,
  below,
  jpeg,
  members,
  of_set,
  tar,
  zipped,
)


class ArchiveTest(OriginsTest):

  @parameterized.product(
      suffix=tuple(WRITERS), lead=('', './', 'a/', './a/b/', '/a/')
  )
  def test_classes(self, suffix, lead):
    files = {f'{lead}{path}': data for path, data in (CLASSES | JUNK).items()}
    archive = self.write(f'x{suffix}', WRITERS[suffix](files))
    train, evaluation = self.open(archive, eval_fraction=0)
    # Leading folders are of no interest.
    self.assert_has(train, CLASSES)
    self.assertIsNone(evaluation)
    self.assertEqual(train.describe(0), f'{archive}/ant/0.jpg')

  @parameterized.product(suffix=tuple(WRITERS), lead=('', 'photos/'))
  def test_sets(self, suffix, lead):
    files = {f'{lead}{path}': data for path, data in SETS.items()}
    archive = self.write(f'x{suffix}', WRITERS[suffix](files))
    train, evaluation = self.open(archive)
    self.assert_has(train, of_set(SETS, 'train'))
    self.assert_has(
        evaluation, of_set(SETS, 'val'), ('ant', 'newt', 'yak')
    )

  def test_folders_in_class_folders(self):
    files = members('ant/deep/er/0.jpg', 'ant/0.jpg', 'newt/x/1.jpg')
    train, _ = self.open(
        self.write('x.tar', tar(files)), eval_fraction=0
    )
    self.assertEqual(
        {path: name for path, (_, name) in self.content(train).items()},
        {'ant/deep/er/0.jpg': 'ant', 'ant/0.jpg': 'ant', 'newt/x/1.jpg': 'newt'}
    )

  def test_only_a_training_set(self):
    files = members(*(f'train/{c}/{i}.jpg' for c in 'ab' for i in range(10)))
    train, evaluation = self.open(self.write('x.tar', tar(files)))
    self.assertEqual((len(train), len(evaluation)), (18, 2))
    self.assertEqual(train.class_names, ('a', 'b'))

  def test_eval_source(self):
    held_out = members('val/yak/8.jpg', 'val/ant/9.jpg')
    train, evaluation = self.open(
        self.write('x.tar', tar(CLASSES)),
        eval_source=self.write('val.zip', zipped(held_out)),
    )
    self.assert_has(train, CLASSES)
    self.assert_has(
        evaluation, members('yak/8.jpg', 'ant/9.jpg'), ('ant', 'newt', 'yak')
    )

  @parameterized.parameters(
      tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
  )
  def test_formats_of_tar(self, kind):
    long = 'x' * 90
    files = members(f'ant/{long}/0.jpg', 'newt/0.jpg')
    if kind != tarfile.USTAR_FORMAT:
      files |= members(f'ant/{long}/{long}/é.jpg', first=9)
    data = tar(files, format=kind)
    train, _ = self.open(self.write('x.tar', data), eval_fraction=0)
    self.assertEqual(
        {path: data for path, (data, _) in self.content(train).items()}, files
    )

  def test_folders_links_and_devices_are_no_images(self):
    buffer = io.BytesIO(tar(CLASSES))
    with tarfile.open(fileobj=buffer, mode='a') as archive:
      for name, kind in (
          ('ant/dir.jpg', tarfile.DIRTYPE), ('ant/link.jpg', tarfile.SYMTYPE),
          ('ant/pipe.jpg', tarfile.FIFOTYPE),
      ):
        member = tarfile.TarInfo(name)
        member.type = kind
        member.linkname = '0.jpg'
        archive.addfile(member)
    train, _ = self.open(
        self.write('x.tar', buffer.getvalue()), eval_fraction=0
    )
    self.assert_has(train, CLASSES)

  def test_folders_of_zip(self):
    with zipfile.ZipFile(self.root / 'x.zip', 'w') as archive:
      for name in ('photos/', 'photos/ant/', 'photos/ant/dir.jpg/'):
        archive.writestr(name, '')
      for path, data in CLASSES.items():
        archive.writestr(f'photos/{path}', data)
    train, _ = self.open('x.zip', eval_fraction=0)
    self.assert_has(train, CLASSES)

  @parameterized.parameters('.tar', '.zip', '.tar.gz')
  def test_names(self, suffix):
    """Of any language, and in a tar file bytes that are no text."""
    paths = ['ant/été 日本.jpg', 'ant/new\nline.jpg', 'newt/ta\tb.jpg']
    if suffix != '.zip':
      paths.append('newt/by\udcffte.jpg')
    files = members(*paths)
    archive = self.write(f'x{suffix}', WRITERS[suffix](files))
    train, _ = self.open(archive, eval_fraction=0)
    self.assert_has(train, files)
    self.prepare(archive, '--eval_fraction=0')
    shown = [r'ant/new\nline.jpg', 'ant/été 日本.jpg']
    shown += [r'newt/by\udcffte.jpg'] * (suffix != '.zip')
    shown.append(r'newt/ta\tb.jpg')
    self.assertEqual(preparing.load(self.out).names, shown)

  @parameterized.parameters('.tar', '.zip', '.Zip')
  def test_read_by_threads(self, suffix):
    files = members(*(f'{c}/{i:03d}.jpg' for c in 'ab' for i in range(50)))
    train, _ = self.open(
        self.write(f'x{suffix}', WRITERS[suffix](files)), eval_fraction=0
    )
    wrong = []

    def read(seed):
      for index in np.random.default_rng(seed).permutation(100).tolist():
        if train.read(index)[0] != jpeg(index):
          wrong.append(index)

    threads = [threading.Thread(target=read, args=[i]) for i in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    self.assertEmpty(wrong)

  @parameterized.parameters(*WRITERS)
  def test_prepared_like_the_folder(self, suffix):
    files = {
        f'{path.parent.name}/{path.name}': path.read_bytes()
        for path in preparing.write_photos(self.root / 'photos', 4).rglob(
            '*.jpg'
        )
    }
    self.prepare(self.write('in', files), out=self.root / 'expected')
    archive = self.write(f'x{suffix}', WRITERS[suffix](below('photos', files)))
    self.prepare(archive)
    # Nothing decompressed is left.
    actual, expected = map(
        preparing.snapshot, (self.out, self.root / 'expected')
    )
    self.assertCountEqual(actual, expected)
    for name in ('manifest.json', 'train.txt', 'evaluation.txt'):
      del actual[name], expected[name]
    self.assertEqual(actual, expected)

  def test_compressed_is_decompressed_once(self):
    archive = self.write('x.tar.gz', WRITERS['.tar.gz'](CLASSES))
    self.open(archive, eval_fraction=0)
    scratch = self.root / 'scratch'
    plain, = scratch.iterdir()
    self.assertEqual(plain.read_bytes(), tar(CLASSES))
    before = plain.stat().st_mtime_ns
    train, _ = self.open(archive, eval_fraction=0)
    self.assert_has(train, CLASSES)
    self.assertEqual(list(scratch.iterdir()), [plain])
    self.assertEqual(plain.stat().st_mtime_ns, before)
    # Another archive in its place is another one.
    files = members('ant/5.jpg', 'newt/5.jpg', first=70)
    archive.write_bytes(WRITERS['.tar.gz'](files))
    train, _ = self.open(archive, eval_fraction=0)
    self.assert_has(train, files)

  def test_not_decompressed_into_a_folder_of_something_else(self):
    archive = self.write('x.tar.gz', WRITERS['.tar.gz'](CLASSES))
    self.write('out/precious.txt', b'')
    before = preparing.snapshot(self.out)
    self.assert_refused('is not empty', f'--source={archive}')
    self.assertEqual(preparing.snapshot(self.out), before)

  def test_no_room_to_decompress(self):
    files = members('ant/0.jpg', 'newt/0.jpg') | {'zeros': bytes(3_000_000)}
    archive = self.write('x.tar.gz', gzip.compress(tar(files)))
    self.assert_refused(
        rf'no room in {self.out} \(File too large\): .*same command again',
        f'--source={archive}', limit=1_000_000,
    )
    # What could not be completed takes no room either.
    self.assertEqual(preparing.snapshot(self.out), {'unfinished': None})
    self.prepare(archive, '--eval_fraction=0')

  def test_fingerprint(self):
    path = self.write('x.zip', zipped(CLASSES))
    first, _ = self.open(path, eval_fraction=0)
    again, _ = self.open(path, eval_fraction=0)
    first_print = first.fingerprint()
    self.assertEqual(again.fingerprint(), first_print)
    self.write('x.zip', zipped(CLASSES | members('yak/9.jpg')))
    other, _ = self.open(path, eval_fraction=0)
    before = other.fingerprint()
    self.assertNotEqual(first_print, before)
    self.assertNotEqual(first.identity(), other.identity())
    # A copy is another file with the same images.
    shutil.move(path, self.root / 'copy.zip')
    copy, _ = self.open('copy.zip', eval_fraction=0)
    self.assertNotEqual(copy.fingerprint(), before)
    self.assertEqual(copy.identity(), other.identity())


class BrokenArchiveTest(OriginsTest):

  @parameterized.parameters(*WRITERS)
  def test_garbage(self, suffix):
    archive = self.write(f'x{suffix}', b'garbage' * 300)
    self.assert_message(f'cannot read the archive {archive} ', archive)

  @parameterized.parameters(*WRITERS)
  def test_empty_file(self, suffix):
    archive = self.write(f'x{suffix}', b'')
    self.assert_message(f'cannot read the archive {archive} ', archive)

  @parameterized.product(suffix=tuple(WRITERS), share=(0.3, 0.5, 0.8))
  def test_truncated(self, suffix, share):
    files = members(*(f'{c}/{i}.jpg' for c in 'ab' for i in range(20)))
    data = WRITERS[suffix](files)
    archive = self.write(f'x{suffix}', data[: int(share * len(data))])
    self.assert_message(f'cannot read the archive {archive} .*again', archive)

  @parameterized.parameters(0, 100, 511)
  def test_truncated_in_a_header(self, kept):
    """What follows it would be missed silently."""
    files = members(*(f'{c}/{i}.jpg' for c in 'ab' for i in range(20)))
    data = tar(files)
    header = data.index(b'b/7.jpg')
    archive = self.write('x.tar', data[:header] + data[header:][:kept])
    self.assert_message(
        f'neither a file nor the end of all at byte {header:,}', archive
    )

  @parameterized.parameters(False, True)
  def test_damaged_header(self, nested):
    files = members(*(f'{c}/{i}.jpg' for c in 'ab' for i in range(20)))
    data = bytearray(tar(files))
    header = data.index(b'b/7.jpg')
    data[header + 150] ^= 1  # In the checksum.
    data = bytes(data)
    if nested:
      data = tar({'n1.tar': data, 'n2.tar': tar(members('0.jpg'))})
    archive = self.write('x.tar', data)
    self.assert_message(
        f'neither a file nor the end of all at byte {header:,}', archive
    )

  def test_truncated_after_it_was_opened(self):
    archive = self.write('x.tar', tar(CLASSES))
    train, _ = self.open(archive, eval_fraction=0)
    with open(archive, 'r+b') as f:
      f.truncate(1000)
    with self.assertRaisesRegex(ImageError, 'the archive ends before it'):
      train.read(3)

  def test_garbage_within_a_tar_file(self):
    data = tar({'n1.tar': b'garbage' * 300, 'n2.tar': tar(members('0.jpg'))})
    archive = self.write('x.tar', data)
    self.assert_message(f'cannot read the archive {archive} ', archive)

  def test_tar_in_zips_clothing(self):
    self.assert_message(
        'cannot read the archive', self.write('x.zip', tar(CLASSES))
    )

  def test_gzipped_file_that_is_no_tar(self):
    archive = self.write('x.tgz', gzip.compress(b'garbage' * 300))
    self.assert_message('cannot read the archive', archive)

  def assert_rejected(self, archive, reason):
    self.prepare(archive, '--eval_fraction=0')
    self.assertRegex(
        (self.out / 'rejected.txt').read_text(),
        rf'^{archive}/newt/1.jpg\t{reason}.*\n$',
    )
    self.assertEqual(
        preparing.load(self.out).names,
        ['ant/0.jpg', 'ant/1.jpg', 'newt/0.jpg'],
    )

  def damaged_zip(self, compression, damage):
    files = members('ant/0.jpg', 'ant/1.jpg', 'newt/0.jpg', 'newt/1.jpg')
    data = bytearray(zipped(files, compression))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      header = archive.getinfo('newt/1.jpg').header_offset
    # 30 bytes, the name, the file.
    damage(data, header, header + 30 + len('newt/1.jpg'))
    return self.write('x.zip', bytes(data))

  def test_bad_crc(self):
    def damage(data, header, start):
      del header
      data[start + 200] ^= 1

    archive = self.damaged_zip(zipfile.ZIP_STORED, damage)
    self.assert_rejected(archive, 'Bad CRC-32')

  def test_bad_compressed_data(self):
    def damage(data, header, start):
      del header
      data[start + 10 : start + 200] = b'\xff' * 190

    self.assert_rejected(self.damaged_zip(zipfile.ZIP_DEFLATED, damage), r'\w')

  def test_encrypted(self):
    def damage(data, header, start):
      del start
      data[header + 6] |= 1
      # In the list of files, too; the last entry of which it is.
      data[data.rindex(b'PK\x01\x02') + 8] |= 1

    archive = self.damaged_zip(zipfile.ZIP_STORED, damage)
    self.assert_rejected(archive, '.*encrypted')

  def test_unknown_compression(self):
    def damage(data, header, start):
      del start
      data[header + 8] = 97
      data[data.rindex(b'PK\x01\x02') + 10] = 97

    archive = self.damaged_zip(zipfile.ZIP_STORED, damage)
    self.assert_rejected(archive, '.*compression')

  def test_strict(self):
    def damage(data, header, start):
      del header
      data[start + 200] ^= 1

    archive = self.damaged_zip(zipfile.ZIP_STORED, damage)
    self.assert_refused(
        f'cannot use {archive}/newt/1.jpg .Bad CRC-32', f'--source={archive}',
        '--eval_fraction=0', '--strict',
    )


class IsArchiveTest(parameterized.TestCase):

  @parameterized.parameters(
      ('a.tar', True), ('a.zip', True), ('A.TAR.GZ', True), ('a.tgz', True),
      ('a.tar.bz2', True), ('a.tar.xz', True), ('a.jpg', False),
      ('tar', False), ('a.tarx', False), ('zip.txt', False),
  )
  def test_by_name(self, name, expected):
    self.assertEqual(archives.is_archive(pathlib.Path(name)), expected)


if __name__ == '__main__':
  absltest.main()
