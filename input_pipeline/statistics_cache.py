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
  """Returns a source's statistics, from the cache if possible.

  Args:
    source: the training set.
    squares: its images; only read if there is no cache.
    directory: folder of the cache; None for beside the data, or the user's
      cache directory if the data's folder is read-only.
    size: side of the images, in pixels.
  """
  key = source.fingerprint()
  if size != preprocessing.SQUARE:
    key += f'_{size}'
  file = f'{STATISTICS}{key}.npz'
  places = _places(source, directory)
  for place in places:
    # False, too, for a folder that cannot be entered, such as another's home.
    if os.path.exists(place / file):
      return load(place / file)
  statistics = compute(squares, len(source), size)
  for place in places:
    try:
      place.mkdir(parents=True, exist_ok=True)
      atomic.write(place / file, functools.partial(write, statistics), place)
      break
    except OSError:
      continue  # Not writable: try the next place.
  return statistics


def _places(source, directory):
  if directory is not None:
    return [paths.local(directory, 'dataset.statistics_dir')]
  if source.directory is None:
    return []
  cache = paths.cache_folder()
  return [source.directory, *([cache / 'alexnet'] if cache else ())]
