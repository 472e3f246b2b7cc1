"""Sweeps: a file that lists variants of a run."""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections

from alexnet.config.errors import ConfigError

Overrides = dict[str, Any]

# File in the folder of a run that has diverged or has an invalid config.
FAILED = 'failed.txt'


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of a sweep's table.

  Attributes:
    name: name for messages and folders.
    overrides: {'dotted.field': value}.
    paper: increases of top-1 and top-5 error over the base, in points, from the
      paper or its code's log; None if not given.
  """

  name: str
  overrides: Overrides
  paper: tuple[float, float | None] | None = None


class Sweep:
  """The runs that a sweep file describes: every variant with every seed.

  Attributes:
    name: name of the file.
    variants: the variants; the first is the base.
    seeds: number of seeds.
  """

  def __init__(
      self, spec: str, settings: Overrides | None = None, seeds: int = 1
  ):
    """Loads a sweep file.

    Args:
      spec: FILE or FILE:DATASET, as for a config.
      settings: {'dotted.field': value} for all runs; variants override them.
      seeds: number of seeds, starting with the config's.

    Raises:
      ConfigError: not a sweep file, or it sets unknown fields.
    """
    file, _, data = spec.partition(':')
    path = pathlib.Path(file)
    module = _load(path)
    self.name = f'{path.stem}-{data}' if data else path.stem
    self.seeds = seeds
    self._get_config: Callable[..., ml_collections.ConfigDict] = (
        module.get_config
    )
    self._data = (data,) if data else ()
    self._settings = settings or {}
    self.variants = [_variant(item) for item in module.sweep()]
    if not self.variants:
      raise ConfigError(f'sweep() of {file} yields no run')

  def __len__(self) -> int:
    """Returns the number of runs."""
    return len(self.variants) * self.seeds

  def variant(self, index: int) -> Variant:
    """Returns the variant of a run; runs are ordered by seed, then variant."""
    return self.variants[index % len(self.variants)]

  def config(self, index: int) -> ml_collections.ConfigDict:
    """Returns the config of a run."""
    config = self._get_config(*self._data).lock()
    variant = self.variant(index)
    for overrides in (self._settings, variant.overrides):
      try:
        config.update_from_flattened_dict(overrides)
      except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f'run {index} of sweep {self.name} sets {overrides}, which does '
            f'not fit the config: {error}'
        ) from error
    # All seeds are evaluated on the same images.
    if config.dataset.split_seed is None:
      config.dataset.split_seed = config.seed
    config.seed += index // len(self.variants)
    return config

  def folder(self, index: int) -> str:
    """Returns a run's folder in the workdir; sweeps share equal runs."""
    config = self.config(index)
    # The base has different names in different sweeps but is the same run.
    is_base = config == self.config(index - index % len(self.variants))
    name = 'base' if is_base else self.variant(index).name
    name += f',seed={config.seed}'
    safe = ''.join(c if c.isalnum() or c in '=.,-_' else '_' for c in name)
    text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return f'{safe[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'

  def describe(self, index: int) -> str:
    """Describes a run."""
    variant = self.variant(index)
    seed = f'seed {self.config(index).seed}'
    return f'{self.name}: {variant.name}, {seed}: {variant.overrides}'


def _variant(item):
  if isinstance(item, dict):
    item = (_name_of(item), item)
  return Variant(*item)


def _name_of(overrides):
  return ', '.join(
      f'{field.rsplit(".", 1)[-1]}={value}'
      for field, value in overrides.items()
  ) or 'base'


def _load(path):
  if not path.is_file():
    raise ConfigError(
        f'{path} is not a file: expected one such as '
        'configs/sweeps/learning_rate.py'
    )
  # Sweeps import the config they vary as `configs.NAME`.
  root = str(pathlib.Path(__file__).parents[2])
  if root not in sys.path:
    sys.path.insert(0, root)
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  for name in ('get_config', 'sweep'):
    if not hasattr(module, name):
      raise ConfigError(
          f'{path} has no {name}(): see configs/sweeps/learning_rate.py'
      )
  return module


def parse_settings(texts: Iterable[str]) -> Overrides:
  """Parses 'dotted.field=value'; values that are not literals are strings."""
  settings = {}
  for text in texts:
    field, equals, value = text.partition('=')
    if not field or not equals:
      raise ConfigError(f"--set is '{text}': expected field=value")
    try:
      settings[field] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      settings[field] = value
  return settings
