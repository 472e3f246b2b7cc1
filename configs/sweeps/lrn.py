"""No normalization, none over pixels, and normalization across towers.

  python -m alexnet.sweep --config=configs/sweeps/lrn.py --seeds=3 \
      --workdir=runs/lrn

Add the dataset after a colon, as for other configs: lrn.py:folder

Runs #145 and #148. The paper (§3.3) gives 1.4 and 1.2 points for all of the
normalization. The last variant, whose windows cross the border between the
towers as in Caffe's network, puts both towers on one device.
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
  yield 'no normalization (run #148)', {
      'model.lrn.enabled': False,
      'model.spatial_norm.enabled': False,
  }, (1.4, 1.2)
  yield 'no normalization over pixels', {'model.spatial_norm.enabled': False}
  yield 'windows across the towers (Caffe)', {
      'model.lrn.across_towers': True,
      'mesh.tower': 1,
  }
