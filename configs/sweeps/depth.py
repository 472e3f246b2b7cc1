"""One of the middle convolutions removed.

  python -m alexnet.sweep --config=configs/sweeps/depth.py --seeds=3 \
      --workdir=runs/depth

Add the dataset after a colon, as for other configs: depth.py:folder

§7: "removing any of the middle layers results in a loss of about 2 % for the
top-1 performance"; the log has no such run. Without conv3, conv4 reads both
towers instead; without conv5, the last pooling stays.
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
  yield 'without conv3', {
      'model.conv3.features': 0,
      'model.conv4.reads': 'both',
  }, (2.0, None)
  yield 'without conv4', {'model.conv4.features': 0}, (2.0, None)
  yield 'without conv5', {'model.conv5.features': 0}, (2.0, None)
