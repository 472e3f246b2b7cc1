"""Formats the measurements of `benchmarks.train_step`."""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

BEGIN, END = '<!-- benchmarks.train_step -->', '<!-- /benchmarks.train_step -->'
_TITLES = {
    'ours': 'ours',
    'ours_two_devices': 'ours, two devices',
    'tensorflow': 'TensorFlow',
    'pytorch': 'PyTorch',
    'pytorch_compiled': 'PyTorch compiled',
}


def spread(values: Sequence[float]) -> dict[str, float]:
  """Median, lowest and highest of some values."""
  return {
      'median': statistics.median(values),
      'lowest': min(values),
      'highest': max(values),
  }


def summary(
    results: dict[str, Any], batch_size: int, ceiling: str
) -> dict[str, Any]:
  """Summarizes the turns of one case.

  Args:
    results: result of `train_step.measure`, each with the item 'step'.
    batch_size: images in a step.
    ceiling: name of the competitor that only multiplies matrices.

  Returns:
    {name: {'images_per_second', 'images_per_core_second', 'ours_to_it' (ratios
    of images per second, by round), 'ceiling_share': each with 'median',
    'lowest' and 'highest'; 'peak_memory' in bytes; 'variant'}}. Missing
    measurements are left out.
  """
  turns = {name: items['step'] for name, items in results['turns'].items()}
  rate = {
      name: [results['operations'][name]['step'] / t['seconds'] for t in rows]
      for name, rows in turns.items()
  }
  ours, fastest = turns.get('ours'), rate.get(ceiling)
  summaries = {}
  for name, rows in turns.items():
    if name == ceiling:
      continue
    row = {
        'images_per_second': spread([batch_size / t['seconds'] for t in rows]),
        'images_per_core_second': spread(
            # A turn may be too short for the clock of CPU time.
            [batch_size / max(t['core_seconds'], 1e-6) for t in rows]
        ),
        'peak_memory': max(t['peak_memory'] for t in rows),
        'variant': results['variants'][name],
    }
    if ours:
      row['ours_to_it'] = spread(
          [t['seconds'] / o['seconds'] for t, o in zip(rows, ours)]
      )
    if fastest:
      row['ceiling_share'] = spread(
          [one / other for one, other in zip(rate[name], fastest)]
      )
    summaries[name] = row
  return summaries


def headline(results: dict[str, Any]) -> dict[str, Any]:
  """The first mode and dtype at the largest batch, in short form."""
  first = results['cases'][0]
  alike = [
      case
      for case in results['cases']
      if (case['mode'], case['dtype']) == (first['mode'], first['dtype'])
  ]
  case = max(alike, key=lambda case: case['batch_size'])
  competitors = case['competitors']
  ours = competitors.get('ours', {})
  return {
      'median_images_per_second': {
          name: row['images_per_second']['median']
          for name, row in competitors.items()
      },
      'ceiling_share': ours.get('ceiling_share', {}).get('median'),
  }


def number(value: float) -> str:
  """Formats a number with three digits, or all before the point."""
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _cell(row, field, show):
  if field not in row:
    return ''
  spread = row[field]
  low, high = show(spread['lowest']), show(spread['highest'])
  return f'{show(spread["median"])} ({low} to {high})'


def table(results: dict[str, Any]) -> str:
  """Formats images per second, ratios, memory and shares as Markdown."""
  names = list(
      dict.fromkeys(n for case in results['cases'] for n in case['competitors'])
  )
  peers = [name for name in names if name != 'ours']
  titles = [_TITLES.get(name, name) for name in names]
  machine, ceilings = results['machine'], results['ceilings']
  lines = [
      f'{machine["processor"]}, {machine["cores"]} cores; medians of '
      f'{results["rounds"]} rounds of {results["seconds_a_turn"]:g} s a turn '
      '(lowest to highest).',
      '',
      '| images a second | ' + ' | '.join(titles) + ' |',
      '|---' * (len(names) + 1) + '|',
  ]

  def row_of(case, cells):
    label = f'{case["mode"]}, {case["dtype"]}, batch {case["batch_size"]}'
    return f'| {label} | ' + ' | '.join(cells) + ' |'

  for case in results['cases']:
    rows = [case['competitors'].get(name, {}) for name in names]
    cells = [_cell(row, 'images_per_second', number) for row in rows]
    lines.append(row_of(case, cells))
  if 'ours' in names and peers:
    titles_of_peers = [f'to {_TITLES.get(name, name)}' for name in peers]
    lines += [
        '',
        '| ours, of the same round | ' + ' | '.join(titles_of_peers) + ' |',
        '|---' * (len(peers) + 1) + '|',
    ]
    for case in results['cases']:
      rows = [case['competitors'].get(name, {}) for name in peers]
      ratio = lambda value: f'{value:.2f}'
      cells = [_cell(row, 'ours_to_it', ratio) for row in rows]
      lines.append(row_of(case, cells))
  lines += [
      '',
      '| peak memory in GB, share of the ceiling | '
      + ' | '.join(titles) + ' |',
      '|---' * (len(names) + 1) + '|',
  ]
  for case in results['cases']:
    cells = []
    for name in names:
      row = case['competitors'].get(name)
      share = row.get('ceiling_share') if row else None
      memory = f'{row["peak_memory"] / 1e9:.2f}' if row else ''
      cells.append(memory + (f', {share["median"]:.0%}' if share else ''))
    lines.append(row_of(case, cells))
  lines.append('')
  for dtype, products in ceilings.items():
    if isinstance(products, dict):
      best = ', '.join(f'{n} {number(g)}' for n, g in products.items())
      lines.append(f'Largest matrix product in {dtype}, GFLOP/s: {best}.')
  copied = ceilings['memory_copy_gigabytes_per_second']
  lines.append(f'Memory copied: {copied:.1f} GB/s, read and written.')
  return '\n'.join(lines)


def layer_summary(results: dict[str, Any]) -> dict[str, Any]:
  """Summarizes the turns of single layers.

  Args:
    results: result of `train_step.measure`.

  Returns:
    {'LAYER PART': {name: {'milliseconds', 'core_milliseconds': medians, and
    'gigaflop_per_core_second' if operations are counted}}}.
  """
  layers = {}
  for name, items in results['turns'].items():
    for item, rows in items.items():
      core = statistics.median(turn['core_seconds'] for turn in rows)
      row = {
          'milliseconds': 1e3 * statistics.median(t['seconds'] for t in rows),
          'core_milliseconds': 1e3 * core,
      }
      operations = results['operations'][name][item]
      if operations and core:
        row['gigaflop_per_core_second'] = operations / core / 1e9
      layers.setdefault(item, {})[name] = row
  return layers


def layer_table(results: dict[str, Any]) -> str:
  """Formats milliseconds and GFLOP per CPU-second of layers as Markdown."""
  lines = []
  for dtype, layers in results['layers'].items():
    names = list(dict.fromkeys(n for row in layers.values() for n in row))
    titles = [_TITLES.get(name, name) for name in names]
    lines += [
        f'{dtype}, batch {results["batch_size"]}: milliseconds, and GFLOP per '
        'core-second',
        '',
        '| | ' + ' | '.join(titles) + ' |',
        '|---' * (len(names) + 1) + '|',
    ]
    for item, row in layers.items():
      cells = []
      for name in names:
        cell = row.get(name)
        text = f'{cell["milliseconds"]:.1f}' if cell else ''
        if cell and 'gigaflop_per_core_second' in cell:
          text += f', {cell["gigaflop_per_core_second"]:.0f}'
        cells.append(text)
      lines.append(f'| {item} | ' + ' | '.join(cells) + ' |')
    lines.append('')
  return '\n'.join(lines).rstrip()


def split_at_markers(file: pathlib.Path) -> tuple[str, str]:
  """Returns the text before and after a file's table.

  Raises:
    SystemExit: the file has no markers.
  """
  text = file.read_text()
  if text.count(BEGIN) != 1 or text.count(END) != 1:
    raise SystemExit(
        f'{file} does not have each of the lines {BEGIN} and {END} once: '
        'put them where the table is to be'
    )
  before, rest = text.split(BEGIN)
  return before, rest.split(END)[1]


def write_between_markers(file: pathlib.Path, table: str) -> None:
  """Replaces the text between the two marker comments of a file.

  Raises:
    SystemExit: the file has no markers.
  """
  before, after = split_at_markers(file)
  file.write_text(f'{before}{BEGIN}\n{table}\n{END}{after}')
