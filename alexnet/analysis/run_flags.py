"""Flags of the commands that use a trained network, and what they load."""

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:
  from alexnet.trained import TrainedNetwork

_MOVED = {
    'train_dir': 'dataset.train_dir',
    'eval_dir': 'dataset.eval_dir',
    'data_dir': 'dataset.dir',
}


def define() -> None:
  """Defines --workdir, --step, and where the run's images are now."""
  flags.DEFINE_string('workdir', None, 'Folder of the run.')
  flags.DEFINE_string(
      'step', None,
      "Of the checkpoint; 'best': that of the best evaluation; unset: the "
      'newest.'
  )
  flags.DEFINE_string('train_dir', None, 'Where the training folder is now.')
  flags.DEFINE_string('eval_dir', None, 'Where the evaluation folder is now.')
  flags.DEFINE_string(
      'data_dir', None, 'Where prepared data or TensorFlow Datasets are now.'
  )
  flags.mark_flag_as_required('workdir')


def load_network(step: int | None = None) -> 'TrainedNetwork':
  """Loads the network that the flags name.

  Args:
    step: of the checkpoint, where no flag says it.

  Raises:
    UserError, DataError: see `trained.load`.
  """
  # With JAX, which --help does not need.
  from alexnet import checkpoints, trained

  if flags.FLAGS.step is not None:
    step = checkpoints.parse_step(flags.FLAGS.step)
  return trained.load(
      pathlib.Path(flags.FLAGS.workdir),
      step=step,
      overrides=moved(),
  )


def moved() -> dict[str, Any]:
  """{dotted field of the config: value} of the flags that are set."""
  values = {field: flags.FLAGS[flag].value for flag, field in _MOVED.items()}
  return {field: value for field, value in values.items() if value is not None}


def check_layer(network: 'TrainedNetwork', layer: str) -> None:
  """Raises ConfigError if a network has no such layer."""
  from alexnet.errors import ConfigError

  if layer not in network.layers:
    raise ConfigError(
        f"--layer is '{layer}', which this network does not have: wanted one "
        f'of {", ".join(network.layers)}'
    )
