"""Reads the history of a run from its workdir, in any state.

This needs neither JAX nor the data, and works for copied, running and stopped
runs.
"""

import dataclasses
import functools
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import ml_collections

from alexnet.checkpointing import workdir
from alexnet.config.errors import CheckpointError
from alexnet.metrics.writer import FILE, read_records

# Points of a curve, by epoch if known, else by step.
Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class History:
  """One run.

  Attributes:
    folder: its workdir.
    name: short name, unique among several runs.
    config: its config.
    sessions: commands, versions and devices from environment.json.
    records: records of metrics.jsonl, with today's names of kinds.
    results: contents of results.json; None if the run is unfinished.
  """

  folder: pathlib.Path
  name: str
  config: ml_collections.ConfigDict
  sessions: list[dict[str, Any]]
  records: list[dict[str, Any]]
  results: dict[str, Any] | None

  def of_kind(self, kind: str) -> list[dict[str, Any]]:
    """Returns the records of one kind, in order."""
    return [record for record in self.records if record['kind'] == kind]

  @functools.cached_property
  def epochs_per_step(self) -> float | None:
    """Epochs per step from the last line of the log; None without lines."""
    for line in reversed(self.of_kind('train')):
      epoch = line.get('epoch')
      if isinstance(epoch, (int, float)) and epoch and line['step']:
        return epoch / line['step']
    return None

  @property
  def step(self) -> int:
    """Step of the last record."""
    return max((record['step'] for record in self.records), default=0)

  def points(self, kind: str, key: str) -> Points:
    """Returns a number over the epochs, without unknown values."""
    per_step = self.epochs_per_step or 1
    return [
        (record['step'] * per_step, float(record[key]))
        for record in self.of_kind(kind)
        if isinstance(record.get(key), (int, float))
    ]

  def last(self, kind: str) -> dict[str, Any] | None:
    """Returns the last record of a kind; for evaluations the final one."""
    final = (self.results or {}).get(kind.removeprefix('eval_'))
    return final or next(reversed(self.of_kind(kind)), None)

  @property
  def images_per_second(self) -> float | None:
    """Median speed over the log lines."""
    rates = [y for _, y in self.points('train', 'images_per_second')]
    return statistics.median(rates) if rates else None


def read(folder: pathlib.Path, name: str | None = None) -> History:
  """Reads a workdir.

  Args:
    folder: folder of the run.
    name: name of the run; None for that of the folder.

  Raises:
    CheckpointError: the folder has no run.
  """
  config = workdir.load_config(folder)
  try:
    sessions = workdir.read_sessions(folder / workdir.ENVIRONMENT)
  except (OSError, ValueError):
    sessions = []  # Missing, or the run was killed while writing it.
  records = [_renamed(record) for record in read_records(folder / FILE)]
  return History(
      folder, name or folder.resolve().name, config, sessions, records,
      workdir.load_results(folder),
  )


def _renamed(record):
  """Renames records of older runs: kind 'eval', and the names of views."""
  if record['kind'] == 'eval':
    return {**record, 'kind': f'eval_{record.get("views", "centre")}'}
  return record


def read_all(folders: Sequence[pathlib.Path]) -> list[History]:
  """Reads several workdirs, or all workdirs in a folder.

  Raises:
    CheckpointError: a folder has no run.
  """
  runs = []
  for folder in folders:
    inside = sorted(p.parent for p in folder.glob(f'*/{workdir.CONFIG}'))
    if inside and not (folder / workdir.CONFIG).exists():
      runs += inside
    elif folder.is_dir():
      runs.append(folder)
    else:
      raise CheckpointError(
          f'{folder} is not a folder: set --workdir to that of a run, or to a '
          'folder of such folders'
      )
  runs = list(dict.fromkeys(run.resolve() for run in runs))
  return [*map(read, runs, _names(runs))]


def _names(folders):
  """Returns the shortest ends of the paths that distinguish them."""
  for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
    names = [os.sep.join(folder.parts[-parts:]) for folder in folders]
    if len(set(names)) == len(names):
      return names
  return [str(folder) for folder in folders]


def differing_fields(runs: Sequence[History]) -> dict[str, list[Any]]:
  """Returns {field: its value in each run} for the fields that differ."""
  flat = [workdir.flatten(run.config.to_dict()) for run in runs]
  names = sorted(set().union(*flat))
  values = {name: [one.get(name) for one in flat] for name in names}
  return {
      name: some for name, some in values.items()
      if any(value != some[0] for value in some)
  }
