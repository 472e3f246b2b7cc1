"""Reads images in tar and zip files in any order, without unpacking them."""

import bisect
import bz2
import contextlib
import errno
import gzip
import lzma
import os
import pathlib
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from input_pipeline.errors import NO_ROOM, DataError, ImageError, printable
from input_pipeline.files import atomic, listing
from input_pipeline.images import decoding
from input_pipeline.sources import Entry, Files, digest, is_image

_COMPRESSED = {
    '.gz': gzip, '.tgz': gzip, '.bz2': bz2, '.tbz2': bz2, '.xz': lzma,
    '.txz': lzma,
}

# Compressions of zip files. LZMA's decoder allocates what a member declares, up
# to 4 GB; zipfile decompresses 4 kB at once, of which bzip2 can make 4 GB.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Flag of a member whose name is UTF-8.
_ZIP_UTF8 = 0x800
# Errors raised for damaged archives, by kind.
_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError,
    OverflowError, ValueError, zlib.error,
)
_ERRORS = (
    tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, EOFError,
    IndexError, MemoryError, OverflowError, RecursionError, NotImplementedError,
    ValueError, lzma.LZMAError, zlib.error,
)
# Bytes of memory for LZMA; files of `xz -9` need 65 MiB.
_LZMA_MEMORY = 2**28
# Bytes read at a time.
_PIECE = 2**16
_COPIED = 2**22
# Tar files of images hardly compress. Those of tiny images do, by the zeros
# between members.
LARGEST_RATIO = 100
_SMALLEST_LIMIT = 2**26
# Most bytes of long names and attributes, for one member of a tar file and for
# all together. tarfile keeps several copies in memory.
MAX_EXTENSIONS = 2**20
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
    tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)
# Characters of a link's target, links in a chain, and files that links to
# folders may add.
_LONGEST_LINK = 1024
_MOST_HOPS = 8
MAX_LINKED = 2**20

_OUTSIDE = 'link(s) that lead out of the archive, or to themselves'
_DEVICE = 'device(s) and the like'


class _Listed(NamedTuple):
  """A member of an archive.

  Attributes:
    name: its path.
    place: its position; None for a link or a device.
    target: path of a link's target; None for a file or a device.
    linked: see `Entry`.
  """

  name: str
  place: Any = None
  target: str | None = None
  linked: bool = False


class Archive(Files):
  """Files of a tar or zip file."""

  def fingerprint(self):
    stat = self.root.stat()
    return digest(
        self.identity(), str(self.root), str(stat.st_size),
        str(stat.st_mtime_ns)
    )


class Tar(Archive):
  """Files of an uncompressed tar file, and of tar files within it."""

  def __init__(self, root, class_names, entries):
    super().__init__(root, class_names, entries)
    self._file = open(root, 'rb')

  def _bytes(self, entry, most=None):
    start, size = entry.place
    decoding.check_bytes(size, str(self.root / entry.path))
    size = min(size, most or size)
    # Threads share the file; pread does not use its position.
    data = os.pread(self._file.fileno(), size, start)
    if len(data) < size:
      name = str(self.root / entry.path)
      raise ImageError(name, 'the archive ends before it')
    return data

  def file_sizes(self):
    return [entry.place[1] for entry in self.entries]


class Zip(Archive):
  """Files of a zip file."""

  def __init__(self, root, class_names, entries):
    super().__init__(root, class_names, entries)
    self._file = zipfile.ZipFile(root)

  def _bytes(self, entry, most=None):
    name = str(self.root / entry.path)
    decoding.check_bytes(entry.place.file_size, name)
    if entry.place.compress_type not in _METHODS:
      raise ImageError(
          name,
          'its compression is not read here: expected deflate, or none',
      )
    try:
      with self._file.open(entry.place) as member:
        # Decompresses only as much as requested, whatever size is declared.
        if most is not None:
          return member.read(most)
        return b''.join(iter(lambda: member.read(_PIECE), b''))
    except _ZIP_ERRORS as error:
      if getattr(error, 'errno', None) not in (None, errno.EINVAL):
        raise  # An error of the disk, not of the archive.
      reason = str(error) or type(error).__name__
      raise ImageError(name, reason) from error

  def file_sizes(self):
    return [entry.place.file_size for entry in self.entries]


def is_archive(path: pathlib.Path) -> bool:
  """Returns whether a file's name is that of a tar or zip file."""
  return path.name.lower().endswith(('.tar', '.zip', *_COMPRESSED))


def open_archive(path: pathlib.Path, scratch: pathlib.Path) -> Archive:
  """Lists the images of an archive; their labels are 0.

  A tar file within a tar file counts as a folder of its name, as in ImageNet's
  training archive. No file is ever written under an archive's names, which only
  give classes and are shown. Names with a part that begins with a dot,
  including `..`, are left out, as are devices. Links within the archive are
  followed; others are left out.

  Args:
    path: a tar file (.tar, or compressed by gzip, bzip2 or xz) or a zip file.
    scratch: folder for decompressing a tar file, which cannot be read in any
      order otherwise.

  Raises:
    DataError: the archive cannot be read, has a name twice, or decompresses to
      more than LARGEST_RATIO times its size.
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
  entries, ignored, seen = [], listing.LeftOut(), set()
  files = _follow([*members], ignored)
  for member in sorted(files, key=lambda member: member.name):
    parts = _parts(member.name)
    if not parts:
      continue
    name = '/'.join(parts)
    if any(map(listing.is_system, parts)):
      ignored.add(listing.HIDDEN, name)
    elif not is_image(parts[-1]):
      ignored.add(listing.suffix(parts[-1]), name)
    elif name in seen:
      raise DataError(
          f'{printable(str(path))} has {printable(name)} twice, and which of '
          'the two is meant is not clear: pack it again'
      )
    else:
      seen.add(name)
      entries.append(Entry(name, 0, member.place, member.linked))
  source = make(path, (), entries)
  source.ignored = ignored
  return source


def _parts(name):
  return [part for part in name.split('/') if part not in ('', '.')]


def _follow(members, ignored):
  """Files of an archive, including those that links lead to."""
  found = [member for member in members if member.place is not None]
  links = {}
  for member in members:
    if member.target is not None:
      links[_plain(member.name)] = member.target
    elif member.place is None:
      ignored.add(_DEVICE, _plain(member.name))
  if not links:
    return found
  places = {_plain(member.name): member.place for member in found}
  folders = {}
  for name in sorted(links):
    target = _target(links[name], links)
    if target is None:
      ignored.add(_OUTSIDE, name)
    elif target in places:
      found.append(_Listed(name, places[target]))
    else:
      folders[name] = target
  places = {_plain(member.name): member.place for member in found}
  names, linked = sorted(places), 0
  for name, target in folders.items():
    below = f'{target}/' if target else ''
    # Names from "folder/" to before "folder0": "0" follows "/" in ASCII.
    first = bisect.bisect_left(names, below)
    last = bisect.bisect_left(names, f'{target}0') if below else len(names)
    if first == last:
      ignored.add(listing.DANGLING, name)
    elif name.startswith(below):
      ignored.add(listing.READ_ALREADY, name)
    else:
      linked += last - first
      if linked > MAX_LINKED:
        raise tarfile.ReadError(
            f'links to folders in it lead to more than {MAX_LINKED:,} files'
        )
      found += [
          _Listed(
              f'{name}/{file.removeprefix(below)}', places[file], linked=True
          )
          for file in names[first:last]
      ]
  return found


def _plain(name):
  return '/'.join(_parts(name))


def _target(path, links):
  """Path of a link's target, through other links; None if it is outside.

  Args:
    path: path of the link's target.
    links: {path: path of the target} of all links.
  """
  for _ in range(_MOST_HOPS):
    if len(path) > _LONGEST_LINK:
      return None
    path = posixpath.normpath(path)
    if path.startswith(('/', '../')) or path == '..':
      return None
    parts = _parts(path)
    for count in range(1, len(parts) + 1):
      if (way := '/'.join(parts[:count])) in links:
        path = '/'.join((links[way], *parts[count:]))
        break
    else:
      return '/'.join(parts)
  return None


def _zip_members(path):
  with zipfile.ZipFile(path) as archive:
    for member in archive.infolist():
      name = _zip_name(member)
      if not name:
        raise zipfile.BadZipFile('it has a file without a name')
      if name.endswith('/'):
        continue
      if stat.S_ISLNK(member.external_attr >> 16):
        yield _Listed(name, None, _from(name, _zip_link(archive, member)))
      else:
        yield _Listed(name, member)


def _zip_link(archive, member):
  """Target of a link; '/', which is outside, if it cannot be read."""
  if member.compress_type not in _METHODS:
    return '/'
  try:
    with archive.open(member) as link:
      path = link.read(_LONGEST_LINK + 1)
  except _ZIP_ERRORS:
    return '/'
  return path.decode('utf-8', 'surrogateescape')


def _zip_name(member):
  name = member.filename
  # Some programs write UTF-8 without the flag.
  if not member.flag_bits & _ZIP_UTF8:
    with contextlib.suppress(UnicodeError):
      name = name.encode('cp437').decode('utf-8')
  return _slashed(name)


def _slashed(name):
  """Replaces backslashes written by old Windows programs."""
  return name if '/' in name else name.replace('\\', '/')


def _from(name, target):
  """Returns the path of a link's target, from the root of the archive."""
  return posixpath.join(posixpath.dirname(_plain(name)), target)


def _tar_members(path):
  with _TarFile.open(path, 'r:') as archive:
    for member in _files(archive):
      if member.isreg() and member.name.endswith('.tar'):
        folder = member.name.removesuffix('.tar')
        inner_file = archive.extractfile(member)
        with _TarFile.open(fileobj=inner_file, mode='r:') as inner:
          for image in _files(inner):
            yield _tar_member(image, f'{folder}/', member.offset_data)
      else:
        yield _tar_member(member)


def _tar_member(member, prefix='', start=0):
  name = f'{prefix}{_slashed(member.name)}'
  if member.isreg():
    return _Listed(name, (start + member.offset_data, member.size))
  if member.issym():
    return _Listed(name, None, _from(name, member.linkname))
  if member.islnk():  # Its target starts at the root.
    return _Listed(name, None, f'{prefix}{_plain(_slashed(member.linkname))}')
  return _Listed(name)


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
  place = -1
  while (member := archive.next()) is not None:
    archive.members.clear()  # tarfile keeps all members otherwise.
    if member.size < 0 or archive.offset <= place:
      raise tarfile.ReadError(f'{member.size} bytes at byte {place:,}')
    place = archive.offset
    if member.issparse():
      raise _sparse(member)
    if not member.isdir():
      yield member
  # tarfile takes a damaged header for the end, which is zeros.
  archive.fileobj.seek(archive.offset)
  if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
    raise tarfile.ReadError(
        f'neither a file nor the end of all at byte {archive.offset:,}'
    )


class _Member(tarfile.TarInfo):
  """A member that refuses extensions too large to read into memory."""

  def _proc_member(self, archive):
    """Called for each header, with the file positioned after it."""
    if self.type == tarfile.GNUTYPE_SPARSE:
      raise _sparse(self)
    if self.type not in _EXTENSIONS:
      archive.extensions = archive.lasting_extensions
      return super()._proc_member(archive)
    # Consecutive extensions are all kept until the last has been read.
    archive.extensions += self.size
    if self.type == tarfile.XGLTYPE:
      archive.lasting_extensions += self.size
    if self.size < 0 or archive.extensions > MAX_EXTENSIONS:
      raise tarfile.ReadError(
          f'a name or attributes of {archive.extensions:,} bytes at byte '
          f'{self.offset:,}, expected at most {MAX_EXTENSIONS:,}'
      )
    return super()._proc_member(archive)

  def _proc_gnusparse_10(self, member, pax_headers, archive):
    """Called to read a list of holes from the data."""
    raise _sparse(member)


class _TarFile(tarfile.TarFile):
  """Adds counters of the bytes of extensions."""

  tarinfo = _Member
  extensions = 0  # Of the current member.
  lasting_extensions = 0  # Of all members.


def _sparse(member):
  # Its bytes are not contiguous, and images have no holes.
  return tarfile.ReadError(f'{printable(member.name)} is a sparse file')


class _Xz:
  """Reads an xz file as `lzma.open` does, with bounded memory."""

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
      if self._decompressor.eof:  # Another stream may follow.
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
