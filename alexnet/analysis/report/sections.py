"""Sections of a report that need neither data nor network.

Each section is made from the workdirs of one run, or of several for comparison.
"""

import itertools
import re
from collections.abc import Sequence

from alexnet.analysis.paper import comparison as comparison_lib
from alexnet.analysis.paper import config_differences
from alexnet.analysis.report import run_history
from alexnet.analysis.report.page import (
  Block,
  Code,
  Details,
  Facts,
  Figures,
  Heading,
  Missing,
)
from alexnet.analysis.report.run_history import History
from alexnet.analysis.tables import Table
from alexnet.checkpointing import workdir
from alexnet.metrics.console import format_duration
from alexnet.visualization import charts
from alexnet.visualization.charts import Line, Picture

Runs = Sequence[History]

_VIEWS = {'centre': 'centre crop', 'ten': 'ten views'}
# Layer statistics: (key in a record, title, whether it is a share).
_OF_LAYERS = (
    ('deviation', 'Standard deviation of the output', False),
    ('mean', 'Mean of the output', False),
    ('zeros', 'Share of zeros in the output', True),
    ('dead', 'Share of dead features: zero in every image', True),
    ('kernel_norm', 'Norm of the kernel', False),
    ('kernel_gradient', "Norm of the kernel's gradient", False),
    ('kernel_update', 'Norm of the last update / norm of the kernel', False),
)
_EPOCHS = 'epochs'
# The best of a curve's values, if defined.
_BEST = {'loss': min, 'error': min, 'top5_error': min, 'speed': max}
# The dropout layer of the authors' files.
_DROPOUT = re.compile(r'^\s*type\s*=\s*hs\s*$', re.MULTILINE)


def facts(run: History) -> list[Block]:
  """Shows the most important numbers of a run."""
  config, items = run.config, []
  for views, name in _VIEWS.items():
    if result := run.last(f'eval_{views}'):
      items.append((f'top-1 error, {name}', _percent(1 - result['top1'])))
      items.append((f'top-5 error, {name}', _percent(1 - result['top5'])))
  epochs = run.step * (run.epochs_per_step or 0)
  items.append(('steps', f'{run.step:,}'))
  if epochs:
    items.append((_EPOCHS, f'{epochs:.1f}'))
  if run.results:
    seconds = run.results.get('train_seconds')
    items.append(('time in steps', format_duration(seconds)))
  if run.images_per_second:
    items.append(('images a second', f'{run.images_per_second:,.1f}'))
  blocks: list[Block] = [Facts(tuple(items))]
  if not run.results:
    blocks.append(Missing(
        'This run is not finished; run its command again to continue it. This '
        'page shows its state so far.'
    ))
  device = run.sessions[-1].get('device_kind') if run.sessions else None
  blocks.append(
      f'{config.model.name}, {config.model.towers} tower(s), '
      f'{config.model.dtype}, trained on {config.dataset.name} '
      f'({config.model.num_classes:,} classes) in batches of '
      f'{config.batch_size}, for {config.duration}'
      + (f', on {device}.' if device else '.')
  )
  return blocks


def comparison(runs: Runs) -> list[Block]:
  """Compares several runs in a table, with the fields in which they differ."""
  views = [
      (f'eval_{name}', text) for name, text in _VIEWS.items()
      if any(run.last(f'eval_{name}') for run in runs)
  ]
  headings = (
      'run',
      *(f'top-{k} error, {text}' for _, text in views for k in (1, 5)),
      'training loss', 'steps', _EPOCHS, 'img/s', 'finished',
  )
  rows = []
  known = lambda value, text: '--' if value is None else text(value)
  step = '{:.1f}'.format
  for run in runs:
    rows.append((
        run.name,
        *(
            known(run.last(kind), lambda r, key=key: _percent(1 - r[key]))
            for (kind, _), key in itertools.product(views, ('top1', 'top5'))
        ),
        known(run.last('train'), lambda line: f'{line["loss"]:.4f}'),
        f'{run.step:,}',
        known(run.epochs_per_step, lambda one, run=run: step(one * run.step)),
        known(run.images_per_second, '{:,.1f}'.format),
        'yes' if run.results else 'no',
    ))
  blocks: list[Block] = [Table(headings, tuple(rows))]
  fields = run_history.differing_fields(runs)
  if not fields:
    return [*blocks, 'The configs are equal in every field.']
  rows = tuple((name, *map(_value, some)) for name, some in fields.items())
  table = Table(('field', *(run.name for run in runs)), rows)
  return [*blocks, 'Fields in which the configs differ:', table]


def curves(runs: Runs) -> list[Block]:
  """Draws charts of loss, error, learning rate and speed over the epochs."""
  several = len(runs) > 1

  def lines(*of):
    found = []
    for (number, run), (index, (kind, key, label, turn)) in itertools.product(
        enumerate(runs), enumerate(of)
    ):
      points = [(x, turn(y)) for x, y in run.points(kind, key)]
      name, series, style = label, index, 0
      if several:
        name = f'{run.name}, {label}' if len(of) > 1 else run.name
        series, style = number, index
      if points:
        marked = kind != 'train' and len(points) < 40
        found.append(Line(name, points, series, style=style, marked=marked))
    return found

  same, error = (lambda y: y), (lambda y: 1 - y)
  wanted = (
      ('loss', 'Loss', 'loss', {'from_zero': True}, (
          ('train', 'loss', 'training', same),
          ('eval_centre', 'loss', 'evaluation', same))),
      ('error', 'Top-1 error', 'error', {'percent': True}, (
          ('train', 'top1', 'training', error),
          ('eval_centre', 'top1', 'evaluation', error))),
      ('top5_error', 'Top-5 error of the evaluation', 'error',
       {'percent': True}, (('eval_centre', 'top5', 'evaluation', error),)),
      ('learning_rate', 'Learning rate of the head', 'rate', {'log': True},
       (('train', 'learning_rate', 'rate', same),)),
      ('speed', 'Speed of the training steps', 'images a second', {},
       (('train', 'images_per_second', 'speed', same),)),
  )
  pictures = []
  for name, title, ylabel, options, of in wanted:
    if found := lines(*of):
      pictures.append(charts.chart(
          name, title,
          f'{title} over the epochs. ' + charts.say(
              found, percent='percent' in options, best=_BEST.get(name)
          ),
          charts.lines(found, xlabel=_EPOCHS, ylabel=ylabel, **options),
      ))
  if not pictures:
    return [Missing('metrics.jsonl has no line yet.')]
  seen = {_seen_in_training(run.config): run.name for run in runs}
  if len(seen) > 1:
    of_each = (f'{run.name}: {_seen_in_training(run.config)}' for run in runs)
    seen = {'; '.join(of_each): ''}
  text = (
      'Training numbers are means over the steps since the previous line of '
      f'the log, for augmented training images ({", ".join(seen)}). '
      'Evaluation uses the centre crops of the whole evaluation set.'
  )
  return [text, Figures(tuple(pictures))]


def _seen_in_training(config):
  """Describes augmentation and dropout, which evaluation does not use."""
  augmentation, model = config.augmentation, config.model
  crop = 'at random' if augmentation.crop_offsets > 1 else 'in the centre'
  done = [f'cropped {crop}']
  if augmentation.flip:
    done.append('mirrored at random')
  if augmentation.lighting != 'none':
    done.append('with PCA lighting')
  parts = [value for value in model.values() if hasattr(value, 'get')]
  if any(part.get('dropout') for part in parts) or _DROPOUT.search(
      model.get('layers_text') or ''
  ):
    done.append('with dropout')
  return ', '.join(done)


def layers(run: History) -> list[Block]:
  """Draws charts of the layers' statistics over the epochs."""
  records = run.of_kind('layers')
  if not records:
    return [Missing(
        'There are no layer statistics: the run is older than this '
        'measurement, has layer_statistics_images=0, or has not been evaluated '
        'yet.'
    )]
  pictures = [
      picture for what in _OF_LAYERS
      if (picture := _of_layers(run, records[-1], *what))
  ]
  images = run.config.layer_statistics_images
  text = (
      f'Measured at each evaluation on the same {images} training images (or '
      'all, if there are fewer), as in testing: centre crop, no dropout, no '
      'PCA lighting. pool1 is the output of conv1 after its activation, '
      'normalization and pooling. The gradient is that of the mean loss, '
      'without weight decay.'
  )
  return [text, Figures(tuple(pictures))]


def _of_layers(run, record, key, title, percent) -> Picture | None:
  names = [name for name in record if name.endswith(f'/{key}')]
  found = [
      Line(name.removesuffix(f'/{key}'), points, number, marked=True)
      for number, name in enumerate(names)
      if (points := run.points('layers', name))
  ]
  if not found:
    return None
  log = not percent and key != 'mean'
  return charts.chart(
      f'layers_{key}', title,
      f'{title}, of each layer over the epochs. '
      + charts.say(found, percent=percent),
      charts.lines(
          found, xlabel=_EPOCHS, ylabel='', log=log, percent=percent,
          ordered=True,
      ),
  )


def results(run: History) -> list[Block]:
  """Shows final results beside reported ones."""
  if not run.results:
    return [Missing(
        'There is no result yet: results.json is written at the end of the run.'
    )]
  blocks: list[Block] = []
  for title, items in comparison_lib.compare(run.config, run.results):
    if title != "The run's config":
      blocks += ([] if title == 'The run' else [Heading(title)]) + items
  return blocks


def config(runs: Runs) -> list[Block]:
  """Shows fields in which each run differs from the paper and run #145."""
  blocks: list[Block] = []
  for run in runs:
    if len(runs) > 1:
      blocks.append(Heading(run.name))
    fields = config_differences.differing_fields(run.config)
    blocks += config_differences.describe(run.config, fields)
    values = workdir.flatten(run.config.to_dict())
    rows = tuple((name, _value(value)) for name, value in values.items())
    blocks.append(Details('All fields', (Table(('field', 'value'), rows),)))
  return blocks


def environment(runs: Runs) -> list[Block]:
  """Lists commands, versions and devices of each session."""
  blocks: list[Block] = []
  for run in runs:
    blocks.append(Heading(str(run.folder)))
    if not run.sessions:
      blocks.append(Missing('There is no environment.json.'))
      continue
    commands = [' '.join(map(str, s.get('command', ()))) for s in run.sessions]
    blocks.append(Code(tuple(dict.fromkeys(commands))))
    rows = []
    for number, session in enumerate(run.sessions, 1):
      packages = session.get('packages', {})
      rows.append((
          str(number),
          f'{len(session.get("devices", ()))} x {session.get("device_kind")}',
          str(session.get('cpus')),
          str(session.get('python')),
          ', '.join(f'{k} {v}' for k, v in packages.items()),
          str(session.get('git_revision'))[:12],
          str(session.get('platform')),
      ))
    headings = (
        'session', 'devices', 'CPU cores', 'Python', 'packages', 'revision',
        'system',
    )
    blocks.append(Table(headings, tuple(rows)))
  return blocks


def _value(value):
  text = repr(value)
  return text if len(text) <= 100 else f'{text[:99]}…'


def _percent(share):
  return f'{100 * share:.2f} %'
