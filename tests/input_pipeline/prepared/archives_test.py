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
from input_pipeline.files import listing
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

  @parameterized.product(suffix=('.tar', '.zip'), sets=(False, True))
  def test_a_loose_image_in_the_leading_folder(self, suffix, sets):
    files = SETS if sets else CLASSES
    packed = below('my/photos', files) | {'my/photos/cover.jpg': jpeg(9)}
    archive = self.write(f'x{suffix}', WRITERS[suffix](packed))
    train, _ = self.open(archive, eval_fraction=0)
    self.assert_has(train, of_set(SETS, 'train') if sets else CLASSES)
    what = 'sets' if sets else 'class folders'
    self.assertEqual(train.ignored.counts, {f'image(s) beside the {what}': 1})

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

  def test_folders_and_devices_are_no_images(self):
    buffer = io.BytesIO(tar(CLASSES))
    with tarfile.open(fileobj=buffer, mode='a') as archive:
      for name, kind in (
          ('ant/dir.jpg', tarfile.DIRTYPE), ('ant/pipe.jpg', tarfile.FIFOTYPE),
          ('ant/device.jpg', tarfile.CHRTYPE),
      ):
        member = tarfile.TarInfo(name)
        member.type = kind
        archive.addfile(member)
    train, _ = self.open(
        self.write('x.tar', buffer.getvalue()), eval_fraction=0
    )
    self.assert_has(train, CLASSES)
    self.assertEqual(train.ignored.counts, {archives._DEVICE: 2})

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


class LinksTest(OriginsTest):
  """A link is what it leads to in the archive, or it is told."""

  def pack(self, suffix, files, links, hard=()):
    """Writes an archive; links: {name: target}."""
    buffer = io.BytesIO(tar(files))
    if suffix == '.zip':
      buffer = io.BytesIO(zipped(files))
      with zipfile.ZipFile(buffer, 'a') as archive:
        for name, target in links.items():
          member = zipfile.ZipInfo(name)
          member.create_system = 3
          member.external_attr = 0o120777 << 16
          archive.writestr(member, target)
      return self.write(f'x{suffix}', buffer.getvalue())
    with tarfile.open(fileobj=buffer, mode='a') as archive:
      for name, target in links.items():
        member = tarfile.TarInfo(name)
        member.type = tarfile.LNKTYPE if name in hard else tarfile.SYMTYPE
        member.linkname = target
        archive.addfile(member)
    data = buffer.getvalue()
    return self.write(
        f'x{suffix}', gzip.compress(data) if suffix == '.tar.gz' else data
    )

  def names(self, suffix, files, links, **options):
    """({path: its file}, what was left out)."""
    train, _ = self.open(
        self.pack(suffix, files, links, **options), eval_fraction=0
    )
    return (
        {path: data for path, (data, _) in self.content(train).items()},
        train.ignored.counts,
    )

  @parameterized.parameters('.tar', '.tar.gz', '.zip')
  def test_files(self, suffix):
    files = members('data/ant/0.jpg', 'data/newt/0.jpg', 'data/newt/1.jpg')
    got, left_out = self.names(suffix, files, {
        'data/ant/same.jpg': '0.jpg',
        'data/ant/other.jpg': '../newt/1.jpg',
        'data/ant/two.jpg': './/other.jpg',
        'data/newt/without_suffix': '0.jpg',
    })
    self.assertEqual(got, {
        'ant/0.jpg': jpeg(0), 'ant/other.jpg': jpeg(2),
        'ant/same.jpg': jpeg(0), 'ant/two.jpg': jpeg(2),
        'newt/0.jpg': jpeg(1), 'newt/1.jpg': jpeg(2),
    })
    self.assertEqual(left_out, {'no suffix': 1})

  def test_content_with_another_name(self):
    """As programs keep files that have their digest for a name."""
    files = members('ant/0.jpg', 'newt/0.jpg') | {'.blobs/0a1b': jpeg(9)}
    got, _ = self.names('.tar', files, {'ant/1.jpg': '../.blobs/0a1b'})
    self.assertEqual(got['ant/1.jpg'], jpeg(9))

  @parameterized.parameters('', './', '/')
  def test_hard_links(self, lead):
    files = members(f'{lead}ant/0.jpg', f'{lead}newt/0.jpg')
    got, left_out = self.names(
        '.tar', files, {f'{lead}newt/1.jpg': f'{lead}ant/0.jpg'},
        hard=[f'{lead}newt/1.jpg'],
    )
    self.assertEqual(got['newt/1.jpg'], jpeg(0))
    self.assertEqual(left_out, {})

  @parameterized.parameters('.tar', '.zip')
  def test_folders(self, suffix):
    """Read for the link where they are of no class or set without it."""
    files = members(
        'train/ant/0.jpg', 'train/newt/0.jpg', 'val/ant/0.jpg',
        'val/newt/0.jpg', 'pool/deep/5.jpg', 'pool/6.jpg',
    )
    source = self.pack(suffix, files, {
        'train/ant/more': '../../pool', 'train/newt/more': '../ant',
    })
    # The pool lies beside the sets and is no set itself.
    self.assert_message('beside them pool', source)
    files['readme.txt'] = b''
    files = {
        path.replace('pool/', '.pool/'): data for path, data in files.items()
    }
    source = self.pack(suffix, files, {
        'train/ant/more': '../../.pool', 'train/newt/more': '../ant',
    })
    train, evaluation = self.open(source)
    self.assertEqual(
        {path: name for path, (_, name) in self.content(train).items()},
        {
            'train/ant/0.jpg': 'ant', 'train/ant/more/6.jpg': 'ant',
            'train/ant/more/deep/5.jpg': 'ant', 'train/newt/0.jpg': 'newt',
        },
    )
    self.assertLen(evaluation, 2)
    self.assertEqual(
        train.ignored.counts['linked image(s) that are read already'], 1
    )

  @parameterized.product(
      suffix=('.tar', '.zip'),
      case=(
          ('a.jpg', '/etc/passwd', archives._OUTSIDE),
          ('a.jpg', '../../outside.jpg', archives._OUTSIDE),
          ('a.jpg', '..', listing.READ_ALREADY),
          ('a.jpg', 'a.jpg', archives._OUTSIDE),
          ('more', '..', listing.READ_ALREADY),
          ('more', '.', listing.READ_ALREADY),
          ('more', 'more/more', archives._OUTSIDE),
          ('more', '../gone', listing.DANGLING),
          ('a.jpg', 'gone.jpg', listing.DANGLING),
          ('a.jpg', 'x' * 2000, archives._OUTSIDE),
      ),
  )
  def test_not_followed(self, suffix, case):
    name, target, kind = case
    files = members('ant/0.jpg', 'newt/0.jpg')
    got, left_out = self.names(suffix, files, {f'ant/{name}': target})
    self.assertEqual(list(got), ['ant/0.jpg', 'newt/0.jpg'])
    self.assertEqual(left_out, {kind: 1})

  def test_circle_of_two(self):
    files = members('ant/0.jpg', 'newt/0.jpg')
    _, left_out = self.names(
        '.tar', files, {'ant/a.jpg': 'b.jpg', 'ant/b.jpg': 'a.jpg'}
    )
    self.assertEqual(left_out, {archives._OUTSIDE: 2})

  def test_in_a_tar_file_within(self):
    inner = io.BytesIO(tar(members('0.jpg')))
    with tarfile.open(fileobj=inner, mode='a') as archive:
      for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE), 1):
        member = tarfile.TarInfo(f'{number}.jpg')
        member.type, member.linkname = kind, '0.jpg'
        archive.addfile(member)
    data = tar({'a.tar': inner.getvalue(), 'b.tar': tar(members('0.jpg'))})
    train, _ = self.open(self.write('x.tar', data), eval_fraction=0)
    self.assertEqual(
        list(self.content(train)), ['a/0.jpg', 'a/1.jpg', 'a/2.jpg', 'b/0.jpg']
    )

  def test_a_folder_of_links_alone_is_read_once(self):
    files = members('ant/0.jpg', 'newt/0.jpg', '.pool/1.jpg')
    got, left_out = self.names(
        '.tar', files, {'ant/a': '../.pool', 'newt/b': '../.pool'}
    )
    self.assertEqual(list(got), ['ant/0.jpg', 'ant/a/1.jpg', 'newt/0.jpg'])
    self.assertEqual(left_out, {
        listing.HIDDEN: 1, 'linked image(s) that are read already': 1
    })

  def test_too_many(self):
    """Each link to a folder has all of its files again."""
    files = members(*(f'{c}/{i}.jpg' for c in 'ab' for i in range(5)))
    links = {f'a/link{i}': '../b' for i in range(10)}
    with absltest.mock.patch.object(archives, 'MAX_LINKED', 49):
      self.assert_message(
          'lead to more than 49 files', self.pack('.tar', files, links)
      )
    train, _ = self.open(self.pack('.tar', files, links), eval_fraction=0)
    self.assertLen(train, 10)


class NamesTest(OriginsTest):

  def zipped(self, files):
    """With names that zipfile would not write: backslashes part folders."""
    data = zipped({path.replace('\\', '|'): b for path, b in files.items()})
    for path in files:
      written = path.replace('\\', '|').encode()
      data = data.replace(written, path.encode())
    return self.write('x.zip', data)

  @parameterized.product(
      lead=('', 'photos\\', 'my photos\\2024\\'), suffix=('.tar', '.zip')
  )
  def test_backslashes(self, lead, suffix):
    files = {
        f'{lead}{path}': data for path, data in {
            'ant\\0.jpg': jpeg(0), 'ant\\deep\\1.jpg': jpeg(1),
            'newt\\0.jpg': jpeg(2), 'newt\\': b'',
        }.items()
    }
    archive = (
        self.zipped(files) if suffix == '.zip'
        else self.write('x.tar', tar(files))
    )
    train, _ = self.open(archive, eval_fraction=0)
    self.assertEqual(
        {path: name for path, (_, name) in self.content(train).items()},
        {'ant/0.jpg': 'ant', 'ant/deep/1.jpg': 'ant', 'newt/0.jpg': 'newt'},
    )

  def test_backslashes_that_lead_outside(self):
    files = {'ant\\0.jpg': jpeg(0), 'newt\\0.jpg': jpeg(2),
             '..\\..\\x.jpg': jpeg(3), 'ant\\..\\..\\y.jpg': jpeg(4)}
    train, _ = self.open(self.zipped(files), eval_fraction=0)
    self.assertEqual(list(self.content(train)), ['ant/0.jpg', 'newt/0.jpg'])
    self.assertEqual(train.ignored.counts, {listing.HIDDEN: 2})

  def test_a_backslash_in_a_name(self):
    """Of Linux, where it parts nothing."""
    files = {'ant/a\\b.jpg': jpeg(0), 'newt/0.jpg': jpeg(1)}
    train, _ = self.open(self.zipped(files), eval_fraction=0)
    self.assertEqual(list(self.content(train)), sorted(files))

  def test_utf8_that_does_not_say_so(self):
    """As macOS and older programs write it."""
    data = zipped({'ant/0.jpg': jpeg(0), 'kaf__/0.jpg': jpeg(1)})
    data = data.replace(b'kaf__', 'kaf\u00e9'.encode())
    train, _ = self.open(self.write('x.zip', data), eval_fraction=0)
    self.assertEqual(train.class_names, ('ant', 'kaf\u00e9'))
    # As DOS has it.
    data = data.replace('kaf\u00e9'.encode(), b'kafe\x82')
    train, _ = self.open(self.write('x.zip', data), eval_fraction=0)
    self.assertEqual(train.class_names, ('ant', 'kafe\u00e9'))


class SystemFoldersTest(OriginsTest):

  @parameterized.product(
      suffix=('.tar', '.zip'),
      name=('__MACOSX', '@eaDir', '$RECYCLE.BIN', '#recycle', '.git',
            'System Volume Information', 'lost+found', '.ipynb_checkpoints'),
  )
  def test_are_no_classes(self, suffix, name):
    files = CLASSES | members(f'{name}/0.jpg', f'ant/{name}/0.jpg', first=70)
    files |= {'ant/Thumbs.db': b'', 'desktop.ini': b''}
    train, _ = self.open(
        self.write(f'x{suffix}', WRITERS[suffix](files)), eval_fraction=0
    )
    self.assert_has(train, CLASSES)
    self.assertEqual(train.ignored.counts, {listing.HIDDEN: 4})

  @parameterized.parameters('.tar', '.zip')
  def test_leave_an_archive_its_leading_folder(self, suffix):
    files = below('photos', CLASSES) | {'__MACOSX/photos/._x.jpg': b''}
    train, _ = self.open(
        self.write(f'x{suffix}', WRITERS[suffix](files)), eval_fraction=0
    )
    self.assert_has(train, CLASSES)

  @parameterized.parameters('.tar', '.zip')
  def test_what_else_is_told(self, suffix):
    files = SETS | members('train/9.jpg', '9.jpg', 'test/8.jpg', first=70)
    files |= {'train/ant/a.pdf': b''}
    train, evaluation = self.open(
        self.write(f'x{suffix}', WRITERS[suffix](files))
    )
    self.assertEqual(train.ignored.counts, {
        '.pdf': 1, 'image(s) beside the sets': 1,
        'image(s) beside the class folders': 1, 'folder(s) beside the sets': 1,
    })
    self.assertFalse(evaluation.ignored)


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
