"""Compares exact search, principal components and binary codes.

  python -m alexnet.analysis.retrieval_table --features=features/train \
      --queries=features/evaluation --output=retrieval.md

Both are written by `alexnet.analysis.features`. Precision@10 is the share of a
query's ten nearest images that have its class. A query's time is that of a
single search, from its features, including projection or coding, to the ten
neighbours; it excludes the network's own time.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from alexnet.analysis.tables import Table, mean_and_deviation, show
from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags
from input_pipeline import cli
from input_pipeline.files import paths

if TYPE_CHECKING:
  import numpy as np

  from alexnet.analysis.features.store import FeatureSet
  from alexnet.metrics.console import Console

  # From queries [queries, dimensions] to (distances, rows) [queries, count].
  Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

# As in features/hashing.py, which imports JAX.
_BITS = ('32', '64', '128', '256')
_COMPONENTS = ('16', '32', '64', '128', '256')
# Kinds of search that depend on the seed.
_RANDOM = ('bits of the autoencoder', 'signs of rotated components')
# Most queries to time, and most seconds.
_TIMED = 100
_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Measured:
  """One way to search."""

  name: str
  bytes_an_image: int  # Size of its index.
  precision: tuple[float, ...]  # Precision of neighbours by seed, 0..1.
  milliseconds: tuple[float, ...]  # Time of each timed query.


def measure(
    index: 'FeatureSet',
    queries: 'FeatureSet',
    *,
    neighbours: int,
    components: Sequence[int],
    bits: Sequence[int],
    seeds: int = 1,
    console: 'Console | None' = None,
) -> list[Measured]:
  """Measures all kinds of search.

  Args:
    index: images to find.
    queries: images to search for.
    neighbours: number of neighbours.
    components: numbers of principal components.
    bits: lengths of codes. Numbers that need more components than the images
      have are left out.
    seeds: number of autoencoders and rotations of each length.
    console: console for the progress.

  Returns:
    Exact search first, then components, codes of the autoencoder, and codes of
    rotated components.

  Raises:
    FeaturesError: the two sets do not match.
  """
  from alexnet.analysis.features import nearest
  from alexnet.metrics.console import Silence

  _check(index, queries, neighbours)
  ways = _ways(index.vectors, components, bits)
  found = []
  with (console or Silence()).bar('searches', len(ways), 'search') as bar:
    for (name, size), make in ways.items():
      bar.set_postfix_str(name)
      random = name.endswith(_RANDOM)
      searches = [make(seed) for seed in range(seeds if random else 1)]
      precision = [
          nearest.precision(
              search(queries.vectors, neighbours)[1], index.labels,
              queries.labels,
          )
          for search in searches
      ]
      timed = milliseconds(searches[0], queries.vectors, neighbours)
      found.append(Measured(name, size, tuple(precision), tuple(timed)))
      bar.update()
  return found


def _ways(vectors, components, bits):
  """{(name, bytes an image): function from a seed to a search}."""
  import numpy as np

  from alexnet.analysis.features import hashing, nearest

  fitted = hashing.fit_components(
      vectors, max([hashing.COMPONENTS, *components, *bits])
  )
  most = len(fitted.directions)
  components = [count for count in components if count <= most]
  reduced = fitted.project(vectors, max(components, default=1))
  read = fitted.first(hashing.COMPONENTS)

  def by_components(count, seed):
    few = nearest.Euclidean(np.ascontiguousarray(reduced[:, :count]))
    return lambda x, k: few.search(fitted.project(x, count), k)

  def by_codes(make, seed):
    coder = make(seed)
    return hashing.CodeIndex(coder, coder.encode(vectors)).search

  def trained(count, seed):
    return hashing.train(vectors, count, components=read, seed=seed)

  def turned(count, seed):
    return hashing.rotated(fitted, count, seed=seed)

  exact = f'exact, {vectors.dtype}', vectors.dtype.itemsize * vectors.shape[1]
  ways = {exact: lambda seed: nearest.Euclidean(vectors).search}
  for count in components:
    name = f'{count} principal components'
    ways[name, 4 * count] = functools.partial(by_components, count)
  for kind, make in zip(_RANDOM, (trained, turned)):
    for count in bits:
      if make is trained or count <= most:
        ways[f'{count} {kind}', count // 8] = functools.partial(
            by_codes, functools.partial(make, count)
        )
  return ways


def milliseconds(
    search: 'Search', queries: 'np.ndarray', neighbours: int
) -> list[float]:
  """Times single queries, in milliseconds, without the first."""
  times = []
  search(queries[:1], neighbours)
  while len(times) < min(_TIMED, len(queries)) and (
      sum(times) < 1000 * _SECONDS or len(times) < 3
  ):
    query = queries[len(times) % len(queries)][None]
    start = time.perf_counter()
    search(query, neighbours)
    times.append(1000 * (time.perf_counter() - start))
  return times


def _check(index, queries, neighbours):
  from alexnet.analysis.features.store import FeaturesError

  if len(index) < neighbours:
    raise FeaturesError(
        f'{index.path} has {len(index)} images: expected at least {neighbours}'
    )
  names = ('layer', 'step', 'parameters', 'shape')
  about = [{n: one.about.get(n) for n in names} for one in (index, queries)]
  if about[0] != about[1]:
    raise FeaturesError(
        f'{index.path} is {about[0]}, {queries.path} is {about[1]}: make both '
        'from the same layer of the same checkpoint'
    )
  names = ('source', 'set')
  about = [[one.about.get(n) for n in names] for one in (index, queries)]
  if about[0] == about[1]:
    raise FeaturesError(
        f'{index.path} and {queries.path} are of the same images, and each '
        'query would find itself: give another set for one of them'
    )
  if index.about.get('class_names') != queries.about.get('class_names') or (
      min(index.labels.min(), queries.labels.min()) < 0
  ):
    raise FeaturesError(
        f'{index.path} and {queries.path} have not the same classes, which '
        'precision is measured by: give sets of the same class folders'
    )


def table(found: Sequence[Measured], neighbours: int) -> Table:
  """Table of measurements, with medians and quartiles of times."""
  import numpy as np

  rows = []
  for one in found:
    low, middle, high = np.percentile(one.milliseconds, (25, 50, 75))
    rows.append((
        one.name, f'{one.bytes_an_image:,}',
        mean_and_deviation(one.precision, '.4f'),
        f'{middle:.2f} ({low:.2f} to {high:.2f})',
    ))
  return Table(
      ('search', 'bytes an image', f'precision@{neighbours}', 'ms a query'),
      tuple(rows),
  )


def _numbers(flag):
  given = getattr(flags.FLAGS, flag)
  try:
    numbers = [*map(int, given)]
  except ValueError:
    numbers = [0]
  if min(numbers, default=1) < 1:
    raise ConfigError(
        f'--{flag} is {",".join(given)}: expected positive integers, such as '
        f'--{flag}=32,64'
    )
  return numbers


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.retrieval_table`."""
  values = run_flags.start(argv)
  # These import JAX and scikit-learn, which --help does not need.
  from alexnet.analysis.features import store
  from alexnet.metrics.console import Console
  from alexnet.runtime import mesh

  mesh.devices()  # Checks that JAX can start.
  console = Console()
  components, bits = _numbers('components'), _numbers('bits')
  if wrong := [count for count in bits if count % 16]:
    raise ConfigError(
        f'--bits is {values.bits}: expected multiples of 16, got {wrong[0]}'
    )
  index, queries = map(store.load, (values.features, values.queries))
  found = measure(
      index, queries, neighbours=values.neighbours, components=components,
      bits=bits, seeds=values.seeds, console=console,
  )
  store.require(index, 'layer', 'step', 'workdir')
  about = (
      f'{index.about["layer"]} of step {index.about["step"]} of '
      f'{index.about["workdir"]}: {len(index):,} images to find, '
      f'{len(queries):,} queries. Codes: mean ± standard deviation of '
      f'{values.seeds} seeds. Times: medians and quartiles '
      f'of at most {max(len(one.milliseconds) for one in found)} queries.'
  )
  if len(found) < 1 + len(components) + 2 * len(bits):
    about += (
        f' Left out: what takes more components than {len(index):,} images of '
        f'{index.vectors.shape[1]:,} numbers have.'
    )
  page = [('Retrieval', [about, table(found, values.neighbours)])]
  console.print()
  show(page, values.output)


if __name__ == '__main__':
  paths.define('features', 'Features of the images to find.')
  paths.define('queries', 'Features of the queries.')
  flags.DEFINE_integer(
      'neighbours', 10, 'Number of images to find.', lower_bound=1
  )
  flags.DEFINE_list(
      'components', list(_COMPONENTS), 'Numbers of principal components.'
  )
  flags.DEFINE_list('bits', list(_BITS), 'Lengths of binary codes, in bits.')
  flags.DEFINE_integer(
      'seeds', 1, 'Number of autoencoders and rotations of each length.',
      lower_bound=1,
  )
  paths.define('output', 'Write the table as Markdown to this file.')
  flags.mark_flags_as_required(['features', 'queries'])
  cli.run(main, finishes=True)
