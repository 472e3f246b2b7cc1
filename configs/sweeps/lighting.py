"""PCA lighting as in the code, as in the paper, and none.

  python -m alexnet.sweep --config=configs/sweeps/lighting.py:folder --seeds=3 \
      --set=dataset.train_dir=PHOTOS --workdir=runs/lighting

§4.1: "over 1 %" of top-1 error; the log has no such run. Lighting has no use
for grey images, such as the digits.
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
  yield 'no lighting', {'augmentation.lighting': 'none'}, (1.0, None)
  yield "the paper's eigenvalues", {
      'augmentation.lighting': 'eigenvalue',
      'augmentation.lighting_divisor': 1.0,
  }
