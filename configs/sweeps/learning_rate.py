"""The learning rate, by factors of about three around the recipe's.

  python -m alexnet.sweep --config=configs/sweeps/learning_rate.py \
      --workdir=runs/learning_rate

Behind a colon the dataset, as for the config it varies: learning_rate.py:folder
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """The base that every run starts from."""
  return alexnet.get_config(data)


def sweep() -> Iterator[dict[str, Any]]:
  """Yields what each run sets."""
  for rate in (0.001, 0.003, 0.01, 0.03):
    yield {'schedule.learning_rate': rate}
