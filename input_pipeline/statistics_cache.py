"""A training set's statistics, computed once and kept beside it."""

import functools
import os
from collections.abc import Iterable

import numpy as np

from input_pipeline import preprocessing
from input_pipeline.files import atomic, paths
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
    # Also of a folder that cannot be entered, as of another user's home.
    if os.path.exists(place / file):
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
    return [paths.local(directory, 'dataset.statistics_dir')]
  if source.directory is None:
    return []
  cache = paths.cache_folder()
  return [source.directory, *([cache / 'alexnet'] if cache else ())]
