"""ReLU against tanh and the logistic function, also at a tenth of the rate.

  python -m alexnet.sweep --config=configs/sweeps/activation.py --seeds=3 \
      --workdir=runs/activation

Add the dataset after a colon, as for other configs: activation.py:folder

§3.1 compares them on CIFAR-10 with rates tuned for each: configs/figure1.py.
The tenth applies to schedules that start from the learning rate, not to the
`steps` of run #145.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet_2012


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns the base of all runs."""
  return alexnet_2012.get_config(data)


def sweep() -> Iterator[tuple[Any, ...]]:
  """Yields names of variants and their overrides."""
  yield 'ReLU (run #145)', {}
  for name in ('tanh', 'sigmoid'):
    yield name, {'model.activation': name}
    yield f'{name}, a tenth of the rate', {
        'model.activation': name,
        'schedule.learning_rate': 0.001,
    }
