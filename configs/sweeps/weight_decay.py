"""No weight decay, and ten times as much.

  python -m alexnet.sweep --config=configs/sweeps/weight_decay.py --seeds=3 \
      --workdir=runs/weight_decay

Add the dataset after a colon, as for other configs: weight_decay.py:folder

§5: "this small amount of weight decay was important for the model to learn ...
it reduces the model's training error"; the paper gives no number.
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
  yield 'run #145: 0.0005', {}
  yield 'none', {'optimizer.weight_decay': 0.0}
  yield '0.005', {'optimizer.weight_decay': 0.005}
