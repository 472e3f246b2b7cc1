"""The JSON files in a run's workdir: config, environment and results."""

import contextlib
import json
import pathlib
import sys
from typing import Any

import ml_collections

from alexnet.config.errors import CheckpointError
from input_pipeline.files import atomic, untrusted

CONFIG = 'config.json'
RESULTS = 'results.json'
ENVIRONMENT = 'environment.json'

# Fields that older runs lack, with the values that those runs used.
EARLIER = {
    'augmentation': {
        'area': (0.08, 1.0),
        'aspect': (3 / 4, 4 / 3),
        'crop': 'offsets',
        'crop_size': 224,
        'pad': 0,
        'scale': (256, 480),
    },
    'bad_steps': {'action': 'stop', 'spike': None, 'limit': 5},
    'dataset': {
        'background': (),
        'border': 0,
        'channels': 3,
        'copies': 'warn',
        'order': 'argsort',
        'processes': 0,
        'size': 256,
        'split_seed': None,
        'stalled_after': 60.0,
    },
    'deterministic': False,
    'keep_best': 0,
    'layer_statistics_images': 0,
    'log_images': False,
    # The default of JAX.
    'model': {'precision': 'tensorfloat32'},
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
  """Reads a run's config; fields that older runs lack get EARLIER's values.

  Raises:
    CheckpointError: config.json cannot be read.
  """
  path = workdir / CONFIG
  try:
    values = _to_tuples(untrusted.read_json(path))
    for name, without in EARLIER.items():
      if isinstance(without, dict):
        known = untrusted.take(values, name, dict) if name in values else {}
        values[name] = {**without, **known}
      else:
        values.setdefault(name, without)
    # Configs of networks from definition files have no such fields.
    if untrusted.take(values, 'model.name', str) == 'alexnet':
      values['model'].setdefault('width', 1.0)
      values['optimizer'].setdefault('layer_decay_factors', ())
    # ConfigDict raises its own errors for invalid names of fields.
    return ml_collections.ConfigDict(values)
  except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
    raise CheckpointError(
        f'{workdir} is not the workdir of a run: cannot read {path} ({error})'
    ) from error


def save_config(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Writes a run's config."""
  write_json(workdir / CONFIG, config.to_dict())


def load_results(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Reads a finished run's results; None if missing, unreadable or invalid."""
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
    OSError, ValueError: the file cannot be read or is invalid.
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
  """Adds a session's environment and command line to environment.json.

  Args:
    workdir: workdir of the run.
    description: environment of the session, from `environment.describe`.
  """
  path, sessions = workdir / ENVIRONMENT, []
  if path.exists():
    # Older entries are lost if the file is damaged.
    with contextlib.suppress(ValueError):
      sessions = read_sessions(path)
  sessions.append({'command': sys.argv, **description})
  write_json(path, {'sessions': sessions})


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes values to a JSON file, atomically."""
  atomic.replace_text(path, json.dumps(values, indent=2) + '\n')


def _to_tuples(value):
  """Converts the lists of JSON to the tuples of configs."""
  if isinstance(value, dict):
    return {name: _to_tuples(item) for name, item in value.items()}
  if isinstance(value, list):
    return tuple(_to_tuples(item) for item in value)
  return value


def flatten(values: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Flattens nested dictionaries to {'dotted.name': value}."""
  flat = {}
  for name, value in values.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat
