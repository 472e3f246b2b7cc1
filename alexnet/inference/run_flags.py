"""Flags of the commands that use a trained network, and what they load."""

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

# Of a long list.
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
    argv: what is left of the command line.
    trains: whether to reserve most of a GPU's memory, as main.py does. Other
      commands leave it to a run that trains beside them.

  Returns:
    The flags.

  Raises:
    UsageError: there is an argument that is no flag.
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
  """Defines --workdir, --step, and where the run's images are now."""
  paths.define('workdir', 'Folder of the run.')
  flags.DEFINE_string(
      'step', None,
      "Of the checkpoint; 'best': that of the best evaluation; unset: the "
      'newest.'
  )
  define_moved()
  flags.mark_flag_as_required('workdir')


def define_moved() -> None:
  """Defines where a run's images are now."""
  paths.define('train_dir', 'Where the training folder is now.')
  paths.define('eval_dir', 'Where the evaluation folder is now.')
  paths.define(
      'data_dir', 'Where prepared data or TensorFlow Datasets are now.'
  )


def define_class_names() -> None:
  """Defines what classes are to be called."""
  paths.define(
      'class_names',
      "File of what classes are to be called: 'n01440764 tench, Tinca tinca'.",
  )


def read_class_names(
    file: pathlib.Path, classes: Sequence[str]
) -> dict[str, str]:
  """Reads what classes are to be called, a line each.

  A line has a class of the data, and behind blanks or a tab its name, of
  several between commas the first: 'n01440764 tench, Tinca tinca'; or both are
  the first columns of a CSV file. Lines of other classes are passed over.

  Args:
    file: a text in UTF-8.
    classes: of the data.

  Returns:
    {class of the data: what it is to be called}, of some or all.

  Raises:
    ConfigError: it cannot be read, has no line of a class of the data, or one
      without a name.
  """
  wanted = (
      "wanted lines with a class and its name, such as 'n01440764 tench, Tinca "
      "tinca' or 'n01440764,tench'"
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
        f'--class_names: cannot read {place} ({error}): wanted a text in UTF-8'
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
        '--class_names: %s has no name for %d of %d classes (%s), which are '
        'called as in the data', place, len(missing), len(classes),
        f'{shown}, ...' if len(missing) > _SHOWN else shown,
    )
  return found


def _named_class(line, known):
  """(label of the class that a line is of, or None, the name in it)."""
  for delimiter in '\t;,':
    fields = next(csv.reader([line], delimiter=delimiter), [])
    if len(fields) > 1 and (label := known.find(fields[0])) is not None:
      # Behind a tab stands what would stand behind a blank.
      name = fields[1].split(',')[0] if delimiter == '\t' else fields[1]
      return label, name.strip()
  # Classes may have blanks in their names: the longest that is known counts.
  for end in reversed([*_BLANKS.finditer(line)]):
    label = known.find(names_lib.unquoted(line[: end.start()]))
    if label is not None:
      name = line[end.end() :].split(',')[0]
      return label, names_lib.unquoted(name)
  return None, ''


def renamed(
    network: 'TrainedNetwork', file: pathlib.Path | None
) -> 'TrainedNetwork':
  """A network whose classes are called otherwise; its inputs' are not.

  Args:
    network: the network.
    file: see `read_class_names`; None: they are called as they are.

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
  """Loads the network that the flags name.

  Args:
    step: of the checkpoint, where no flag says it.

  Raises:
    UserError: see `alexnet.load`.
  """
  # With JAX, which --help does not need.
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
  """{dotted field of the config: value} of the flags that are set."""
  values = {field: flags.FLAGS[flag].value for flag, field in _MOVED.items()}
  # As text, which is what a config has.
  return {k: str(value) for k, value in values.items() if value is not None}


def check_layer(network: 'TrainedNetwork', layer: str) -> None:
  """Raises ConfigError if a network has no such layer."""
  if layer not in network.layers:
    raise ConfigError(
        f"--layer is '{layer}', which this network does not have: wanted one "
        f'of {", ".join(network.layers)}'
    )
