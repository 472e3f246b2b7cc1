"""Learning rates in factors of about three around the recipe's.

  python -m alexnet.sweep --config=configs/sweeps/learning_rate.py \
      --workdir=runs/learning_rate

Add the dataset after a colon, as for other configs: learning_rate.py:folder
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns the base of all runs."""
  return alexnet.get_config(data)


def sweep() -> Iterator[dict[str, Any]]:
  """Yields the overrides of each run."""
  for rate in (0.001, 0.003, 0.01, 0.03):
    yield {'schedule.learning_rate': rate}
