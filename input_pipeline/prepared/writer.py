"""Writes prepared data shard by shard, from several threads, reproducibly.

The unit of work is a shard. It is written to a temporary file, renamed, and
then noted in `unfinished/` with its labels and sums for the statistics. Noted
shards are never done again. Sums are integers, so their order does not matter.
The manifest is written last, and makes the directory valid.
"""

import dataclasses
import hashlib
import io
import itertools
import pathlib
import shutil
from collections.abc import Iterable
from concurrent import futures
from typing import Any

import numpy as np
import PIL
import simplejpeg
from PIL import Image, features

from input_pipeline import preprocessing, statistics
from input_pipeline.errors import DataError, ImageError, printable
from input_pipeline.files import atomic, checksums, listing, streams, untrusted
from input_pipeline.files import threads as threads_lib
from input_pipeline.images import decoding
from input_pipeline.prepared import reader
from input_pipeline.sources import Source

STORAGES = ('jpeg', 'raw')
# JPEG quality; measured on Imagenette: 44 dB, 26 kB per image.
DEFAULT_QUALITY = 95

# Images in a shard, the least to be repeated after a stop. Larger sets have
# larger shards, so that all their files can be open at once.
_SHARD = 2048
_MOST_SHARDS = 512
# Images that a thread processes at a time.
_CHUNK = 16
_NPY_HEADER = 128
_FIRST_PAGE = 'file(s) of which only the first page is used'


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings that, with the source, determine the result.

  Attributes:
    storage: 'jpeg' or 'raw'.
    quality: quality of JPEG files, 1 to 100; None for pixels.
    aspect: 'keep' crops the centre square, 'warp' squeezes the image into it,
      `reader.RECTANGLE` keeps all of the image.
    size: side of the squares, or shorter side of the rectangles, in pixels.
    background: colour behind transparent pixels, see `decoding.decode`.
  """

  storage: str = 'jpeg'
  quality: int | None = DEFAULT_QUALITY
  aspect: str = 'keep'
  size: int = preprocessing.SQUARE
  background: decoding.Background = decoding.WHITE


@dataclasses.dataclass
class _Done:
  """Finished images of a chunk or a shard."""

  sums: statistics.Accumulator
  files: list[bytes] = dataclasses.field(default_factory=list)
  sizes: list[int] = dataclasses.field(default_factory=list)
  shapes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
  labels: list[int] = dataclasses.field(default_factory=list)
  names: list[str] = dataclasses.field(default_factory=list)
  rejected: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  paged: list[str] = dataclasses.field(default_factory=list)

  def merge(self, other: '_Done') -> None:
    """Adds the images of another chunk, without their files."""
    for name in ('sizes', 'shapes', 'labels', 'names', 'rejected'):
      getattr(self, name).extend(getattr(other, name))
    self.sums.merge(other.sums)


def unfinished(output: pathlib.Path) -> pathlib.Path:
  """Returns the folder for the unfinished files of a preparation."""
  return output / 'unfinished'


def _begun(output):
  """Returns the path of the settings of an unfinished preparation."""
  return unfinished(output) / 'begun.json'


def check_output(output: pathlib.Path) -> None:
  """Raises DataError if a directory has other files."""
  if reader.is_prepared(output) or _begun(output).exists():
    return
  others = {path.name for path in output.iterdir()}
  others.discard(unfinished(output).name)
  if others:
    raise DataError(
        f'{output} is not empty ({", ".join(sorted(others)[:3])}): set '
        '--output to a new folder'
    )


class Preparation:
  """Writes one output directory.

  Attributes:
    finished: whether nothing is left to do.
    rejected: unusable images found so far.
    left_out: counts of unused files among those read so far.
  """

  def __init__(
      self,
      sets: dict[str, Source],
      output: pathlib.Path,
      settings: Settings,
      *,
      origin: str = '',
      strict: bool = False,
      workers: int | None = None,
  ):
    """Starts a preparation, or continues one with the same settings.

    Args:
      sets: 'train' and, if there is one, 'evaluation'.
      output: directory to write.
      settings: settings of the result.
      origin: origin of the sets, for the manifest.
      strict: whether to stop at the first unusable image.
      workers: number of threads; None for one per core.

    Raises:
      DataError: the directory has other contents.
    """
    self._sets = sets
    self._output = output
    self._settings = settings
    self._strict = strict
    self._workers = workers or threads_lib.cores()
    self._whole = preprocessing.whole(settings.size)
    self._rectangles = settings.aspect == reader.RECTANGLE
    self._unfinished = unfinished(output)
    self._about = {
        'format': reader.FORMAT,
        'settings': dataclasses.asdict(settings)
        | {
            'background': list(settings.background),
            'filter': f'{preprocessing.FILTER.name.lower()}, antialiased',
        },
        'origin': origin,
        'sources': {
            name: {'images': len(source), 'identity': source.identity()}
            for name, source in sets.items()
        },
        'versions': {
            'libjpeg-turbo': features.version('libjpeg_turbo') or 'unknown',
            'numpy': np.__version__,
            'pillow': PIL.__version__,
            'simplejpeg': simplejpeg.__version__,
        },
        'class_names': list(sets['train'].class_names),
    }
    self.rejected = 0
    self.left_out = listing.LeftOut()
    self.finished = self._begin()

  def _begin(self) -> bool:
    """Starts or continues; returns whether everything is done already."""
    if self._is_prepared():
      return True
    try:
      self._start()
    except FileNotFoundError:
      # Another process may just have finished and removed its notes.
      if not self._is_prepared():
        raise
      return True
    return False

  def _is_prepared(self):
    if not reader.is_prepared(self._output):
      return False
    self._compare(reader.read_manifest(self._output), 'prepared data')
    self._clean()
    return True

  def _start(self):
    self._output.mkdir(parents=True, exist_ok=True)
    check_output(self._output)
    self._unfinished.mkdir(parents=True, exist_ok=True)
    atomic.remove_stale(self._unfinished)
    begun = _begun(self._output)
    if begun.exists():
      self._compare(self._read(begun), 'an unfinished preparation')
    else:
      self._write(begun, lambda f: f.write(reader.to_json(self._about)))

  def _read(self, begun):
    try:
      before = untrusted.read_json(begun)
      for field in ('settings', 'sources', 'versions'):
        untrusted.take(before, field, dict)
      return before
    except ValueError as error:
      raise DataError(
          f'cannot read {begun} ({error}): set --output to another folder'
      ) from error

  def _compare(self, before: dict[str, Any], what: str):
    old, new = dict(_flatten(before)), dict(_flatten(self._about))
    different = [
        f'{name} was {old.get(name)}, is {new.get(name)}'
        for name in old | new
        if old.get(name) != new.get(name)
    ]
    if different:
      raise DataError(
          f'{self._output} has {what} of something else '
          f'({"; ".join(different)}): set --output to another folder, or '
          'remove this one'
      )

  def shards(self, set_name: str) -> int:
    """Returns the number of shards of a set."""
    return -(-len(self._sets[set_name]) // self._shard_size(set_name))

  def _shard_size(self, set_name):
    length = len(self._sets[set_name])
    return max(_SHARD, -(-length // _MOST_SHARDS))

  def _shard_range(self, set_name, number):
    size = self._shard_size(set_name)
    start = number * size
    return range(start, min(start + size, len(self._sets[set_name])))

  def _note(self, set_name, number):
    """Returns the file that marks a shard as complete and holds its labels."""
    return self._unfinished / f'{set_name}-{number:05d}.npz'

  def _read_note(self, set_name, number):
    path = self._note(set_name, number)
    try:
      note = untrusted.load_arrays(path)
      wanted = {'labels', 'sizes', 'names', 'rejected'}
      wanted |= {'shapes'} if self._rectangles else set()
      if missing := wanted - set(note):
        raise untrusted.UnreadableError(f'it has no {", ".join(missing)}')
      return note
    except FileNotFoundError:  # Another process has finished.
      raise
    except Exception as error:  # zipfile and NumPy raise many kinds.
      raise DataError(
          f'cannot read {path} ({error}): remove it, and run the same command '
          'again'
      ) from error

  def _path(self, set_name, number):
    shards = self.shards(set_name)
    return self._output / reader.shard_name(set_name, number, shards)

  def _is_complete(self, set_name, number):
    there = self._note(set_name, number).exists()
    return there and self._path(set_name, number).exists()

  def run(self, part: int = 0, parts: int = 1) -> None:
    """Writes the missing shards of a part.

    Args:
      part: index of the part, from 0.
      parts: number of parts.

    Raises:
      ImageError: `strict` is set, and an image cannot be used.
      OSError: the disk is full; complete shards are kept.
    """
    try:
      self._run(part, parts)
    except FileNotFoundError:
      # Another process may have finished and removed files used here.
      if not reader.is_prepared(self._output):
        raise

  def _run(self, part, parts):
    mine = [
        (set_name, number)
        for set_name in self._sets
        for number in range(self.shards(set_name))
    ][part::parts]
    todo = [shard for shard in mine if not self._is_complete(*shard)]
    if self._strict:
      self._refuse_rejected(mine, todo)
    images = lambda shards: sum(len(self._shard_range(*s)) for s in shards)
    total = images(mine)
    progress = streams.progress(
        None, 'preparing', total, initial=total - images(todo)
    )
    with progress, futures.ThreadPoolExecutor(self._workers) as threads:
      chunks = (
          (shard, self._shard_range(*shard)[start : start + _CHUNK])
          for shard in todo
          for start in range(0, len(self._shard_range(*shard)), _CHUNK)
      )
      try:
        results = threads_lib.in_order(
            threads, self._make_chunk, chunks, 2 * self._workers
        )
        for shard, of_shard in itertools.groupby(results, lambda r: r[0]):
          self._write_shard(
              *shard, self._counted((r[1] for r in of_shard), progress)
          )
      except BaseException:
        threads.shutdown(cancel_futures=True)
        raise

  def _refuse_rejected(self, mine, todo):
    for shard in mine:
      if shard not in todo:
        for line in _from_lines(self._read_note(*shard)['rejected']):
          raise DataError(
              f'strict, but an image was rejected before: {line}: replace '
              'or remove it, and set --output to a new folder'
          )

  def _counted(self, results, progress):
    for done in results:
      yield done
      self.rejected += len(done.rejected)
      for name in done.paged:
        self.left_out.add(_FIRST_PAGE, name)
      if self.rejected:
        progress.set_postfix(rejected=self.rejected, refresh=False)
      progress.update(len(done.labels) + len(done.rejected))

  def _nothing_done(self):
    return _Done(statistics.Accumulator(self._settings.size))

  def _make_chunk(self, task):
    (set_name, number), indices = task
    source, done = self._sets[set_name], self._nothing_done()
    for index in indices:
      try:
        encoded, label = source.read(index)
        name = source.describe(index)
        stored = self._resized(encoded, name)
      except ImageError as error:
        if self._strict:
          raise
        done.rejected.append((error.name, error.reason))
        continue
      file, pixels = self._encode(stored)
      done.files.append(file)
      done.sizes.append(len(file))
      done.shapes.append(pixels.shape[:2])
      done.labels.append(label)
      done.names.append(source.relative_name(index))
      if decoding.has_more_pages(encoded):
        done.paged.append(done.names[-1])
      if set_name == 'train':
        done.sums.add(self._centre(pixels))
    return (set_name, number), done

  def _resized(self, encoded, name):
    settings = self._settings
    if self._rectangles:
      image = decoding.decode(encoded, name, settings.background)
      return preprocessing.resized_whole(
          image, settings.size, step=1, longest=preprocessing.LONGEST
      )
    return preprocessing.to_square(
        encoded, name, aspect=settings.aspect, box=self._whole,
        background=settings.background,
    )

  def _centre(self, pixels):
    """Cuts the centre square, of which the mean image is made."""
    size = self._settings.size
    top, left = ((side - size) // 2 for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]

  def _encode(self, pixels):
    """Returns the bytes to store, and the pixels that reading them gives."""
    if self._settings.storage == 'raw':
      return pixels.tobytes(), pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, 'JPEG', quality=self._settings.quality, subsampling='4:2:0'
    )
    file = buffer.getvalue()
    return file, simplejpeg.decode_jpeg(file)

  def _write_shard(self, set_name, number, chunks: Iterable[_Done]):
    all_done = self._nothing_done()

    def write(f):
      f.write(bytes(_NPY_HEADER))
      for done in chunks:
        for file in done.files:
          f.write(file)
        all_done.merge(done)
      f.seek(0)
      f.write(self._header(all_done))

    path = self._path(set_name, number)
    self._write(path, write)
    sums = all_done.sums
    # Written last: it marks the shard as complete.
    note = dict(
        labels=np.array(all_done.labels, np.int32),
        sizes=np.array(all_done.sizes, np.int32),
        names=_lines(map(printable, all_done.names)),
        rejected=_lines(
            f'{printable(name)}\t{printable(reason)}'
            for name, reason in all_done.rejected
        ),
        sha256=np.array(checksums.of_file(path)),
        count=np.array(sums.count),
        pixel_sum=sums.pixel_sum.astype(np.uint32),
        products=sums.products,
    )
    if self._rectangles:
      note['shapes'] = np.array(all_done.shapes, np.int32).reshape(-1, 2)
    self._write(self._note(set_name, number), lambda f: np.savez(f, **note))

  def _header(self, done):
    size = self._settings.size
    shape = (
        (len(done.sizes), size, size, 3)
        if self._settings.storage == 'raw' and not self._rectangles
        else (sum(done.sizes),)
    )
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {'descr': '|u1', 'fortran_order': False, 'shape': shape}
    )
    assert header.tell() == _NPY_HEADER, header.tell()
    return header.getvalue()

  def merge(self) -> dict[str, Any]:
    """Combines all shards and their statistics; writes the manifest last.

    Returns:
      The manifest.

    Raises:
      DataError: parts are missing, or all images of a set were rejected.
    """
    try:
      return self._merge()
    except (DataError, FileNotFoundError):
      if not reader.is_prepared(self._output):
        raise
      self._clean()
      return reader.read_manifest(self._output)

  def _merge(self):
    missing = [
        (set_name, number)
        for set_name in self._sets
        for number in range(self.shards(set_name))
        if not self._is_complete(set_name, number)
    ]
    if missing:
      raise DataError(
          f'{len(missing)} shard(s) are not prepared yet, the first is number '
          f'{missing[0][1]} of {missing[0][0]}: run all parts to the end first'
      )
    sums = statistics.Accumulator(self._settings.size)
    for number in range(self.shards('train')):
      sums.merge(_sums_of(self._read_note('train', number)))
    rejected = list(self._lines_of_notes('rejected', *self._sets))
    self._write_lines(reader.REJECTED, rejected)
    sets = {name: self._merge_set(name) for name in self._sets}
    values = sums.statistics()
    self._write(
        self._output / reader.STATISTICS,
        lambda f: statistics.write(values, f),
    )
    manifest = self._about | {
        'sets': sets,
        'statistics': _describe_statistics(values),
        'sha256': self._hashes(reader.STATISTICS, reader.REJECTED),
    }
    # Hash of the rest of the manifest.
    text = reader.to_json(manifest)
    manifest['manifest_sha256'] = hashlib.sha256(text).hexdigest()
    self._write(
        self._output / reader.MANIFEST,
        lambda f: f.write(reader.to_json(manifest)),
    )
    self._clean()
    return manifest

  def _merge_set(self, set_name):
    labels, sizes, shapes, shards, rejected = [], [], [], [], 0
    count = self.shards(set_name)
    for number in range(count):
      note = self._read_note(set_name, number)
      labels.append(note['labels'])
      sizes.append(note['sizes'])
      shapes.append(note.get('shapes'))
      rejected += len(_from_lines(note['rejected']))
      name = reader.shard_name(set_name, number, count)
      shards.append({
          'file': name,
          'images': len(note['labels']),
          'bytes': (self._output / name).stat().st_size,
          'sha256': str(note['sha256']),
      })
    labels = np.concatenate(labels)
    if not len(labels):
      raise DataError(
          f'none of the {set_name} images could be used, see '
          f'{self._output / reader.REJECTED}: fix them or give another '
          '--source, and set --output to a new folder'
      )
    arrays = {
        'labels': labels,
        'shards': np.array([s['images'] for s in shards], np.int32),
    }
    if self._settings.storage == 'jpeg' or self._rectangles:
      arrays['sizes'] = np.concatenate(sizes)
    if self._rectangles:
      arrays['shapes'] = np.concatenate(shapes)
    files = f'{set_name}.npz', f'{set_name}.txt'
    self._write(self._output / files[0], lambda f: np.savez(f, **arrays))
    self._write_lines(files[1], self._lines_of_notes('names', set_name))
    hashes = self._hashes(*files)
    whole = [*(shard['sha256'] for shard in shards), *hashes.values()]
    classes = len(self._about['class_names'])
    return {
        'images': len(labels),
        'rejected': rejected,
        'images_of_class': np.bincount(labels, minlength=classes).tolist(),
        'shards': shards,
        'files': hashes,
        'sha256': hashlib.sha256('\n'.join(whole).encode()).hexdigest(),
    }

  def _hashes(self, *names):
    path = lambda name: self._output / name
    return {name: checksums.of_file(path(name)) for name in names}

  def _lines_of_notes(self, key, *set_names):
    for set_name in set_names:
      for number in range(self.shards(set_name)):
        yield from _from_lines(self._read_note(set_name, number)[key])

  def _write_lines(self, name, lines):
    write = lambda f: f.writelines(f'{line}\n'.encode() for line in lines)
    self._write(self._output / name, write)

  def _write(self, path, write):
    # Through the unfinished folder, so that no partial file is left here.
    atomic.write(path, write, self._unfinished)

  def _clean(self):
    shutil.rmtree(self._unfinished, ignore_errors=True)


def _sums_of(note):
  sums = statistics.Accumulator(len(note['pixel_sum']))
  sums.count = int(note['count'])
  sums.pixel_sum += note['pixel_sum']
  sums.products += note['products']
  return sums


def _describe_statistics(values):
  deviations, vectors = values.principal_components()
  return {
      'channel_means': values.channel_means.tolist(),
      'covariance': values.covariance.tolist(),
      'eigenvalues': (deviations**2).tolist(),
      'eigenvectors_as_columns': vectors.tolist(),
  }


def _flatten(about):
  for key in ('settings', 'sources', 'versions'):
    for name, value in about[key].items():
      yield f'{key}.{name}', value


def _lines(lines):
  return np.array('\n'.join(lines))


def _from_lines(array):
  return str(array).split('\n') if str(array) else []
