"""The reference AlexNet in JAX.

  import alexnet
  network = alexnet.load('runs/alexnet')
  probabilities = network.predict(['photo.jpg'])  # [images, classes]
  features = network.features(['photo.jpg'], 'fc7')

`load` is the documented way into a trained network; everything else below this
package may move.
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
  """Loads the network of a run, finished or under way.

  Args:
    workdir: of the run; a copy on another machine will do, without its data.
    step: of the checkpoint; 'best' for that of the best evaluation; None or
      'newest' for the newest that is not damaged.
    overrides: {dotted field: value} of the config, see `inference.loading`.

  Returns:
    A network with `predict`, `features`, `layers` and `class_names`.

  Raises:
    CheckpointError: no run there, no such checkpoint, or it is damaged.
    ConfigError: a field of the config has a value that cannot work.
    DataError: a run of an older version, whose data is not there.
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
