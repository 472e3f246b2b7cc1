"""Comparison of a run's config and environment with those of a new session.

A session may only resume a run whose config differs in no field other than
those in _MAY_CHANGE.
"""

import contextlib
import pathlib
import shlex
from typing import Any

import ml_collections

from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config.errors import CheckpointError
from input_pipeline.files import untrusted

# Fields that may differ between two sessions of a run, because they do not
# change the steps that have been computed.
_MAY_CHANGE = (
    'accumulation', 'bad_steps.action', 'bad_steps.limit', 'bad_steps.spike',
    'checkpoint_every', 'deterministic', 'duration', 'evaluate_every',
    'evaluation_batch_size',
    'keep_best', 'keep_checkpoints', 'layer_statistics_images', 'log_every',
    'log_images', 'ten_views', 'until_train_error', 'dataset.dir',
    'dataset.train_dir', 'dataset.eval_dir', 'dataset.stalled_after',
    'dataset.statistics_dir', 'dataset.processes', 'mesh.data', 'mesh.tower',
    # Names of files; their contents are in fields that are compared.
    'layers', 'layer_params',
)
# Longest text, and most fields, that an error message shows.
_SHOWN = 100
_MOST = 5


def keep_earlier_background(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Sets `dataset.background` for a run that is older than this field.

  Args:
    workdir: workdir of the run; need not exist.
    config: config of the new session.

  Returns:
    The config; with `dataset.background` set to (), as in older runs, if it has
    the default and the run's config.json has no such field.
  """
  try:
    earlier = untrusted.read_json(workdir / workdir_lib.CONFIG)
    known = 'background' in untrusted.take(earlier, 'dataset', dict)
  except (OSError, ValueError):
    return config  # `check_config` reports the error.
  if known or config.dataset.background != (255, 255, 255):
    return config
  config = config.copy_and_resolve_references()
  with config.ignore_type(), config.unlocked():
    config.dataset.background = workdir_lib.EARLIER['dataset']['background']
  return config


def check_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict | None:
  """Checks that a config may resume the run in a workdir.

  Args:
    workdir: workdir of the run; need not exist.
    config: config of the new session.

  Returns:
    The config that is saved in the workdir; None if there is no run yet.

  Raises:
    CheckpointError: the config may not resume this run, or the folder is not
      the workdir of a run; the message says how to resume.
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
        f'{workdir} was made by an earlier version of the program, which '
        'ordered images differently: it can be evaluated; continue it with '
        'that version, or use another --workdir'
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
  """Returns whether only the path of the pretrained run has changed.

  A session that resumes does not read that run again.
  """
  is_path = name == 'pretrained.workdir'
  return is_path and None not in (old.get(name), new.get(name))


def _has_no_use(name, old, new):
  """Returns whether neither config uses the field.

  This is the case for the reference batch size without batch scaling.
  """
  scaling = {config.get('schedule.batch_scaling') for config in (old, new)}
  return name == 'schedule.reference_batch_size' and scaling == {'none'}


def _way_back(workdir, changed, old, new):
  """Returns advice on how to get the config of the existing run back."""
  texts = any(len(str(old.get(name))) > _SHOWN for name in changed)
  others = set(changed) - (old.keys() & new.keys())
  # Many changes, or different field names, mean another config file.
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
  if 'model.num_classes' in changed:  # Follows from the data, not from a flag.
    ways = ['give it the images that it was made with']
    changed = [name for name in changed if name != 'model.num_classes']
  unset = [f'--config.{name}' for name in changed if old[name] is None]
  flags = [
      shlex.quote(f'--config.{name}={_as_text(old[name])}')
      for name in changed
      if old[name] is not None
  ]
  ways += [f'leave out {" ".join(unset)}'] if unset else []
  # Last, so that the flags are easy to copy.
  ways += [f'set {" ".join(flags)}'] if flags else []
  return ' and '.join(ways)


def _as_text(value):
  return value if isinstance(value, str) else repr(value)


def _difference(name, old, new):
  if any(isinstance(v, str) and len(v) > _SHOWN for v in (old, new)):
    return f'{name} was a different text'
  return f'{name} was {old!r}, is {new!r}'


def environment_differences(
    workdir: pathlib.Path,
    now: dict[str, Any],
    prefix: str | tuple[str, ...] = '',
) -> list[str]:
  """Lists differences of this session from the last one in environment.json.

  Args:
    workdir: workdir of the run.
    now: environment of this session, from `environment.describe`.
    prefix: prefix, or prefixes, of the names to compare.

  Raises:
    OSError, ValueError, IndexError: environment.json does not exist, cannot be
      read or has no session.
  """
  then = workdir_lib.read_sessions(workdir / workdir_lib.ENVIRONMENT)[-1]
  ours, theirs = workdir_lib.flatten(now), workdir_lib.flatten(then)
  # Older runs recorded fewer groups. The command differs in every session.
  known = [group for group in now if group in then and group != 'command']
  return [
      f'{name} was {theirs.get(name)!r}, is {ours.get(name)!r}'
      for name in sorted(ours.keys() | theirs.keys())
      if name.split('.')[0] in known
      and name.startswith(prefix)
      and ours.get(name) != theirs.get(name)
  ]
