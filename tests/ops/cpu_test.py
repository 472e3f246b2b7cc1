"""The forms of XLA's CPU backend against TensorFlow and worked numbers."""

import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from alexnet.ops import convolution, dense, forms, pooling, reductions
from alexnet.ops.cpu import direct, matmul
from alexnet.ops.cpu import pooling as cpu_pooling
from alexnet.ops.cpu import reductions as cpu_reductions
from tests.exact import exactly, normal, output_and_gradients

# Half of the distance of two neighbours in bfloat16, which has 8 digits.
_ROUNDING = 2.0**-8


def bfloat16(*shape, seed=0):
  return jnp.asarray(normal(*shape, seed=seed), jnp.bfloat16)


def assert_rounded(actual, exact, error=1e-5):
  """A result in bfloat16: rounded once, after sums in float32."""
  assert actual.dtype == jnp.bfloat16
  bound = _ROUNDING * np.abs(exact) + error * np.abs(exact).max()
  np.testing.assert_array_less(np.abs(np.float64(actual) - exact), bound)


def assert_not_rounded(actual, exact):
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, exact, atol=1e-5 * np.abs(exact).max())


_CONVOLUTIONS = (
    # size, in, out, kernel, stride, padding
    (23, 3, 8, 11, 4, (1, 2)),  # conv1 of the paper,
    (23, 3, 8, 11, 4, (0, 3)),  # of the authors' code.
    (24, 3, 8, 11, 4, (0, 0)),  # A row and a column that nobody reads.
    (9, 8, 12, 5, 1, (2, 2)),
    (7, 16, 6, 3, 1, (1, 1)),
    (5, 2, 3, 3, 1, (0, 1)),
    (6, 4, 5, 1, 1, (0, 0)),
    (6, 4, 5, 1, 1, (1, 2)),
    (8, 4, 6, 3, 2, (0, 1)),
    (9, 4, 6, 2, 3, (0, 0)),
)


def convolution_by_tensorflow(x, w, stride, padding):
  x = tf.pad(x, [[0, 0], padding, padding, [0, 0]])
  return tf.nn.conv2d(x, w, stride, 'VALID')


class DirectConvolutionTest(parameterized.TestCase):

  @parameterized.parameters(*_CONVOLUTIONS)
  def test_tensorflow(self, size, channels, features, kernel, stride, padding):
    x = jnp.asarray(normal(2, size, size, channels))
    w = normal(kernel, kernel, channels, features, seed=1)
    out = (size + sum(padding) - kernel) // stride + 1
    g = normal(2, out, out, features, seed=2)
    y, gradients = output_and_gradients(
        jax.jit(
            lambda x, w: direct.by_eigen(x, w, stride, (padding, padding))
        ),
        g,
        x,
        w,
    )
    exact, exact_gradients = exactly(
        lambda x, w: convolution_by_tensorflow(x, w, stride, padding), g, x, w
    )
    assert_not_rounded(y, exact)
    for one, other in zip(gradients, exact_gradients):
      assert_not_rounded(one, other)

  @parameterized.parameters(
      (67, 3, 8, 11, 4, (1, 2)),  # Not by Winograd's way, as it is narrow.
      (67, 3, 32, 11, 4, (1, 2)),
      (9, 32, 32, 5, 1, (2, 2)),
  )
  def test_in_a_loop_over_parts_of_a_batch(
      self, size, channels, features, kernel, stride, padding
  ):
    """Eigen gets all convolutions: those whose axes are in one order."""
    x = jnp.zeros((3, 2, size, size, channels))
    w = jnp.zeros((kernel, kernel, channels, features))

    def add(total, part):
      loss = lambda x, w: jnp.square(
          convolution.grouped_convolution(x, w, stride=stride, padding=padding)
      ).sum()
      of_x, of_w = jax.grad(loss, (0, 1))(part, w)
      return total + of_w, of_x

    loop = jax.jit(lambda w, x: jax.lax.scan(add, w, x))
    text = loop.lower(w, x).compile().as_text()
    orders = set(re.findall(r'dim_labels=(\S+?)[,\s]', text))
    self.assertEqual(orders, {'b01f_01io->b01f'})


class ConvolutionTest(parameterized.TestCase):

  @parameterized.product(few=(0, direct.FEW), shape=_CONVOLUTIONS)
  def test_tensorflow(self, few, shape):
    # A product for each row of the kernel, and one of all.
    self.enter_context(mock.patch.object(direct, 'FEW', few))
    size, channels, features, kernel, stride, padding = shape
    x = bfloat16(2, size, size, channels)
    w = normal(kernel, kernel, channels, features, seed=1)
    out = (size + sum(padding) - kernel) // stride + 1
    g = bfloat16(2, out, out, features, seed=2)
    y, (dx, dw) = output_and_gradients(
        jax.jit(
            lambda x, w: direct.by_products(
                x, w, stride=stride, padding=padding
            )
        ),
        g,
        x,
        w,
    )

    exact, (exact_dx, exact_dw) = exactly(
        lambda x, w: convolution_by_tensorflow(x, w, stride, padding),
        g,
        x,
        jnp.asarray(w, jnp.bfloat16),
    )
    assert_rounded(y, exact)
    assert_rounded(dx, exact_dx)
    assert_not_rounded(dw, exact_dw)

  def test_sums_are_not_bfloat16(self):
    # A sum of ones in bfloat16 stops at 256.
    y = direct.by_products(
        jnp.ones((1, 5, 5, 64), jnp.bfloat16),
        jnp.ones((5, 5, 64, 1)),
        stride=1,
        padding=(0, 0),
    )
    self.assertEqual(y.item(), 1600)

  def test_layers_use_it(self):
    """On a CPU, in bfloat16; and not otherwise, or on a GPU."""

    def products(dtype, platform, size=32):
      loss = lambda x, w: convolution.grouped_convolution(
          x, w, padding=(1, 1), groups=2
      ).sum()
      traced = jax.jit(jax.grad(loss, (0, 1))).trace(
          jnp.ones((1, size, size, 4), dtype), jnp.ones((3, 3, 2, 6))
      )
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      return text.count('dot_general'), text.count('stablehlo.convolution')

    # Three rows of a kernel, two gradients, two groups.
    self.assertEqual(products(jnp.bfloat16, 'cpu'), (12, 0))
    # Of a few pixels one for that of the images.
    self.assertEqual(products(jnp.bfloat16, 'cpu', size=31), (8, 0))
    self.assertEqual(products(jnp.float32, 'cpu')[0], 0)
    self.assertEqual(products(jnp.bfloat16, 'cuda')[0], 0)


class ProductTest(parameterized.TestCase):

  @parameterized.parameters(
      (1, 1, 1), (1, 4, 3), (1, 320, 10), (2, 300, 10), (16, 64, 128),
      (17, 8, 9),
  )
  def test_tensorflow(self, rows, inputs, features):
    x, w = bfloat16(rows, inputs), normal(inputs, features, seed=1)
    g = bfloat16(rows, features, seed=2)
    y, (dx, dw) = output_and_gradients(jax.jit(matmul.product), g, x, w)
    rounded = jnp.asarray(w, jnp.bfloat16)
    exact, (exact_dx, exact_dw) = exactly(tf.matmul, g, x, rounded)
    assert_rounded(y, exact)
    assert_rounded(jax.jit(matmul.product)(x, w), exact)
    assert_rounded(dx, exact_dx)
    assert_not_rounded(dw, exact_dw)

  @parameterized.parameters((1, 4, 3), (16, 64, 128))
  def test_float32(self, rows, inputs, features):
    x, w = jnp.asarray(normal(rows, inputs)), normal(inputs, features, seed=1)
    g = normal(rows, features, seed=2)
    y, gradients = output_and_gradients(jax.jit(matmul.product), g, x, w)
    exact, exact_gradients = exactly(tf.matmul, g, x, w)
    assert_not_rounded(y, exact)
    for one, other in zip(gradients, exact_gradients):
      assert_not_rounded(one, other)
    np.testing.assert_array_equal(jax.jit(matmul.product)(x, w), y)

  def test_layers_use_it(self):
    x, w = jnp.ones((2, 8), jnp.bfloat16), jnp.ones((8, 6))

    def products(function, platform):
      traced = jax.jit(function).trace(x, w)
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      return re.findall(r'dot_general .*-> tensor<(.*)>', text)

    def predict(x, w):
      return dense.grouped_dense(x, w, 1)

    def train(x, w):
      return jax.vjp(predict, x, w)[0]

    # Its result is rounded afterwards; only that of a prediction is transposed,
    # and of 16 rows.
    self.assertEqual(products(predict, 'cpu'), ['6x16xf32'])
    self.assertEqual(products(train, 'cpu'), ['2x6xf32'])
    for function in predict, train:
      self.assertEqual(products(function, 'cuda'), ['2x6xbf16'])


class SumsTest(parameterized.TestCase):

  @parameterized.parameters(jnp.float32, jnp.bfloat16)
  def test_rows(self, dtype):
    rows = jnp.asarray(normal(700, 5), dtype)
    total = cpu_reductions.sum_of_rows(rows, jnp.float32)
    assert_not_rounded(total, np.asarray(rows, np.float64).sum(0))

  @parameterized.parameters((64, 5), (33, 7), (9,), (3, 3, 4, 8), (1, 1))
  def test_squares(self, *shape):
    x = normal(*shape)
    np.testing.assert_allclose(
        cpu_reductions.sum_of_squares(jnp.asarray(x)),
        np.square(np.float64(x)).sum(),
        rtol=1e-6,
    )

  def test_window(self):
    x = np.arange(1.0, 7.0, dtype=np.float32).reshape(1, 2, 3)
    # 1 2 3 over 4 5 6: windows of both rows (the one below) and three columns.
    total = cpu_reductions.window_sum(
        jnp.asarray(x), (1, 2, 3), ((0, 0), (0, 1), (1, 1))
    )
    np.testing.assert_array_equal(total, [[[12, 21, 16], [9, 15, 11]]])

  @parameterized.parameters(2, 4, 5)
  def test_window_of_both_platforms(self, size):
    x = jnp.asarray(normal(2, 7, 7, 6))
    window = (1, size, size, 1)
    padding = tuple((w // 2, w - 1 - w // 2) for w in window)
    with forms.plain_forms():
      plain = reductions.window_sum(x, window)
    np.testing.assert_allclose(
        cpu_reductions.window_sum(x, window, padding),
        plain,
        rtol=1e-5,
        atol=1e-5,
    )

  @parameterized.product(size=(2, 5, 13), groups=(1, 2, 3))
  def test_channels_of_both_platforms(self, size, groups):
    x = jnp.asarray(normal(2, 3, 4, 6))
    window = (1, 1, 1, size)
    padding = tuple((w // 2, w - 1 - w // 2) for w in window)
    with forms.plain_forms():
      plain = reductions.window_sum(x, window, groups)
    np.testing.assert_allclose(
        cpu_reductions.window_sum(x, window, padding, groups),
        plain,
        rtol=1e-5,
        atol=1e-5,
    )

  def test_neighbours_that_are_not_numbers(self):
    # Of the other group, or of the pixel before or after: not a channel's.
    x = jnp.ones((3, 4)).at[1, :2].set(jnp.nan)
    total = cpu_reductions.window_sum(x, (1, 3), ((0, 0), (1, 1)), 2)
    np.testing.assert_array_equal(np.isnan(total), np.isnan(x))


class MaxPoolTest(parameterized.TestCase):

  @parameterized.product(
      shape=((9, 3, 2), (10, 3, 2), (7, 2, 2), (7, 3, 1), (8, 4, 3), (3, 5, 4)),
      dtype=(jnp.float32, jnp.bfloat16),
  )
  def test_tensorflow(self, shape, dtype):
    size, window, stride = shape
    # Pixels that differ in bfloat16 too.
    rng = np.random.default_rng(0)
    maps = np.stack([rng.permutation(size**2) - 9.0 for _ in range(6)])
    x = maps.reshape(2, 3, size, size).transpose(0, 2, 3, 1)
    pooled = pooling.pooled_size(size, window, stride)
    g = jnp.asarray(normal(2, pooled, pooled, 3, seed=1), dtype)

    def by_tensorflow(x):
      fill = [0, max(0, (pooled - 1) * stride + window - size)]
      x = tf.pad(x, [[0, 0], fill, fill, [0, 0]], constant_values=-1e9)
      return tf.nn.max_pool2d(x, window, stride, 'VALID')

    y, (dx,) = exactly(by_tensorflow, g, x)
    x = jnp.asarray(x, dtype)
    pooled, (gradient,) = output_and_gradients(
        lambda x: cpu_pooling.max_pool(x, window, stride), g, x
    )
    np.testing.assert_array_equal(np.float64(pooled), y)
    self.assertEqual(gradient.dtype, dtype)
    error = _ROUNDING if dtype == jnp.bfloat16 else 1e-6
    np.testing.assert_allclose(np.float64(gradient), dx, rtol=error, atol=1e-6)

  def test_the_first_of_equals_takes_all(self):
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1:, :2, 0].set(5.0)
    _, (gradient,) = output_and_gradients(
        lambda x: cpu_pooling.max_pool(x, 3, 2), np.full((1, 1, 1, 1), 7.0), x
    )
    np.testing.assert_array_equal(
        gradient[0, :, :, 0], [[0, 0, 0], [7, 0, 0], [0, 0, 0]]
    )

  def test_who_gets_the_plain_form(self):
    pool = lambda x: pooling.max_pool(x, window=3, stride=2).sum()
    traced = jax.jit(jax.grad(pool)).trace(jnp.ones((1, 9, 9, 2)))
    text = lambda platform: traced.lower(
        lowering_platforms=(platform,)
    ).as_text()
    self.assertIn('select_and_scatter', text('tpu'))
    self.assertNotIn('select_and_scatter', text('cpu'))
    self.assertNotIn('scatter', text('cuda'))


if __name__ == '__main__':
  absltest.main()
