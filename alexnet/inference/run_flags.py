"""Flags of the commands that use a trained network, and what they load."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from alexnet.config.errors import ConfigError
from input_pipeline.files import paths, untrusted

if TYPE_CHECKING:
  from alexnet.inference.predictor import TrainedNetwork

_MOVED = {
    'train_dir': 'dataset.train_dir',
    'eval_dir': 'dataset.eval_dir',
    'data_dir': 'dataset.dir',
}


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


def class_names() -> dict[str, str]:
  """{class of the data: what the flag wants it to be called}.

  Raises:
    ConfigError: see `read_class_names`.
  """
  return read_class_names(flags.FLAGS.class_names)


def read_class_names(file: pathlib.Path | None) -> dict[str, str]:
  """Reads lines such as 'n01440764 tench, Tinca tinca': the first name counts.

  Raises:
    ConfigError: a line has no name.
  """
  names = {}
  if file is not None:
    try:
      text = untrusted.read_text(file)
    except ValueError as error:
      raise ConfigError(
          f'--class_names: cannot read {file} ({error}): wanted a text'
      ) from error
    for line in filter(str.strip, text.splitlines()):
      key, _, name = line.strip().partition(' ')
      names[key] = name.split(',')[0].strip()
      if not names[key]:
        raise ConfigError(
            f"--class_names: {file} has the line '{line}', wanted a class and "
            'its name, such as: n01440764 tench, Tinca tinca'
        )
  return names


def renamed(
    network: 'TrainedNetwork', names: Mapping[str, str]
) -> 'TrainedNetwork':
  """A network whose classes are called otherwise; its inputs' are not.

  Args:
    network: the network.
    names: {class of the data: what it is to be called}, of some or all.
  """
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
