"""Overlapping pooling, 3 x 3 with stride 2, against 2 x 2.

  python -m alexnet.sweep --config=configs/sweeps/pooling.py --seeds=3 \
      --workdir=runs/pooling

Add the dataset after a colon, as for other configs: pooling.py:folder

Runs #145 and #147 (§3.4). The latter also has less padding in conv2 and conv5,
so that maps keep similar sizes: 55, 28, 26, 13, 13, 13, 11, 6 pixels.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet_2012


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns the base of all runs."""
  return alexnet_2012.get_config(data)


def sweep() -> Iterator[tuple[Any, ...]]:
  """Yields names of variants, overrides, and the paper's differences."""
  yield 'run #145', {}
  yield 'without overlap (run #147)', {
      'model.pool.window': 2,
      'model.conv2.padding': (1, 1),
      'model.conv5.padding': (0, 0),
  }, (0.4, 0.3)
