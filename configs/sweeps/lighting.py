"""PCA lighting of the code, of the paper, and none.

  python -m alexnet.sweep --config=configs/sweeps/lighting.py:folder --seeds=3 \
      --set=dataset.train_dir=PHOTOS --workdir=runs/lighting

§4.1: "over 1 %" of top-1 error, for which the log has no run. Grey images, such
as the digits, have nothing to be lit.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import alexnet_2012


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """The base that every run starts from."""
  return alexnet_2012.get_config(data)


def sweep() -> Iterator[tuple[Any, ...]]:
  """Yields the variants' names, what they set, and the paper's differences."""
  yield 'run #145', {}
  yield 'no lighting', {'augmentation.lighting': 'none'}, (1.0, None)
  yield "the paper's eigenvalues", {
      'augmentation.lighting': 'eigenvalue',
      'augmentation.lighting_divisor': 1.0,
  }
