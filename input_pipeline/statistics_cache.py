"""A training set's statistics, computed once and kept beside it."""

import functools
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from input_pipeline import preprocessing
from input_pipeline.files import atomic
from input_pipeline.sources import STATISTICS, Source
from input_pipeline.statistics import Statistics, compute, load, write


def load_or_compute(
    source: Source,
    squares: Iterable[np.ndarray],
    directory: str | None,
    size: int = preprocessing.SQUARE,
) -> Statistics:
  """Returns a source's statistics, from the cache if they are there.

  Args:
    source: the training set.
    squares: its images; only read if there is no cache.
    directory: where the cache lies; None for beside the data, or in the user's
      cache directory if that cannot be written.
    size: side of the images, in pixels.
  """
  key = source.fingerprint()
  if size != preprocessing.SQUARE:
    key += f'_{size}'
  file = f'{STATISTICS}{key}.npz'
  places = _places(source, directory)
  for place in places:
    if (place / file).exists():
      return load(place / file)
  statistics = compute(squares, len(source), size)
  for place in places:
    try:
      place.mkdir(parents=True, exist_ok=True)
      atomic.write(place / file, functools.partial(write, statistics), place)
      break
    except OSError:
      continue  # Not writable: the next place, or no cache at all.
  return statistics


def _places(source, directory):
  if directory is not None:
    return [pathlib.Path(directory).expanduser()]
  if source.directory is None:
    return []
  cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return [source.directory, pathlib.Path(cache) / 'alexnet']
