"""Measures features and searches that do not fit into memory.

  python -m benchmarks.retrieval --vectors=1000000 --work=DIR

It writes synthetic features and searches them in all ways. It prints times,
bytes per image, and the memory of the process without mapped files, whose pages
the system keeps only while there is room. The features (2 bytes per number:
8.2 GB for a million of 4,096) are removed at the end.

The vectors are noise around centres, with zeros as after a ReLU; a vector's
class is its centre.
"""

import os
import pathlib
import shutil
import statistics
import threading
import time

import numpy as np
from absl import app, flags

from alexnet.analysis import retrieval_table
from alexnet.analysis.features import hashing, nearest, store
from alexnet.analysis.tables import Table, to_text
from input_pipeline import cli
from input_pipeline.files import paths

_VECTORS = flags.DEFINE_integer('vectors', 1_000_000, 'Number of vectors.')
_DIMENSIONS = flags.DEFINE_integer(
    'dimensions', 4096, 'Number of dimensions of a vector.'
)
_CLASSES = flags.DEFINE_integer(
    'classes', 1000, 'Number of classes, each with its own centre.'
)
_QUERIES = flags.DEFINE_integer('queries', 100, 'Number of queries.')
_DTYPE = flags.DEFINE_enum(
    'dtype', 'float16', store.DTYPES, 'Data type of the features on disk.'
)
_STEPS = flags.DEFINE_integer(
    'steps', hashing.STEPS, 'Number of training steps of the autoencoder.'
)
_WORK = paths.define('work', 'Folder for the features.')
_NEIGHBOURS = 10
_PART = 4096


class Memory:
  """Samples the largest anonymous memory of this process, in MiB."""

  def __init__(self):
    """Starts sampling."""
    self._most = 0
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._look, daemon=True)
    self._thread.start()

  def _look(self):
    while not self._stop.wait(0.02):
      self._most = max(self._most, _anonymous())

  def most_since_last(self) -> float:
    """Returns the maximum since the last call."""
    most, self._most = max(self._most, _anonymous()), 0
    return most / 2**20

  def close(self) -> None:
    """Ends sampling."""
    self._stop.set()
    self._thread.join()


def _anonymous():
  """Bytes of the process that belong to no file."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith('RssAnon'):
      return int(line.split()[1]) * 1024
  return 0


def synthetic(
    rng: np.random.Generator, centres: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Generates vectors like features after a ReLU, and their classes.

  Args:
    rng: random generator.
    centres: [classes, dimensions] float32.
    count: number of vectors.

  Returns:
    ([count, dimensions] float32, [count] int64).
  """
  labels = rng.integers(0, len(centres), count)
  vectors = rng.standard_normal((count, centres.shape[1]), np.float32)
  vectors *= 2
  vectors += centres[labels]
  return np.maximum(vectors, 0, out=vectors), labels


def write(
    path: pathlib.Path, count: int, centres: np.ndarray, dtype: str
) -> store.FeatureSet:
  """Writes synthetic features."""
  rng = np.random.default_rng(1)
  writer = store.Writer(path, {'layer': 'synthetic'}, dtype)
  for start in range(0, count, _PART):
    vectors, labels = synthetic(rng, centres, min(_PART, count - start))
    indices = np.arange(start, start + len(labels))
    writer.add(vectors, labels, indices, [f'{i:08d}.jpg' for i in indices])
  writer.close()
  return store.load(path)


def measure(found: store.FeatureSet, centres: np.ndarray, count: int):
  """Yields (name, bytes per image, seconds to build the index, search)."""
  vectors = found.vectors
  yield 'exact', vectors.itemsize * vectors.shape[1], 0.0, (
      nearest.Euclidean(vectors).search
  )
  start = time.perf_counter()
  components = hashing.fit_components(vectors)
  fitted = time.perf_counter() - start
  for number in (64, 256):
    start = time.perf_counter()
    index = nearest.Euclidean(components.project(vectors, number))
    seconds = fitted + time.perf_counter() - start
    yield f'{number} principal components', 4 * number, seconds, (
        lambda queries, count, index=index, number=number: index.search(
            components.project(queries, number), count
        )
    )
    del index
  for bits in hashing.BITS:
    start = time.perf_counter()
    coder = hashing.train(
        vectors, bits, components=components, steps=_STEPS.value
    )
    index = hashing.CodeIndex(coder, coder.encode(vectors))
    seconds = fitted + time.perf_counter() - start
    yield f'{bits} bits of the autoencoder', bits // 8, seconds, index.search


def main(argv: list[str]) -> None:
  """Entry point of `python -m benchmarks.retrieval`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  path = _WORK.value / f'synthetic-{os.getpid()}'
  rng = np.random.default_rng(0)
  centres = rng.standard_normal(
      (_CLASSES.value, _DIMENSIONS.value), np.float32
  )
  queries, labels = synthetic(rng, centres, _QUERIES.value)
  memory = Memory()
  try:
    start = time.perf_counter()
    found = write(path, _VECTORS.value, centres, _DTYPE.value)
    seconds = time.perf_counter() - start
    size = (path / 'features.npy').stat().st_size
    print(
        f'{len(found):,} x {_DIMENSIONS.value:,} {_DTYPE.value}, '
        f'{size / 1e9:.2f} GB, written in {seconds:.0f} s; at most '
        f'{memory.most_since_last():.0f} MiB of memory', flush=True,
    )
    rows = []
    for name, size, seconds, search in measure(found, centres, _NEIGHBOURS):
      made = memory.most_since_last()
      start = time.perf_counter()
      _, best = search(queries, _NEIGHBOURS)
      together = (time.perf_counter() - start) / len(queries)
      alone = retrieval_table.milliseconds(search, queries, _NEIGHBOURS)
      precision = nearest.precision(best, found.labels, labels)
      rows.append((
          name, f'{size:,}', f'{seconds:.0f}', f'{made:.0f}',
          f'{precision:.4f}', f'{statistics.median(alone):.1f}',
          f'{1000 * together:.2f}', f'{memory.most_since_last():.0f}',
      ))
      print(f'{name} is done', flush=True)
    table = Table(
        (
            'search', 'bytes an image', 's to make', 'MiB to make',
            f'precision@{_NEIGHBOURS}', 'ms alone',
            f'ms each of {len(queries)}', 'MiB to search',
        ),
        tuple(rows),
    )
    print(to_text([('Retrieval', [table])]))
  finally:
    memory.close()
    shutil.rmtree(path, ignore_errors=True)


if __name__ == '__main__':
  flags.mark_flag_as_required('work')
  cli.run(main)
