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

# In the folder of a run that has diverged, or that cannot be made.
FAILED = 'failed.txt'


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of a sweep's table.

  Attributes:
    name: for people and for folders.
    overrides: {'dotted.field': value}.
    paper: points of top-1 and top-5 error that the paper, or the log of its
      code, has it worse than the base; None where it says nothing.
  """

  name: str
  overrides: Overrides
  paper: tuple[float, float | None] | None = None


class Sweep:
  """The runs that a sweep file describes: every variant with every seed.

  Attributes:
    name: of the file.
    variants: the first is the base.
    seeds: number of seeds.
  """

  def __init__(
      self, spec: str, settings: Overrides | None = None, seeds: int = 1
  ):
    """Loads a sweep file.

    Args:
      spec: FILE or FILE:DATASET, as for a config.
      settings: {'dotted.field': value} for all runs; a variant's come after.
      seeds: number of seeds, from the config's on.

    Raises:
      ConfigError: not a sweep file, or it yields fields that no config has.
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
    """Number of runs."""
    return len(self.variants) * self.seeds

  def variant(self, index: int) -> Variant:
    """Variant of a run; runs are ordered by seed, then by variant."""
    return self.variants[index % len(self.variants)]

  def config(self, index: int) -> ml_collections.ConfigDict:
    """The config of one run."""
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
    # Seeds differ in everything but the images they are evaluated on.
    if config.dataset.split_seed is None:
      config.dataset.split_seed = config.seed
    config.seed += index // len(self.variants)
    return config

  def folder(self, index: int) -> str:
    """Folder of one run in the workdir; equal runs of two sweeps share it."""
    config = self.config(index)
    # Bases have other names in other sweeps, and are the same run.
    is_base = config == self.config(index - index % len(self.variants))
    name = 'base' if is_base else self.variant(index).name
    name += f',seed={config.seed}'
    safe = ''.join(c if c.isalnum() or c in '=.,-_' else '_' for c in name)
    text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return f'{safe[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'

  def describe(self, index: int) -> str:
    """Describes one run."""
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
        f'{path} is not a file: wanted one such as '
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
      raise ConfigError(f"--set is '{text}': wanted field=value")
    try:
      settings[field] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      settings[field] = value
  return settings
