"""Means over the devices of a mesh, of what varies over them and what not."""

import jax
import numpy as np
from absl.testing import absltest, parameterized
from jax import P
from jax.sharding import AxisType, NamedSharding

from alexnet.ops import collectives
from alexnet.runtime.mesh import DATA, TOWER

BOTH = (DATA, TOWER)


class MeanTest(parameterized.TestCase):

  @parameterized.product(
      mesh=((1, 1), (2, 1), (1, 2), (2, 2)),
      axes=((DATA,), (TOWER,), BOTH),
      varies=((), (DATA,), (TOWER,), BOTH),
  )
  def test_of_what_varies_over_some_axes(self, mesh, axes, varies):
    """What does not vary over an axis is its own mean over it."""
    place = [axis if axis in varies else None for axis in BOTH]
    result = [
        None if axis in axes or axis not in varies else axis for axis in BOTH
    ]
    x = np.arange(1.0, 5.0, dtype=np.float32).reshape(2, 2) ** 2
    # In NumPy: a device has a part of x, its first number is the value.
    sizes = [size if axis in varies else 1 for axis, size in zip(BOTH, mesh)]
    parts = x[:: 2 // sizes[0], :: 2 // sizes[1]]
    wanted = parts.mean(
        tuple(i for i, axis in enumerate(BOTH) if axis in axes), keepdims=True
    )
    devices = jax.make_mesh(mesh, BOTH, axis_types=(AxisType.Explicit,) * 2)
    mapped = jax.shard_map(
        lambda x: collectives.mean(x[:1, :1], axes),
        mesh=devices, in_specs=P(*place), out_specs=P(*result),
    )
    x = jax.device_put(x, NamedSharding(devices, P(*place)))
    np.testing.assert_array_equal(jax.jit(mapped)(x), wanted)


if __name__ == '__main__':
  absltest.main()
