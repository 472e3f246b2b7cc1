"""Layers against numbers worked by hand, TensorFlow and onnxruntime."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from absl.testing import absltest, parameterized
from jax.test_util import check_grads

from alexnet.ops import convolution, dropout, forms, normalization, pooling


def onnx_output(operator, inputs, **attributes):
  """Runs one operator of ONNX on NHWC arrays (kernels HWIO)."""
  planes = [
      np.ascontiguousarray(x.transpose(0, 3, 1, 2) if i == 0
                           else x.transpose(3, 2, 0, 1))
      for i, x in enumerate(inputs)
  ]
  names = [f'x{i}' for i in range(len(inputs))]
  tensor = lambda name, shape: onnx.helper.make_tensor_value_info(
      name, onnx.TensorProto.FLOAT, shape
  )
  graph = onnx.helper.make_graph(
      [onnx.helper.make_node(operator, names, ['y'], **attributes)],
      operator,
      [tensor(name, x.shape) for name, x in zip(names, planes)],
      [tensor('y', None)],
  )
  opset = [onnx.helper.make_opsetid('', 13)]
  model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
  session = onnxruntime.InferenceSession(model.SerializeToString())
  (y,) = session.run(None, dict(zip(names, planes)))
  return y.transpose(0, 2, 3, 1)


def tensorflow_gradients(function, g, *inputs):
  """Output and gradients of a function of TensorFlow."""
  inputs = [tf.constant(x) for x in inputs]
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    y = function(*inputs)
  return y.numpy(), tape.gradient(y, inputs, tf.constant(g))


def normal(*shape, scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  return (scale * rng.standard_normal(shape)).astype(np.float32)


def output_and_gradients(function, g, *inputs):
  y, pullback = jax.vjp(function, *map(jnp.asarray, inputs))
  return y, pullback(jnp.asarray(g))


class LocalResponseNormalizationTest(parameterized.TestCase):

  def test_worked_example(self):
    y = normalization.local_response_normalization(
        jnp.arange(1.0, 9.0), n=5, k=0.0, alpha=1.0, beta=1.0
    )
    # 1 / (1 + 4 + 9), 2 / (1 + 4 + 9 + 16), ..., 8 / (36 + 49 + 64).
    expected = [
        0.0714286, 0.0666667, 0.0545455, 0.0444444, 0.0370370, 0.0315789,
        0.0402299, 0.0536913,
    ]
    np.testing.assert_allclose(y, expected, rtol=2e-6)

  def test_no_window_crosses_the_seam(self):
    y = normalization.local_response_normalization(
        jnp.arange(1.0, 9.0), n=5, k=0.0, alpha=1.0, beta=1.0, groups=2
    )
    # By hand: channels 1..4 know nothing of 5..8.
    expected = [
        1 / 14, 2 / 30, 3 / 30, 4 / 29, 5 / 110, 6 / 174, 7 / 174, 8 / 149
    ]
    np.testing.assert_allclose(y, expected, rtol=2e-6)

  def test_even_window_reaches_down(self):
    y = normalization.local_response_normalization(
        jnp.array([1.0, 2.0, 3.0]), n=2, k=0.0, alpha=1.0, beta=1.0
    )
    np.testing.assert_allclose(y, [1 / 1, 2 / 5, 3 / 13], rtol=2e-6)

  @parameterized.parameters((1e-4, 0.75), (2e-5, 0.75), (1e-3, 0.5))
  def test_tensorflow(self, alpha, beta):
    x, g = normal(2, 5, 6, 16, scale=40), normal(2, 5, 6, 16, seed=1)
    y, (dx,) = output_and_gradients(
        lambda x: normalization.local_response_normalization(
            x, n=5, k=2.0, alpha=alpha, beta=beta
        ),
        g,
        x,
    )
    out, (gradient,) = tensorflow_gradients(
        lambda x: tf.nn.local_response_normalization(x, 2, 2.0, alpha, beta),
        g,
        x,
    )
    np.testing.assert_allclose(y, out, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(dx, gradient, rtol=1e-4, atol=2e-6)

  @parameterized.parameters(1e-4, 2e-5)
  def test_onnxruntime(self, alpha):
    x = normal(2, 5, 6, 16, scale=40)
    y = normalization.local_response_normalization(
        jnp.asarray(x), n=5, k=2.0, alpha=alpha, beta=0.75
    )
    # ONNX divides alpha by the window.
    out = onnx_output(
        'LRN', [x], size=5, alpha=5 * alpha, beta=0.75, bias=2.0
    )
    np.testing.assert_allclose(y, out, rtol=2e-5, atol=1e-5)

  @parameterized.product(n=(2, 3, 5), beta=(0.75, 1.0), groups=(1, 2))
  def test_gradient_by_differences(self, n, beta, groups):
    with jax.enable_x64(False):
      check_grads(
          lambda x: normalization.local_response_normalization(
              x, n=n, k=1.0, alpha=0.5, beta=beta, groups=groups
          ),
          (normal(2, 8),),
          order=1,
          modes=['rev'],
          atol=2e-2,
          rtol=2e-2,
      )

  def test_bfloat16_sums_are_float32(self):
    # A bfloat16 sum of the squares of 301 ones would stop at 256.
    x = jnp.ones((1, 302), jnp.bfloat16)
    y = jax.jit(
        lambda x: normalization.local_response_normalization(
            x, n=301, k=0.0, alpha=1.0, beta=1.0
        )
    )(x)
    self.assertEqual(y.dtype, jnp.bfloat16)
    np.testing.assert_allclose(y[0, 150].astype(np.float32), 1 / 301, rtol=1e-2)

  def test_bad_groups(self):
    with self.assertRaisesRegex(ValueError, '9 channels.*groups=2'):
      normalization.local_response_normalization(
          jnp.ones(9), n=5, k=2.0, alpha=1.0, beta=1.0, groups=2
      )


class SpatialResponseNormalizationTest(absltest.TestCase):

  def test_numpy_from_the_formula(self):
    x, g = normal(2, 7, 6, 3, scale=30), normal(2, 7, 6, 3, seed=1)
    y, (dx,) = output_and_gradients(
        lambda x: normalization.spatial_response_normalization(
            x, size=5, k=1.0, alpha=1e-2, beta=0.75
        ),
        g,
        x,
    )
    wide = x.astype(np.float64)

    def formula(x):
      out = np.empty_like(x)
      for row in range(7):
        for column in range(6):
          window = x[
              :,
              max(row - 2, 0) : row + 3,
              max(column - 2, 0) : column + 3,
          ]
          d = 1 + 1e-2 / 25 * (window**2).sum((1, 2))
          out[:, row, column] = x[:, row, column] / d**0.75
      return out

    np.testing.assert_allclose(y, formula(wide), rtol=1e-5)
    for place in ((0, 0, 0, 0), (1, 3, 2, 1), (0, 6, 5, 2)):
      step = np.zeros_like(wide)
      step[place] = 1e-4
      slope = (g * (formula(wide + step) - formula(wide - step))).sum() / 2e-4
      np.testing.assert_allclose(dx[place], slope, rtol=1e-4, atol=1e-6)


class MaxPoolTest(parameterized.TestCase):

  @parameterized.parameters(
      (55, 3, 2, 27), (27, 3, 2, 13), (13, 3, 2, 6),  # The paper.
      (55, 2, 2, 28), (26, 2, 2, 13), (11, 2, 2, 6),  # Run 147: overhanging.
      (6, 3, 2, 3),
  )
  def test_onnxruntime_and_tensorflow(self, size, window, stride, expected):
    x = normal(2, size, size, 4)
    g = normal(2, expected, expected, 4, seed=1)
    y, (dx,) = output_and_gradients(
        lambda x: pooling.max_pool(x, window=window, stride=stride), g, x
    )
    self.assertEqual(pooling.pooled_size(size, window, stride), expected)
    out = onnx_output(
        'MaxPool',
        [x],
        kernel_shape=[window] * 2,
        strides=[stride] * 2,
        ceil_mode=1,
    )
    np.testing.assert_array_equal(y, out)

    def by_tensorflow(x):
      # Its windows are counted by floor: fill up what hangs over the edge.
      fill = [0, (expected - 1) * stride + window - size]
      lowest = x.dtype.min
      x = tf.pad(x, [[0, 0], fill, fill, [0, 0]], constant_values=lowest)
      return tf.nn.max_pool2d(x, window, stride, 'VALID')

    _, (theirs,) = tensorflow_gradients(by_tensorflow, g, x)
    np.testing.assert_allclose(dx, theirs, atol=1e-6)

  def test_gap_between_windows(self):
    with self.assertRaisesRegex(ValueError, 'window=2, stride=3'):
      pooling.max_pool(jnp.ones((1, 9, 9, 1)), window=2, stride=3)

# size, in, out, kernel, stride, padding, groups
_CONVOLUTIONS = (
    (23, 3, 8, 11, 4, (1, 2), 1),  # conv1 of the paper,
    (23, 3, 8, 11, 4, (0, 3), 1),  # of the authors' code.
    (9, 8, 12, 5, 1, (2, 2), 2),
    (9, 8, 12, 5, 1, (1, 1), 2),  # Run 147.
    (7, 8, 6, 3, 1, (1, 1), 1),
    (7, 8, 6, 3, 1, (0, 0), 2),
    (8, 4, 6, 3, 2, (0, 1), 2),
    (9, 4, 6, 2, 3, (0, 0), 1),  # Stride over unread pixels.
)


class GroupedConvolutionTest(parameterized.TestCase):

  def _arrays(self, size, channels, features, kernel, stride, padding, groups):
    x = normal(2, size, size, channels)
    w = normal(kernel, kernel, channels // groups, features, seed=1)
    out = (size + sum(padding) - kernel) // stride + 1
    return x, w, normal(2, out, out, features, seed=2)

  @parameterized.parameters(*_CONVOLUTIONS)
  def test_onnxruntime_and_tensorflow(self, *case):
    stride, padding, groups = case[4:]
    x, w, g = self._arrays(*case)
    y, (dx, dw) = output_and_gradients(
        lambda x, w: convolution.grouped_convolution(
            x, w, stride=stride, padding=padding, groups=groups
        ),
        g,
        x,
        w,
    )
    low, high = padding
    out = onnx_output(
        'Conv',
        [x, w],
        group=groups,
        strides=[stride] * 2,
        pads=[low, low, high, high],
    )
    np.testing.assert_allclose(y, out, rtol=1e-4, atol=5e-5)

    def by_tensorflow(x, w):
      x = tf.pad(x, [[0, 0], padding, padding, [0, 0]])
      parts = zip(tf.split(x, groups, -1), tf.split(w, groups, -1))
      return tf.concat(
          [tf.nn.conv2d(*part, stride, 'VALID') for part in parts], -1
      )

    _, theirs = tensorflow_gradients(by_tensorflow, g, x, w)
    np.testing.assert_allclose(dx, theirs[0], rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(dw, theirs[1], rtol=1e-4, atol=5e-5)

  def test_block_diagonal_kernel(self):
    x, w = normal(2, 9, 9, 8), normal(5, 5, 4, 12, seed=1)
    full = np.zeros((5, 5, 8, 12), np.float32)
    full[:, :, :4, :6] = w[..., :6]
    full[:, :, 4:, 6:] = w[..., 6:]
    np.testing.assert_allclose(
        convolution.grouped_convolution(
            jnp.asarray(x), jnp.asarray(w), padding=(2, 2), groups=2
        ),
        convolution.grouped_convolution(
            jnp.asarray(x), jnp.asarray(full), padding=(2, 2)
        ),
        rtol=1e-4,
        atol=2e-5,
    )

  @parameterized.parameters(*_CONVOLUTIONS)
  def test_forms_of_both_platforms(self, *case):
    """The form that a GPU runs, run here, equals the CPU's."""
    stride, padding, groups = case[4:]
    x, w, g = self._arrays(*case)
    convolve = lambda x, w: convolution.grouped_convolution(
        x, w, stride=stride, padding=padding, groups=groups
    )
    ours = output_and_gradients(convolve, g, x, w)
    with forms.plain_forms():
      plain = output_and_gradients(convolve, g, x, w)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5),
        ours,
        plain,
    )

  def test_a_gpu_gets_the_plain_grouped_form(self):
    def loss(x, w):
      y = convolution.grouped_convolution(x, w, padding=(1, 1), groups=2)
      return y.sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(
        jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 2, 6))
    )
    gpu = traced.lower(lowering_platforms=('cuda',)).as_text()
    cpu = traced.lower(lowering_platforms=('cpu',)).as_text()
    self.assertRegex(gpu, '(feature|batch)_group_count = 2')
    self.assertNotRegex(cpu, '(feature|batch)_group_count = 2')


class DropoutTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.keys = jax.random.split(jax.random.key(0), 64)
    self.x = jnp.full((64, 500), 3.0)

  @parameterized.parameters(('paper', 3.0, 1.5), ('inverted', 6.0, 3.0))
  def test_values(self, kind, kept, tested):
    call = lambda keys: dropout.dropout(
        self.x, rate=0.5, kind=kind, keys=keys
    )
    np.testing.assert_array_equal(call(None), np.full((64, 500), tested))
    y = np.asarray(call(self.keys))
    np.testing.assert_array_equal(np.unique(y), [0, kept])
    # 32,000 units: the standard deviation of the share is 0.0028.
    self.assertAlmostEqual((y > 0).mean(), 0.5, delta=0.012)

  @parameterized.parameters(('paper', 0.75), ('inverted', 1.0))
  def test_test_pass_is_the_mean_of_training(self, kind, mean):
    y = dropout.dropout(self.x, rate=0.25, kind=kind, keys=self.keys)
    self.assertAlmostEqual(float(y.mean()) / 3, mean, delta=0.012)
    tested = dropout.dropout(self.x, rate=0.25, kind=kind, keys=None)
    np.testing.assert_allclose(tested, 3 * mean)

  def test_examples_differ(self):
    y = dropout.dropout(self.x, rate=0.5, kind='paper', keys=self.keys)
    self.assertLen(np.unique(np.asarray(y), axis=0), 64)


if __name__ == '__main__':
  absltest.main()
