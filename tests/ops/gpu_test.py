"""The forms of GPUs, on a CPU, against TensorFlow and worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from alexnet.ops import convolution, normalization, pooling
from alexnet.ops.gpu import pooling as gpu_pooling
from tests.exact import exactly, normal, output_and_gradients


def text_of(function, *shapes, dtype=jnp.float32, platform='cuda'):
  """StableHLO of a function's gradient."""
  arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  gradient = jax.grad(lambda *arrays: function(*arrays).sum().astype(float))
  traced = jax.jit(gradient).trace(*arrays)
  return traced.lower(lowering_platforms=(platform,)).as_text()


class MaxPoolTest(parameterized.TestCase):

  @parameterized.product(
      shape=((9, 3, 2), (10, 3, 2), (7, 2, 2), (7, 3, 1), (8, 4, 3), (3, 5, 4)),
      dtype=(jnp.float32, jnp.bfloat16),
  )
  def test_tensorflow(self, shape, dtype):
    size, window, stride = shape
    # Pixels that differ in bfloat16 too, and are all below zero.
    rng = np.random.default_rng(0)
    maps = np.stack([rng.permutation(size**2) - 120.0 for _ in range(6)])
    x = maps.reshape(2, 3, size, size).transpose(0, 2, 3, 1)
    pooled = pooling.pooled_size(size, window, stride)
    g = jnp.asarray(normal(2, pooled, pooled, 3, seed=1), dtype)

    def by_tensorflow(x):
      fill = [0, max(0, (pooled - 1) * stride + window - size)]
      x = tf.pad(x, [[0, 0], fill, fill, [0, 0]], constant_values=-1e9)
      return tf.nn.max_pool2d(x, window, stride, 'VALID')

    y, (dx,) = exactly(by_tensorflow, g, x)
    x = jnp.asarray(x, dtype)
    got, (gradient,) = output_and_gradients(
        lambda x: gpu_pooling.max_pool(x, window, stride), g, x
    )
    np.testing.assert_array_equal(np.float64(got), y)
    self.assertEqual(gradient.dtype, dtype)
    # Summed in float32, and rounded once.
    error = 2.0**-8 if dtype == jnp.bfloat16 else 1e-6
    np.testing.assert_allclose(np.float64(gradient), dx, rtol=error, atol=1e-6)

  def test_the_first_of_equals_takes_all(self):
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1:, :2, 0].set(5.0).at[0, 1, 0, 0].set(0)
    _, (gradient,) = output_and_gradients(
        lambda x: gpu_pooling.max_pool(x, 3, 2), np.full((1, 1, 1, 1), 7.0), x
    )
    np.testing.assert_array_equal(
        gradient[0, :, :, 0], [[0, 0, 0], [0, 7, 0], [0, 0, 0]]
    )

  @parameterized.parameters(0, 4, 8)
  def test_what_is_not_a_number_stays(self, place):
    x = jnp.zeros((1, 9, 1)).at[0, place, 0].set(jnp.nan).reshape(1, 3, 3, 1)
    self.assertTrue(np.isnan(gpu_pooling.max_pool(x, 3, 2)).all())

  def test_windows_of_more_places_than_int8(self):
    shape = (1, 25, 25, 2)
    pool = lambda window: lambda x: pooling.max_pool(
        x, window=window, stride=4
    )
    self.assertNotIn('select_and_scatter', text_of(pool(11), shape))
    self.assertIn('select_and_scatter', text_of(pool(12), shape))


class ConvolutionTest(parameterized.TestCase):

  @parameterized.parameters(((1, 2), True), ((2, 2), False), ((0, 0), False))
  def test_uneven_borders_are_stored(self, padding, stored):
    text = text_of(
        lambda x, kernel: convolution.grouped_convolution(
            x, kernel, stride=4, padding=padding
        ),
        (2, 23, 23, 3), (11, 11, 3, 8),
    )
    self.assertEqual('optimization_barrier' in text, stored)


class NormalizationTest(parameterized.TestCase):

  @parameterized.parameters((jnp.bfloat16, True), (jnp.float32, False))
  def test_sums_are_computed_again(self, dtype, anew):
    """Behind a barrier, in bfloat16 alone."""
    text = text_of(
        lambda x: normalization.local_response_normalization(
            x, n=5, k=2.0, alpha=0.1, beta=0.75, groups=2
        ),
        (2, 3, 3, 16), dtype=dtype,
    )
    self.assertEqual('optimization_barrier' in text, anew)


if __name__ == '__main__':
  absltest.main()
