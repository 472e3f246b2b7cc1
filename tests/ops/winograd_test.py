"""Convolutions with fewer multiplications: by hand, exactly, by TensorFlow."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from alexnet.ops import convolution as convolution_lib
from alexnet.ops import forms
from alexnet.ops.cpu import direct, winograd
from tests.exact import exactly, normal, output_and_gradients

_METHODS = {
    'square 3': winograd._SQUARE_3,
    'rows 3': winograd._ROWS_3,
    'rows 5': winograd._ROWS_5,
    'rounded square 3': winograd._ROUNDED_SQUARE_3,
    'rounded rows 5': winograd._ROUNDED_ROWS_5,
}


class MatricesTest(parameterized.TestCase):

  def test_by_hand(self):
    """Those of Lavin and Gray for F(2, 3), but for the signs of a pair."""
    half = Fraction(1, 2)
    method = winograd._Method(2, 3, (0, 1, -1), axes=2)
    self.assertEqual(method.outputs, [[1, 1, 1, 0], [0, 1, -1, 1]])
    self.assertEqual(
        method.kernels,
        [[-1, 0, 0], [half, half, half], [half, -half, half], [0, 0, 1]],
    )
    self.assertEqual(
        method.inputs,
        [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]],
    )

  @parameterized.named_parameters(*_METHODS.items())
  def test_are_a_convolution(self, method):
    rng = np.random.default_rng(0)
    tile = rng.integers(-9, 9, method.pixels + method.taps - 1).tolist()
    kernel = rng.integers(-9, 9, method.taps).tolist()

    def times(matrix, vector):
      return [sum(a * b for a, b in zip(row, vector)) for row in matrix]

    products = [
        a * b
        for a, b in zip(
            times(method.inputs, tile), times(method.kernels, kernel)
        )
    ]
    self.assertEqual(
        times(method.outputs, products),
        np.correlate(tile, kernel, 'valid').tolist(),
    )


class ConvolutionTest(parameterized.TestCase):

  @parameterized.parameters(
      # method, size, stride, height, width, in, out, padding
      ('square 3', 3, 1, 13, 13, 24, 16, (1, 1)),  # conv3 to conv5.
      ('square 3', 3, 1, 8, 9, 5, 6, (1, 1)),
      ('square 3', 3, 1, 5, 6, 5, 6, (0, 0)),
      ('square 3', 3, 1, 7, 7, 3, 8, (2, 1)),
      ('square 3', 3, 1, 4, 5, 5, 1, (0, 2)),
      ('square 3', 3, 1, 3, 3, 1, 5, (0, 0)),  # One pixel.
      ('rows 5', 5, 1, 27, 27, 12, 16, (2, 2)),  # conv2.
      ('rows 5', 5, 1, 8, 9, 5, 6, (2, 1)),
      ('rows 5', 5, 1, 10, 7, 5, 1, (0, 0)),
      ('rows 5', 5, 1, 5, 5, 1, 5, (0, 0)),
      ('rows 5', 5, 1, 2, 3, 4, 3, (2, 4)),
      ('rows 3', 11, 4, 43, 51, 3, 8, (1, 2)),  # conv1.
      ('rows 3', 11, 4, 11, 11, 3, 4, (0, 0)),
      ('rows 3', 11, 4, 34, 23, 2, 5, (2, 2)),
      ('rows 3', 6, 2, 19, 12, 4, 3, (3, 0)),
      ('rows 3', 3, 1, 13, 12, 5, 6, (1, 1)),
      ('rounded square 3', 3, 1, 13, 13, 24, 16, (1, 1)),
      ('rounded square 3', 3, 1, 8, 9, 5, 6, (1, 1)),
      ('rounded square 3', 3, 1, 7, 7, 3, 8, (2, 1)),
      ('rounded square 3', 3, 1, 4, 5, 5, 1, (0, 2)),
      ('rounded square 3', 3, 1, 3, 3, 1, 5, (0, 0)),
      ('rounded rows 5', 5, 1, 27, 27, 12, 16, (2, 2)),
      ('rounded rows 5', 5, 1, 8, 9, 5, 6, (2, 1)),
      ('rounded rows 5', 5, 1, 10, 7, 5, 1, (0, 0)),
      ('rounded rows 5', 5, 1, 5, 5, 1, 5, (0, 0)),
      ('rounded rows 5', 5, 1, 2, 3, 4, 3, (2, 4)),
      ('rounded rows 5', 20, 4, 43, 51, 3, 8, (1, 2)),
  )
  def test_tensorflow(
      self, name, size, stride, height, width, channels, features, padding
  ):
    method = _METHODS[name]
    x = jnp.asarray(normal(2, height, width, channels), method.dtype)
    w = jnp.asarray(normal(size, size, channels, features, seed=1))
    out = [(s + sum(padding) - size) // stride + 1 for s in (height, width)]
    g = jnp.asarray(normal(2, *out, features, seed=2), method.dtype)

    def by_method(x, w):
      return winograd.convolution(
          x, w, stride=stride, padding=padding, method=method
      )

    def by_tensorflow(x, w):
      x = tf.pad(x, [[0, 0], padding, padding, [0, 0]])
      return tf.nn.conv2d(x, w, stride, 'VALID')

    y, gradients = output_and_gradients(jax.jit(by_method), g, x, w)
    exact, exact_gradients = exactly(by_tensorflow, g, x, w)
    dtypes = (method.dtype, method.dtype, jnp.float32)
    error = 2e-2 if method.rounds else 4e-6
    for one, other, dtype in zip(
        (y, *gradients), (exact, *exact_gradients), dtypes
    ):
      self.assertEqual(one.dtype, dtype)
      self.assertEqual(one.shape, other.shape)
      np.testing.assert_allclose(
          np.float64(one), other, atol=error * np.abs(other).max()
      )

  @parameterized.parameters(
      # method, size, stride, side, in, out, padding; how many times the errors
      # of output, gradients of images and of kernel may be
      ('square 3', 3, 1, 13, 256, 384, (1, 1), (5, 6, 4)),
      ('rows 5', 5, 1, 27, 48, 128, (2, 2), (5, 6, 4)),
      # Nobody reads the gradient of the images.
      ('rows 3', 11, 4, 224, 3, 96, (1, 2), (3, 8, 3)),
      # The plain form's gradient of the kernel has no error but those of sums.
      ('rounded square 3', 3, 1, 13, 256, 384, (1, 1), (2, 2, None)),
      ('rounded rows 5', 5, 1, 27, 48, 128, (2, 2), (3, 3, None)),
      # Computed in float32.
      ('rows 3', 11, 4, 224, 3, 96, (1, 2), (1, 1, None), jnp.bfloat16),
  )
  def test_errors_beside_those_of_the_plain_form(
      self, name, size, stride, side, channels, features, padding, times,
      dtype=None,
  ):
    """Of layers as large as those of the paper, after a ReLU."""
    dtype = dtype or _METHODS[name].dtype
    x = jnp.asarray(np.maximum(normal(2, side, side, channels), 0), dtype)
    w = 0.01 * normal(size, size, channels, features, seed=1)
    out = (side + sum(padding) - size) // stride + 1
    g = jnp.asarray(normal(2, out, out, features, seed=2), dtype)

    def by_tensorflow(x, w):
      x = tf.pad(x, [[0, 0], padding, padding, [0, 0]])
      return tf.nn.conv2d(x, w, stride, 'VALID')

    exact, exact_gradients = exactly(by_tensorflow, g, x, w)
    results = (exact, *exact_gradients)

    def errors(convolution):
      y, gradients = output_and_gradients(
          jax.jit(convolution), g, x, jnp.asarray(w)
      )
      pairs = zip(map(np.float64, (y, *gradients)), results)
      return [math.sqrt(np.mean((one - other) ** 2)) for one, other in pairs]

    if dtype == jnp.bfloat16:
      plain = errors(
          lambda x, w: direct.by_products(
              x, w, stride=stride, padding=padding
          )
      )
    else:
      with forms.plain_forms():
        plain = errors(
            lambda x, w: convolution_lib.grouped_convolution(
                x, w, stride=stride, padding=padding
            )
        )
    by_method = errors(
        lambda x, w: winograd.convolution(
            x, w, stride=stride, padding=padding, method=_METHODS[name]
        )
    )
    bound = 3e-6 if dtype == jnp.float32 else 8e-3
    for one, other, limit, result in zip(by_method, plain, times, results):
      if limit is not None:
        self.assertLess(one, limit * other)
      self.assertLess(one, bound * np.std(result))

  @parameterized.parameters(
      # batch, in, out, stride, size of the kernel, dtype, platform; products
      # of matrices and convolutions
      (8, 128, 128, 1, 3, jnp.float32, 'cpu', 2 * 2 * 25, 0),
      (8, 128, 120, 1, 3, jnp.float32, 'cpu', 0, 4),  # Too few features,
      (8, 120, 128, 1, 3, jnp.float32, 'cpu', 0, 4),  # channels,
      (1, 128, 128, 1, 3, jnp.float32, 'cpu', 0, 4),  # or images.
      (8, 128, 128, 1, 4, jnp.float32, 'cpu', 0, 4),
      (8, 128, 128, 1, 3, jnp.float32, 'cuda', 0, 2),
      (1, 32, 48, 1, 5, jnp.float32, 'cpu', 0, 2 * 2 * 7),
      (1, 31, 48, 1, 5, jnp.float32, 'cpu', 0, 4),
      (1, 3, 32, 4, 11, jnp.float32, 'cpu', 0, 2 * 2 * 7),
      (1, 3, 32, 4, 10, jnp.float32, 'cpu', 0, 4),  # Too many zeros.
      (1, 3, 32, 4, 11, jnp.float32, 'cuda', 0, 2),
      (8, 128, 128, 1, 3, jnp.bfloat16, 'cpu', 2 * 2 * 16, 0),
      (8, 128, 120, 1, 3, jnp.bfloat16, 'cpu', 2 * 2 * 3, 0),
      (8, 128, 128, 1, 3, jnp.bfloat16, 'cuda', 0, 2),
      (1, 32, 48, 1, 5, jnp.bfloat16, 'cpu', 2 * 2 * 6, 0),
      (1, 3, 32, 4, 11, jnp.bfloat16, 'cpu', 0, 2 * 2 * 7),
  )
  def test_layers_use_it(
      self, batch, channels, features, stride, size, dtype, platform, products,
      convolutions,
  ):
    loss = lambda x, w: convolution_lib.grouped_convolution(
        x, w, padding=(1, 1), stride=stride, groups=2
    ).sum()
    traced = jax.jit(jax.grad(loss, (0, 1))).trace(
        jax.ShapeDtypeStruct((batch, 13, 13, 2 * channels), dtype),
        jax.ShapeDtypeStruct((size, size, channels, 2 * features), dtype),
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    self.assertEqual(text.count('dot_general'), products)
    self.assertEqual(text.count('stablehlo.convolution'), convolutions)


if __name__ == '__main__':
  absltest.main()
