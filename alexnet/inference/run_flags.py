"""Flags of the commands that use a trained network."""

import csv
import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from alexnet.config.errors import ConfigError
from alexnet.runtime import compilation_cache, heap, settings
from alexnet.runtime.gpu import accelerators
from input_pipeline.errors import printable
from input_pipeline.files import names as names_lib
from input_pipeline.files import paths, untrusted

if TYPE_CHECKING:
  from alexnet.inference.predictor import TrainedNetwork

# Entries shown of a long list.
_SHOWN = 3
_BLANKS = re.compile(r'\s+|$')
_MOVED = {
    'train_dir': 'dataset.train_dir',
    'eval_dir': 'dataset.eval_dir',
    'data_dir': 'dataset.dir',
}


def start(argv: list[str], *, trains: bool = False) -> flags.FlagValues:
  """Sets JAX up for a command that computes.

  Args:
    argv: remaining command-line arguments.
    trains: whether to reserve most of a GPU's memory, as main.py does. Other
      commands leave it to training runs on the same GPU.

  Returns:
    The flags.

  Raises:
    UsageError: an argument is not a flag.
  """
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  settings.fix()
  if not trains:
    accelerators.take_memory_as_needed()
  heap.keep_freed()
  compilation_cache.use_cache()
  return flags.FLAGS


def define() -> None:
  """Defines --workdir, --step, and the flags of moved data."""
  paths.define('workdir', 'Folder of the run.')
  flags.DEFINE_string(
      'step', None,
      "Step of the checkpoint to use, or 'best' for that of the best "
      'evaluation. Default: the newest.'
  )
  define_moved()
  flags.mark_flag_as_required('workdir')


def define_moved() -> None:
  """Defines the flags for the data's folders, if they have moved."""
  paths.define('train_dir', 'Folder of the training set, if it has moved.')
  paths.define('eval_dir', 'Folder of the evaluation set, if it has moved.')
  paths.define(
      'data_dir',
      'Folder of prepared data or TensorFlow Datasets, if it has moved.',
  )


def define_class_names() -> None:
  """Defines --class_names."""
  paths.define(
      'class_names',
      'File with the names of the classes, in lines such as '
      "'n01440764 tench, Tinca tinca'.",
  )


def read_class_names(
    file: pathlib.Path, classes: Sequence[str]
) -> dict[str, str]:
  """Reads display names of classes, one per line.

  A line is a class of the data, blanks or a tab, and its name, of which the
  part before the first comma is used: 'n01440764 tench, Tinca tinca'. In a CSV
  file the first two columns are used. Lines of other classes are ignored.

  Args:
    file: a UTF-8 text file.
    classes: classes of the data.

  Returns:
    {class of the data: display name}, for some or all classes.

  Raises:
    ConfigError: the file cannot be read, names no class of the data, or has a
      class without a name.
  """
  wanted = (
      "expected lines with a class and its name, such as 'n01440764 tench, "
      "Tinca tinca' or 'n01440764,tench'"
  )
  place, known = printable(str(file)), names_lib.Names(classes)
  try:
    lines = names_lib.read_lines(file)
    parsed = [
        (number, line, *_named_class(line, known))
        for number, line in enumerate(lines, 1) if line.strip()
    ]
  except (ValueError, csv.Error) as error:
    raise ConfigError(
        f'--class_names: cannot read {place} ({error}): expected a UTF-8 text'
    ) from error
  found = {}
  for number, line, label, name in parsed:
    if label is None:
      continue
    if not name:
      raise ConfigError(
          f"--class_names: {place}, line {number}, has a class without a name, "
          f"{untrusted.shown(line)}: {wanted}"
      )
    found[classes[label]] = name
  if not found:
    number, line = parsed[0][:2] if parsed else (1, '')
    raise ConfigError(
        f'--class_names: {place} names none of the classes '
        f'({", ".join(map(printable, classes[:_SHOWN]))}, ...), line '
        f'{number} is {untrusted.shown(line)}: {wanted}'
    )
  if missing := [name for name in classes if name not in found]:
    shown = ', '.join(map(printable, missing[:_SHOWN]))
    logging.warning(
        '--class_names: %s has no name for %d of %d classes (%s), which keep '
        'their names in the data', place, len(missing), len(classes),
        f'{shown}, ...' if len(missing) > _SHOWN else shown,
    )
  return found


def _named_class(line, known):
  """Returns (label of the line's class or None, the name in the line)."""
  for delimiter in '\t;,':
    fields = next(csv.reader([line], delimiter=delimiter), [])
    if len(fields) > 1 and (label := known.find(fields[0])) is not None:
      # A tab separates like a blank: the name ends at the first comma.
      name = fields[1].split(',')[0] if delimiter == '\t' else fields[1]
      return label, name.strip()
  # Classes may contain blanks: the longest known class at the start counts.
  for end in reversed([*_BLANKS.finditer(line)]):
    label = known.find(names_lib.unquoted(line[: end.start()]))
    if label is not None:
      name = line[end.end() :].split(',')[0]
      return label, names_lib.unquoted(name)
  return None, ''


def renamed(
    network: 'TrainedNetwork', file: pathlib.Path | None
) -> 'TrainedNetwork':
  """Renames the classes of a network; `inputs` keeps the data's names.

  Args:
    network: the network.
    file: file of names, see `read_class_names`; None changes nothing.

  Raises:
    ConfigError: see `read_class_names`.
  """
  if file is None:
    return network
  names = read_class_names(file, network.class_names)
  return dataclasses.replace(network, class_names=tuple(
      names.get(name, name) for name in network.class_names
  ))


def load_network(step: int | None = None) -> 'TrainedNetwork':
  """Loads the network selected by the flags.

  Args:
    step: step of the checkpoint if --step is not set.

  Raises:
    UserError: see `alexnet.load`.
  """
  # These import JAX, which --help does not need.
  from alexnet.checkpointing import manager
  from alexnet.inference import loading

  if flags.FLAGS.step is not None:
    step = manager.parse_step(flags.FLAGS.step)
  return loading.load(
      flags.FLAGS.workdir,
      step=step,
      overrides=moved(),
  )


def moved() -> dict[str, Any]:
  """Returns {dotted field of the config: value} of the flags that are set."""
  values = {field: flags.FLAGS[flag].value for flag, field in _MOVED.items()}
  # Paths are strings in a config.
  return {k: str(value) for k, value in values.items() if value is not None}


def check_layer(network: 'TrainedNetwork', layer: str) -> None:
  """Raises ConfigError if a network has no such layer."""
  if layer not in network.layers:
    raise ConfigError(
        f"--layer is '{layer}', which this network does not have: expected one "
        f'of {", ".join(network.layers)}'
    )
