"""Images in tar and zip files, read in any order without unpacking them."""

import bz2
import collections
import errno
import gzip
import lzma
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from input_pipeline.errors import NO_ROOM, DataError, ImageError, printable
from input_pipeline.files import atomic, decoding
from input_pipeline.sources import Entry, Files, digest, is_image, other_suffix

_COMPRESSED = {
    '.gz': gzip, '.tgz': gzip, '.bz2': bz2, '.tbz2': bz2, '.xz': lzma,
    '.txz': lzma,
}

# Of zip files. LZMA's decoder takes the memory that a member says, up to 4 GB,
# and zipfile decompresses 4 kB at once, of which bzip2 can make 4 GB.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What damaged archives raise, by their kind.
_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError,
    OverflowError, ValueError, zlib.error,
)
_ERRORS = (
    tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, EOFError,
    IndexError, MemoryError, OverflowError, RecursionError, NotImplementedError,
    ValueError, lzma.LZMAError, zlib.error,
)
# Bytes that LZMA may take; `xz -9` makes files that want 65 MiB.
_LZMA_MEMORY = 2**28
# Bytes that are asked for at a time.
_PIECE = 2**16
_COPIED = 2**22
# A tar file of images is compressed by next to nothing; one of tiny images, by
# the zeros that tar puts between them.
LARGEST_RATIO = 100
_SMALLEST_LIMIT = 2**26
# Bytes of the long names and attributes of one member of a tar file, and of
# those for all members together. tarfile has them in memory several times.
MAX_EXTENSIONS = 2**20
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
    tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)


class Archive(Files):
  """Files of a tar or zip file."""

  def fingerprint(self):
    stat = self.root.stat()
    return digest(
        self.identity(), str(self.root), str(stat.st_size),
        str(stat.st_mtime_ns)
    )


class Tar(Archive):
  """Files of an uncompressed tar file, and of tar files in it."""

  def __init__(self, root, class_names, entries):
    super().__init__(root, class_names, entries)
    self._file = open(root, 'rb')

  def _bytes(self, entry):
    start, size = entry.place
    decoding.check_bytes(size, str(self.root / entry.path))
    # Threads share the file; this read has no position of its own.
    data = os.pread(self._file.fileno(), size, start)
    if len(data) < size:
      name = str(self.root / entry.path)
      raise ImageError(name, 'the archive ends before it')
    return data


class Zip(Archive):
  """Files of a zip file."""

  def __init__(self, root, class_names, entries):
    super().__init__(root, class_names, entries)
    self._file = zipfile.ZipFile(root)

  def _bytes(self, entry):
    name = str(self.root / entry.path)
    decoding.check_bytes(entry.place.file_size, name)
    if entry.place.compress_type not in _METHODS:
      raise ImageError(
          name,
          'its compression is not read here: wanted deflate, or none',
      )
    try:
      with self._file.open(entry.place) as member:
        # What is asked for is decompressed at once, whatever size the archive
        # says it has.
        return b''.join(iter(lambda: member.read(_PIECE), b''))
    except _ZIP_ERRORS as error:
      if getattr(error, 'errno', None) not in (None, errno.EINVAL):
        raise  # Not of the archive: of the disk that it lies on.
      reason = str(error) or type(error).__name__
      raise ImageError(name, reason) from error


def is_archive(path: pathlib.Path) -> bool:
  """Whether a file is a tar or zip file by its name, compressed or not."""
  return path.name.lower().endswith(('.tar', '.zip', *_COMPRESSED))


def open_archive(path: pathlib.Path, scratch: pathlib.Path) -> Archive:
  """Lists the images of an archive; their labels are still 0.

  A tar file in a tar file is taken for a folder of its name, as in ImageNet's
  training archive. Nothing is ever written under a name of the archive's: names
  say the class and are shown, and those with a part that begins with a dot,
  `..` among them, are left out, as are links and devices.

  Args:
    path: a tar file (.tar, or compressed by gzip, bzip2 or xz) or a zip file.
    scratch: where a compressed tar file, which cannot be read in any order, is
      decompressed to.

  Raises:
    DataError: it cannot be read, has a name twice, or decompresses to more than
      LARGEST_RATIO times its size.
  """
  try:
    if path.name.lower().endswith('.zip'):
      return _open(Zip, path, _zip_members(path))
    suffix = path.suffix.lower()
    if suffix in _COMPRESSED:
      plain = _decompress(path, _COMPRESSED[suffix], scratch)
    else:
      plain = path
    source = _open(Tar, plain, _tar_members(plain))
  except _ERRORS as error:
    raise DataError(
        f'cannot read the archive {printable(str(path))} '
        f'({type(error).__name__}: {error}): get it again'
    ) from error
  except OSError as error:
    if error.errno in NO_ROOM:
      raise
    raise DataError(
        f'cannot read the archive {printable(str(path))} ({error}): check that '
        'it is there, complete and readable'
    ) from error
  source.root = path
  source.name = printable(str(path))
  return source


def _open(make, path, members):
  entries, ignored, seen = [], collections.Counter(), set()
  for name, place in sorted(members, key=lambda member: member[0]):
    parts = [part for part in name.split('/') if part not in ('', '.')]
    # What macOS adds to archives lies in __MACOSX or begins with a dot.
    hidden = any(part[0] == '.' or part == '__MACOSX' for part in parts)
    if not parts or hidden:
      continue
    if is_image(parts[-1]):
      name = '/'.join(parts)
      if name in seen:
        raise DataError(
            f'{printable(str(path))} has {printable(name)} twice, and which of '
            'the two is meant is not clear: pack it again'
        )
      seen.add(name)
      entries.append(Entry(name, 0, place))
    else:
      ignored[other_suffix(parts[-1])] += 1
  source = make(path, (), entries)
  source.ignored = ignored
  return source


def _zip_members(path):
  with zipfile.ZipFile(path) as archive:
    for member in archive.infolist():
      if not member.is_dir():
        yield member.filename, member


def _tar_members(path):
  with _TarFile.open(path, 'r:') as archive:
    for member in _files(archive):
      if member.name.endswith('.tar'):
        folder = member.name.removesuffix('.tar')
        inner_file = archive.extractfile(member)
        with _TarFile.open(fileobj=inner_file, mode='r:') as inner:
          for image in _files(inner):
            start = member.offset_data + image.offset_data
            yield f'{folder}/{image.name}', (start, image.size)
      else:
        yield member.name, (member.offset_data, member.size)


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
  place = -1
  while (member := archive.next()) is not None:
    archive.members.clear()  # It keeps all that it has seen.
    if member.size < 0 or archive.offset <= place:
      raise tarfile.ReadError(f'{member.size} bytes at byte {place:,}')
    place = archive.offset
    if member.issparse():
      raise _sparse(member)
    if member.isfile():
      yield member
  # It takes a header that is damaged or cut off for the end, which is zeros.
  archive.fileobj.seek(archive.offset)
  if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
    raise tarfile.ReadError(
        f'neither a file nor the end of all at byte {archive.offset:,}'
    )


class _Member(tarfile.TarInfo):
  """Refuses what tarfile would read into memory as a whole, of any size."""

  def _proc_member(self, archive):
    """Called for each header, with the file at what follows it."""
    if self.type == tarfile.GNUTYPE_SPARSE:
      raise _sparse(self)
    if self.type not in _EXTENSIONS:
      archive.extensions = archive.lasting_extensions
      return super()._proc_member(archive)
    # Of several in a row each is kept until the last has been read.
    archive.extensions += self.size
    if self.type == tarfile.XGLTYPE:
      archive.lasting_extensions += self.size
    if self.size < 0 or archive.extensions > MAX_EXTENSIONS:
      raise tarfile.ReadError(
          f'a name or attributes of {archive.extensions:,} bytes at byte '
          f'{self.offset:,}, wanted at most {MAX_EXTENSIONS:,}'
      )
    return super()._proc_member(archive)

  def _proc_gnusparse_10(self, member, pax_headers, archive):
    """Called to read a list of holes from the data."""
    raise _sparse(member)


class _TarFile(tarfile.TarFile):
  """With the bytes that `_Member` has counted."""

  tarinfo = _Member
  extensions = 0  # Of the member that is being read.
  lasting_extensions = 0  # Of all members.


def _sparse(member):
  # Its bytes are not in one piece, and no image has holes.
  return tarfile.ReadError(f'{printable(member.name)} is a sparse file')


class _Xz:
  """An xz file, as `lzma.open` reads it, in bounded memory."""

  def __init__(self, path):
    self._file = open(path, 'rb')
    self._decompressor = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()

  def read(self, count):
    while True:
      data = b''
      if self._decompressor is None or self._decompressor.needs_input:
        data = self._file.read(2**16)
        if not data:
          if self._decompressor is not None:
            raise EOFError('it ends before its end marker')
          return b''
      if self._decompressor is None:
        self._decompressor = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
      piece = self._decompressor.decompress(data, count)
      if self._decompressor.eof:  # Another file may follow.
        rest = self._decompressor.unused_data
        self._file.seek(-len(rest), 1)
        self._decompressor = None
      if piece:
        return piece


def _decompress(path, module, scratch):
  scratch.mkdir(parents=True, exist_ok=True)
  stat = path.stat()
  key = digest(str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns))
  plain = scratch / f'{key}.tar'
  limit = max(_SMALLEST_LIMIT, LARGEST_RATIO * stat.st_size)

  def copy(target):
    while piece := source.read(_COPIED):
      target.write(piece)
      if target.tell() > limit:
        raise tarfile.ReadError(
            f'{stat.st_size:,} bytes that decompress to more than {limit:,}'
        )

  if not plain.exists():
    with _Xz(path) if module is lzma else module.open(path) as source:
      atomic.write(plain, copy, scratch)
  return plain
