"""Response normalization: without it, without one of the two, across the seam.

  python -m alexnet.sweep --config=configs/sweeps/lrn.py --seeds=3 \
      --workdir=runs/lrn

Behind a colon the dataset, as for the config it varies: lrn.py:folder

Runs #145 and #148; the paper (§3.3) gives 1.4 and 1.2 points for all of it.
The last variant, whose windows cross the seam between the towers as in Caffe's
network, has one tower device.
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
  yield 'no normalization (run #148)', {
      'model.lrn.enabled': False,
      'model.spatial_norm.enabled': False,
  }, (1.4, 1.2)
  yield 'no normalization over pixels', {'model.spatial_norm.enabled': False}
  yield 'windows across the towers (Caffe)', {
      'model.lrn.across_towers': True,
      'mesh.tower': 1,
  }
