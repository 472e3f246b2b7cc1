"""Checks whether a run may continue with the current config and session.

A config makes other steps than another one, but for the fields in _MAY_CHANGE.
"""

import contextlib
import pathlib
import shlex
from typing import Any

import ml_collections

from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError
from input_pipeline.files import untrusted

# What may differ between two sessions of a run: it does not change what has
# been computed so far.
_MAY_CHANGE = (
    'accumulation', 'bad_steps.action', 'bad_steps.limit', 'bad_steps.spike',
    'checkpoint_every', 'deterministic', 'duration', 'evaluate_every',
    'evaluation_batch_size',
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


def keep_earlier_background(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Keeps the background of runs older than `dataset.background`.

  Args:
    workdir: of a run, or a folder that need not be there.
    config: to go on with.

  Returns:
    The config, with `dataset.background` of () where it is that of the recipes
    and the run's config.json has no such field.
  """
  try:
    earlier = untrusted.read_json(workdir / workdir_lib.CONFIG)
    known = 'background' in untrusted.take(earlier, 'dataset', dict)
  except (OSError, ValueError):
    return config  # `check_config` says what is wrong.
  if known or config.dataset.background != (255, 255, 255):
    return config
  config = config.copy_and_resolve_references()
  with config.ignore_type(), config.unlocked():
    config.dataset.background = workdir_lib.EARLIER['dataset']['background']
  return config


def check_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict | None:
  """Compares a config with that of an existing workdir.

  Args:
    workdir: of a run, or a folder that need not be there.
    config: to go on with.

  Returns:
    The config that it was made by; None if there is no run yet.

  Raises:
    CheckpointError: they are not of one run; says how to go on.
  """
  if not (workdir / workdir_lib.CONFIG).exists():
    if (workdir / 'checkpoints').exists():
      raise CheckpointError(
          f'{workdir} has checkpoints but no {workdir_lib.CONFIG}, so it is '
          'not the workdir of a run: use another --workdir'
      )
    return None
  before = workdir_lib.load_config(workdir)
  earlier = workdir_lib.EARLIER['dataset']['order']
  if before.dataset.order == earlier != config.dataset.order:
    raise CheckpointError(
        f'{workdir} was made by an earlier version of the program, with which '
        'the order of images was another: it can be evaluated; continue it '
        'with that version, or use another --workdir'
    )
  old = workdir_lib.flatten(before.to_dict())
  new = workdir_lib.flatten(config.to_dict())
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
  """Whether only the pretrained run's path differs; it is not read again."""
  is_path = name == 'pretrained.workdir'
  return is_path and None not in (old.get(name), new.get(name))


def _has_no_use(name, old, new):
  """Whether the field is unused: the reference batch size without scaling."""
  scaling = {config.get('schedule.batch_scaling') for config in (old, new)}
  return name == 'schedule.reference_batch_size' and scaling == {'none'}


def _way_back(workdir, changed, old, new):
  """Describes how to restore the config of an existing run."""
  texts = any(len(str(old.get(name))) > _SHOWN for name in changed)
  others = set(changed) - (old.keys() & new.keys())
  # More than a few, or other fields: of another file of a config.
  if len(changed) > _MOST or texts or others:
    with contextlib.suppress(OSError, ValueError, IndexError):
      sessions = workdir_lib.read_sessions(workdir / workdir_lib.ENVIRONMENT)
      command = sessions[-1]['command']
      return (
          'give the command that made it, with the same files: python '
          + shlex.join(map(str, command))
      )
    return f'bring back the config of {workdir / workdir_lib.CONFIG}'
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


def environment_differences(
    workdir: pathlib.Path,
    now: dict[str, Any],
    prefix: str | tuple[str, ...] = '',
) -> list[str]:
  """Differences between this session and the last one in environment.json.

  Args:
    workdir: of the run.
    now: as from `environment.describe`.
    prefix: of the names to compare, or several.

  Raises:
    OSError, ValueError, IndexError: there is none, or it cannot be read.
  """
  then = workdir_lib.read_sessions(workdir / workdir_lib.ENVIRONMENT)[-1]
  # As JSON has it, and the command is another one anyway.
  ours, theirs = workdir_lib.flatten(now), workdir_lib.flatten(then)
  # Older runs do not tell of all.
  known = [group for group in now if group in then and group != 'command']
  return [
      f'{name} was {theirs.get(name)!r}, is {ours.get(name)!r}'
      for name in sorted(ours.keys() | theirs.keys())
      if name.split('.')[0] in known
      and name.startswith(prefix)
      and ours.get(name) != theirs.get(name)
  ]
