"""Dropout: none, and the form that is usual now.

  python -m alexnet.sweep --config=configs/sweeps/dropout.py --seeds=3 \
      --workdir=runs/dropout

Behind a colon the dataset, as for the config it varies: dropout.py:folder

§4.2: "Without dropout, our network exhibits substantial overfitting"; the paper
has no number, and it takes many epochs to see.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet_2012


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """The base that every run starts from."""
  return alexnet_2012.get_config(data)


def sweep() -> Iterator[tuple[Any, ...]]:
  """Yields the variants' names and what they set."""
  yield 'run #145', {}
  yield 'no dropout', {'model.fc6.dropout': 0.0, 'model.fc7.dropout': 0.0}
  yield 'inverted dropout', {'model.dropout_kind': 'inverted'}
