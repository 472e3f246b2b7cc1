"""The reference AlexNet in JAX.

  import alexnet
  network = alexnet.load('runs/alexnet')
  probabilities = network.predict(['photo.jpg'])  # [images, classes]
  features = network.features(['photo.jpg'], 'fc7')

`load` is the stable entry point to a trained network; everything else in this
package may change.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # JAX, seconds that a command's --help can save.
  from alexnet.inference.predictor import TrainedNetwork

__all__ = ['load']


def load(
    workdir: str | os.PathLike,
    *,
    step: int | str | None = None,
    overrides: dict[str, Any] | None = None,
) -> 'TrainedNetwork':
  """Loads the network of a run, finished or still in progress.

  Args:
    workdir: folder of the run. A copy on another machine works, without its
      data.
    step: step of the checkpoint to load; 'best' for the best evaluation's; None
      or 'newest' for the newest undamaged one.
    overrides: {dotted field: value} to change in the config; see
      `inference.loading`.

  Returns:
    A network with `predict`, `features`, `layers` and `class_names`.

  Raises:
    CheckpointError: the workdir has no run or no such checkpoint, or the
      checkpoint is damaged.
    ConfigError: a field of the config has an invalid value.
    DataError: the run was made by an older version and its data is missing.
  """
  from alexnet.inference import loading

  return loading.load(workdir, step=step, overrides=overrides)


def __getattr__(name: str) -> Any:
  if name == 'trained':
    raise ImportError(  # What `from alexnet import trained` shows.
        'alexnet.trained is gone: write `import alexnet` and '
        '`alexnet.load(RUN)`'
    )
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
