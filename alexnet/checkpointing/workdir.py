"""The files of a run that a person reads: its config, and its results."""

import contextlib
import json
import pathlib
import shlex
import sys
from typing import Any

import ml_collections

from alexnet.config.errors import CheckpointError
from input_pipeline.files import atomic, untrusted

CONFIG = 'config.json'
RESULTS = 'results.json'
ENVIRONMENT = 'environment.json'

# What may differ between two sessions of a run: it does not change what has
# been computed so far.
_MAY_CHANGE = (
    'accumulation', 'bad_steps.action', 'bad_steps.limit', 'bad_steps.spike',
    'checkpoint_every', 'duration', 'evaluate_every', 'evaluation_batch_size',
    'keep_best', 'keep_checkpoints', 'layer_statistics_images', 'log_every',
    'log_images', 'ten_views', 'until_train_error', 'dataset.dir',
    'dataset.train_dir', 'dataset.eval_dir', 'dataset.stalled_after',
    'dataset.statistics_dir', 'mesh.data', 'mesh.tower',
    # The names of files whose texts are fields of their own.
    'layers', 'layer_params',
)
# Texts that are longer are not shown, nor more fields than these.
_SHOWN = 100
_MOST = 5

# Fields that older runs have not got, and what was done without them.
_WITHOUT = {
    'augmentation': {'crop_size': 224},
    'bad_steps': {'action': 'stop', 'spike': None, 'limit': 5},
    'dataset': {
        'background': (),
        'copies': 'warn',
        'order': 'argsort',
        'size': 256,
        'split_seed': None,
        'stalled_after': 60.0,
    },
    'keep_best': 0,
    'layer_statistics_images': 0,
    'log_images': False,
    'optimizer': {'layer_rate_factors': ()},
    'pretrained': {'workdir': None, 'layers': ()},
    'schedule': {
        'batch_scaling': 'none',
        'reference_batch_size': 128,
        'warmup_epochs': 0.0,
    },
    'until_train_error': None,
}


def load_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """Reads the config that a run was made by.

  Raises:
    CheckpointError: the folder holds no run.
  """
  path = workdir / CONFIG
  try:
    values = _to_tuples(untrusted.read_json(path))
    for name, without in _WITHOUT.items():
      if isinstance(without, dict):
        known = untrusted.take(values, name, dict) if name in values else {}
        values[name] = {**without, **known}
      else:
        values.setdefault(name, without)
    # Definitions have no such fields.
    if untrusted.take(values, 'model.name', str) == 'alexnet':
      values['model'].setdefault('width', 1.0)
      values['optimizer'].setdefault('layer_decay_factors', ())
    # Which raises its own kinds for names that no field can have.
    return ml_collections.ConfigDict(values)
  except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
    raise CheckpointError(
        f'{workdir} is not the workdir of a run: cannot read {path} ({error})'
    ) from error


def keep_earlier_background(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Goes on with transparent pixels as a run did that knew no background.

  Args:
    workdir: of a run, or a folder that need not be there.
    config: to go on with.

  Returns:
    The config, with `dataset.background` of () where it is that of the recipes
    and the run's config.json has no such field.
  """
  try:
    earlier = untrusted.read_json(workdir / CONFIG)
    known = 'background' in untrusted.take(earlier, 'dataset', dict)
  except (OSError, ValueError):
    return config  # `check_config` says what is wrong.
  if known or config.dataset.background != (255, 255, 255):
    return config
  config = config.copy_and_resolve_references()
  with config.ignore_type(), config.unlocked():
    config.dataset.background = _WITHOUT['dataset']['background']
  return config


def check_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict | None:
  """Compares a config with the one that a workdir was made by.

  Args:
    workdir: of a run, or a folder that need not be there.
    config: to go on with.

  Returns:
    The config that it was made by; None if there is no run yet.

  Raises:
    CheckpointError: they are not of one run; says how to go on.
  """
  if not (workdir / CONFIG).exists():
    if (workdir / 'checkpoints').exists():
      raise CheckpointError(
          f'{workdir} has checkpoints but no {CONFIG}, so it is not the '
          'workdir of a run: use another --workdir'
      )
    return None
  before = load_config(workdir)
  earlier = _WITHOUT['dataset']['order']
  if before.dataset.order == earlier != config.dataset.order:
    raise CheckpointError(
        f'{workdir} was made by an earlier version of the program, with which '
        'the order of images was another: it can be evaluated; continue it '
        'with that version, or use another --workdir'
    )
  old = flatten(before.to_dict())
  new = flatten(config.to_dict())
  changed = [
      name
      for name in sorted(old.keys() | new.keys())
      if old.get(name) != new.get(name)
      and name not in _MAY_CHANGE
      and not _has_moved(name, old, new)
      and not _has_no_use(name, old, new)
  ]
  if changed:
    differences = [
        _difference(name, old.get(name), new.get(name))
        for name in changed[:_MOST]
    ]
    raise CheckpointError(
        f'{workdir} was made by another config: '
        + '; '.join(differences)
        + ('; ...' if changed[_MOST:] else '')
        + '. For another run, set another --workdir; to continue this one, '
        + _way_back(workdir, changed, old, new)
    )
  return before


def _has_moved(name, old, new):
  """A pretrained run may lie elsewhere now; it is not read again."""
  is_path = name == 'pretrained.workdir'
  return is_path and None not in (old.get(name), new.get(name))


def _has_no_use(name, old, new):
  """A batch that no rate is scaled by; older runs do not tell theirs."""
  scaling = {config.get('schedule.batch_scaling') for config in (old, new)}
  return name == 'schedule.reference_batch_size' and scaling == {'none'}


def _way_back(workdir, changed, old, new):
  """How to have the config that a run was made by."""
  texts = any(len(str(old.get(name))) > _SHOWN for name in changed)
  others = set(changed) - (old.keys() & new.keys())
  # More than a few, or other fields: of another file of a config.
  if len(changed) > _MOST or texts or others:
    with contextlib.suppress(OSError, ValueError, IndexError):
      command = read_sessions(workdir / ENVIRONMENT)[-1]['command']
      return (
          'give the command that made it, with the same files: python '
          + shlex.join(map(str, command))
      )
    return f'bring back the config of {workdir / CONFIG}'
  ways = []
  if 'model.num_classes' in changed:  # Of the images: no flag changes those.
    ways = ['give it the images that it was made with']
    changed = [name for name in changed if name != 'model.num_classes']
  unset = [f'--config.{name}' for name in changed if old[name] is None]
  flags = [
      shlex.quote(f'--config.{name}={_as_text(old[name])}')
      for name in changed
      if old[name] is not None
  ]
  ways += [f'leave out {" ".join(unset)}'] if unset else []
  # Last, as they are to be copied.
  ways += [f'set {" ".join(flags)}'] if flags else []
  return ' and '.join(ways)


def _as_text(value):
  return value if isinstance(value, str) else repr(value)


def _difference(name, old, new):
  if any(isinstance(v, str) and len(v) > _SHOWN for v in (old, new)):
    return f'{name} was another text'
  return f'{name} was {old!r}, is {new!r}'


def save_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Writes a run's config."""
  write_json(workdir / CONFIG, config.to_dict())


def load_results(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Reads the results of a finished run; None if there are none."""
  try:
    results = untrusted.read_json(workdir / RESULTS)
    untrusted.take(results, 'step', int)
    untrusted.take(results, 'train_seconds', float)
    for views in results.keys() & {'centre', 'ten'}:
      for name in ('count', 'loss', 'top1', 'top5'):
        untrusted.take(results, f'{views}.{name}', float)
    if 'ten' in results:
      untrusted.take(results, 'ten.views', int)
    return results
  except (OSError, ValueError):
    return None


def read_sessions(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads an environment.json: one entry for each session of a run.

  Raises:
    OSError, ValueError: it cannot be read.
  """
  sessions = untrusted.take(untrusted.read_json(path), 'sessions', list)
  kinds = {'command': list, 'devices': list, 'packages': dict}
  for session in sessions:
    session = untrusted.take({'session': session}, 'session', dict)
    for name in kinds.keys() & session.keys():
      untrusted.take(session, name, kinds[name])
  return sessions


def save_environment(
    workdir: pathlib.Path, description: dict[str, Any]
) -> None:
  """Writes what a run runs on, and the command line.

  A run of several sessions keeps one entry for each.

  Args:
    workdir: of the run.
    description: as from `environment.describe`.
  """
  path, sessions = workdir / ENVIRONMENT, []
  if path.exists():
    # Unreadable if a session was killed while it wrote: only this one counts.
    with contextlib.suppress(ValueError):
      sessions = read_sessions(path)
  sessions.append({'command': sys.argv, **description})
  write_json(path, {'sessions': sessions})


def environment_differences(
    workdir: pathlib.Path,
    now: dict[str, Any],
    prefix: str | tuple[str, ...] = '',
) -> list[str]:
  """In what a session is not the last one that environment.json has.

  Args:
    workdir: of the run.
    now: as from `environment.describe`.
    prefix: of the names to compare, or several.

  Raises:
    OSError, ValueError, IndexError: there is none, or it cannot be read.
  """
  then = read_sessions(workdir / ENVIRONMENT)[-1]
  # As JSON has it, and the command is another one anyway.
  ours, theirs = flatten(now), flatten(then)
  # Older runs do not tell of all.
  known = [group for group in now if group in then and group != 'command']
  return [
      f'{name} was {theirs.get(name)!r}, is {ours.get(name)!r}'
      for name in sorted(ours.keys() | theirs.keys())
      if name.split('.')[0] in known
      and name.startswith(prefix)
      and ours.get(name) != theirs.get(name)
  ]


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes a file that is either as it was or complete."""
  atomic.replace_text(path, json.dumps(values, indent=2) + '\n')


def _to_tuples(value):
  """JSON has no tuples, configs have no lists."""
  if isinstance(value, dict):
    return {name: _to_tuples(item) for name, item in value.items()}
  if isinstance(value, list):
    return tuple(_to_tuples(item) for item in value)
  return value


def flatten(values: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested dictionaries as one, {'dotted.name': value}."""
  flat = {}
  for name, value in values.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat
