"""Formats the results of a sweep as a table, beside the paper's."""

import math
import pathlib
import statistics

from alexnet.analysis.tables import Table, mean_and_deviation
from alexnet.checkpointing.workdir import load_results
from alexnet.config.sweep import FAILED, Sweep


def table(sweep: Sweep, workdir: pathlib.Path) -> str:
  """Formats a Markdown table of the results, one row per variant.

  Errors are in percent, mean ± standard deviation over the finished seeds;
  differences to the base are in points, ± their standard error. Errors are for
  ten views if all finished runs have them, else for the centre crop.
  """
  count = len(sweep.variants)
  folders = [
      [workdir / sweep.folder(i) for i in range(number, len(sweep), count)]
      for number in range(count)
  ]
  finished = [[r for f in some if (r := load_results(f))] for some in folders]
  ten = any(finished) and all('ten' in r for some in finished for r in some)
  views, name = ('ten', 'ten views') if ten else ('centre', 'centre crop')
  rows = []
  for variant, some, results in zip(sweep.variants, folders, finished):
    errors = {
        key: [[100 * (1 - r[views][key]) for r in of]
              for of in (results, finished[0])]
        for key in ('top1', 'top5')
    }
    failed = sum((folder / FAILED).exists() for folder in some)
    rows.append((
        variant.name,
        str(len(results)) + (f' ({failed} failed)' if failed else ''),
        *(mean_and_deviation(own, '.2f') for own, _ in errors.values()),
        mean_and_deviation([r[views]['loss'] for r in results], '.4f'),
        '' if variant is sweep.variants[0] else ' / '.join(
            _gap(*pair) for pair in errors.values()
        ),
        '' if variant.paper is None else ' / '.join(
            '?' if points is None else f'{points:+.1f}'
            for points in variant.paper
        ),
    ))
  headings = (
      f'{sweep.name} ({name})', 'n', 'top-1 error', 'top-5 error', 'loss',
      'worse than the base by', 'in the paper',
  )
  return '\n'.join(Table(headings, tuple(rows)).to_markdown())


def _gap(values, base):
  if not values or not base:
    return '--'
  gap = f'{statistics.mean(values) - statistics.mean(base):+.2f}'
  if min(len(values), len(base)) == 1:
    return gap
  error = math.hypot(*(
      statistics.stdev(x) / math.sqrt(len(x)) for x in (values, base)
  ))
  return f'{gap} ± {error:.2f}'
