"""No dropout, and the form of dropout that is usual today.

  python -m alexnet.sweep --config=configs/sweeps/dropout.py --seeds=3 \
      --workdir=runs/dropout

Add the dataset after a colon, as for other configs: dropout.py:folder

§4.2: "Without dropout, our network exhibits substantial overfitting"; the paper
gives no number. The difference appears only after many epochs.
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
  yield 'run #145', {}
  yield 'no dropout', {'model.fc6.dropout': 0.0, 'model.fc7.dropout': 0.0}
  yield 'inverted dropout', {'model.dropout_kind': 'inverted'}
