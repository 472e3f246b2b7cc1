"""All forms of every operation against NumPy, and the choice between them."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import export

from alexnet.models import create_model
from alexnet.ops import (
  bias,
  convolution,
  dense,
  forms,
  normalization,
  pooling,
  reductions,
)
from alexnet.runtime import compilation, sharding
from alexnet.runtime import mesh as mesh_lib
from alexnet.training import optimizer, train_step
from tests import oracle, testing
from tests.exact import normal, output_and_gradients


def grouped(function, groups):
  """An operation of the oracle on each group of the arrays' last axes."""

  def apply(*arrays):
    parts = zip(*(np.split(array, groups, -1) for array in arrays))
    outputs, pullbacks = zip(*(function(*part) for part in parts))

    def pullback(g):
      gradients = [
          back(part) for back, part in zip(pullbacks, np.split(g, groups, -1))
      ]
      return [np.concatenate(parts, -1) for parts in zip(*gradients)]

    return np.concatenate(outputs, -1), pullback

  return apply


def convolve(stride, padding, groups, *shapes):
  def by_numpy(x, kernel):
    y, pullback = oracle.convolution(x, kernel, 0.0, stride, padding)
    return y, lambda g: pullback(g)[:2]

  ours = functools.partial(
      convolution.grouped_convolution,
      stride=stride, padding=padding, groups=groups,
  )
  return ours, grouped(by_numpy, groups), *shapes


def multiply(groups, *shapes):
  def by_numpy(x, kernel):
    y, pullback = oracle.dense(x, kernel, 0.0)
    return y, lambda g: pullback(g)[:2]

  ours = functools.partial(dense.grouped_dense, groups=groups)
  return ours, grouped(by_numpy, groups), *shapes


def pool(window, stride, *shapes):
  ours = functools.partial(pooling.max_pool, window=window, stride=stride)

  def by_numpy(x):
    y, pullback = oracle.max_pool(x, window, stride)
    return y, lambda g: [pullback(g)]

  return ours, by_numpy, *shapes


def one(function):
  """With the gradient of the only array in a list."""

  def apply(x):
    y, pullback = function(x)
    return y, lambda g: [pullback(g)]

  return apply


def contrast(x):
  """With k = 1, alpha = 0.9, beta = 0.75, 3 x 3; means are constants."""
  rows, columns = oracle.near(x.shape[1], 3), oracle.near(x.shape[2], 3)
  around = lambda s: np.einsum('ih,bhwc,wj->bijc', rows, s, columns)
  m = x - around(x) / around(np.ones_like(x))
  d = 1 + 0.1 * around(m**2)

  def pullback(g):
    return [g / d**0.75 - 0.15 * m * around(g * x / d**1.75)]

  return x / d**0.75, pullback


_OPERATIONS = {
    'conv1': convolve(4, (1, 2), 1, (2, 67, 67, 3), (11, 11, 3, 32)),
    'conv2': convolve(1, (2, 2), 2, (2, 13, 13, 64), (5, 5, 32, 64)),
    'conv3': convolve(1, (1, 1), 1, (7, 13, 13, 128), (3, 3, 128, 128)),
    'conv5': convolve(1, (1, 1), 2, (7, 13, 13, 256), (3, 3, 128, 256)),
    'few images': convolve(1, (1, 1), 2, (2, 7, 7, 8), (3, 3, 4, 6)),
    'few channels': convolve(2, (0, 1), 2, (8, 24, 24, 8), (3, 3, 4, 6)),
    'dense': multiply(1, (5, 40), (40, 7)),
    'dense of one image': multiply(1, (1, 40), (40, 7)),
    'dense of maps': multiply(2, (5, 2, 3, 8), (24, 6)),
    'biases': (
        bias.add_bias,
        lambda x, b: (x + b, lambda g: [g, g.sum((0, 1, 2))]),
        (2, 9, 9, 8),
        (8,),
    ),
    'max pool': pool(3, 2, (2, 13, 13, 6)),
    'max pool that hangs over': pool(2, 2, (2, 7, 7, 6)),
    'max pool of a small map': pool(5, 4, (2, 3, 3, 6)),
    'lrn': (
        functools.partial(
            normalization.local_response_normalization,
            n=5, k=2.0, alpha=0.1, beta=0.75, groups=2,
        ),
        grouped(one(lambda x: oracle.lrn(x, 0.1)), 2),
        (2, 3, 4, 16),
    ),
    'spatial': (
        functools.partial(
            normalization.spatial_response_normalization,
            size=5, k=1.0, alpha=1e-3, beta=0.75,
        ),
        one(oracle.spatial),
        (2, 7, 8, 6),
    ),
    'contrast': (
        functools.partial(
            normalization.contrast_normalization,
            size=3, k=1.0, alpha=0.9, beta=0.75,
        ),
        contrast,
        (2, 7, 8, 6),
    ),
    'sum of squares': (
        reductions.sum_of_squares,
        lambda x: (np.sum(x**2), lambda g: [2 * g * x]),
        (48, 5),
    ),
}


def on_gpu():
  """Within this context operations take the form that a GPU would get."""

  def choose(*arrays, default, cpu, cuda=None):
    del cpu
    return (cuda or default)(*arrays)

  return absltest.mock.patch.object(forms.lax, 'platform_dependent', choose)


def close(got, wanted, dtype):
  error = 2e-2 if dtype == jnp.bfloat16 else 1e-5
  np.testing.assert_allclose(
      np.float64(got), np.float64(wanted), atol=error * np.abs(wanted).max()
  )


class FormsTest(parameterized.TestCase):

  @parameterized.product(
      name=tuple(_OPERATIONS), dtype=(jnp.float32, jnp.bfloat16)
  )
  def test_numpy(self, name, dtype):
    ours, by_numpy, *shapes = _OPERATIONS[name]
    # Parameters are float32.
    dtypes = (dtype, jnp.float32)
    arrays = [
        jnp.asarray(normal(*shape, seed=seed), of_array)
        for seed, (shape, of_array) in enumerate(zip(shapes, dtypes))
    ]
    y, pullback = by_numpy(*(np.asarray(x, np.float64) for x in arrays))
    g = jnp.asarray(normal(*np.shape(y), seed=9), dtype)
    wanted = [y, *pullback(np.asarray(g, np.float64))]
    results = {}
    contexts = {
        'cpu': contextlib.nullcontext, 'plain': forms.plain_forms, 'gpu': on_gpu
    }
    for form, context in contexts.items():
      function = jax.jit(lambda *arrays: ours(*arrays))
      with context():
        y, gradients = output_and_gradients(function, g, *arrays)
        results[form] = [y, *gradients]
        close(function(*arrays), wanted[0], dtype)
      for array, other, of_array in zip(
          results[form], wanted, (dtype, *dtypes)
      ):
        self.assertEqual(array.dtype, of_array)
        close(array, other, dtype)
    for form in 'cpu', 'gpu':
      for array, other in zip(results[form], results['plain']):
        close(array, np.asarray(other, np.float64), dtype)

  @parameterized.parameters(*_OPERATIONS)
  def test_plain_forms_are_formulas(self, name):
    """Whose derivatives are JAX's."""
    ours, _, *shapes = _OPERATIONS[name]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    self.assertIn('custom_vjp', str(jax.make_jaxpr(ours)(*shapes)))
    with forms.plain_forms():
      # Another function, as JAX keeps what it has traced of one.
      plain = jax.make_jaxpr(lambda *arrays: ours(*arrays))(*shapes)
    self.assertNotIn('custom_vjp', str(plain))

  @parameterized.parameters(*_OPERATIONS)
  def test_who_gets_which(self, name):
    ours, _, *shapes = _OPERATIONS[name]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def is_of_cpu(platform):
      both = lambda *arrays: output_and_gradients(
          ours, jnp.ones(jax.eval_shape(ours, *arrays).shape), *arrays
      )
      traced = jax.jit(both).trace(*shapes)
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      return 'LayoutConstraint' in text

    self.assertTrue(is_of_cpu('cpu'))
    self.assertFalse(is_of_cpu('cuda'))
    self.assertFalse(is_of_cpu('tpu'))
    with forms.plain_forms():
      self.assertFalse(is_of_cpu('cpu'))

  @parameterized.parameters(*_OPERATIONS)
  def test_traced_for_one_platform(self, name):
    """Its program is the same, and no other platform's forms are traced."""
    ours, _, *shapes = _OPERATIONS[name]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def both(*arrays):
      return output_and_gradients(
          ours, jnp.ones(jax.eval_shape(ours, *arrays).shape), *arrays
      )

    def traced(platform=None):
      function = lambda *arrays: both(*arrays)
      if platform:
        function = compilation.traced_for(function, platform)
      return jax.jit(function).trace(*shapes)

    def custom_calls(traced, platform):
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      return sorted(re.findall(r'custom_call @(\w+)', text))

    self.assertIn('platform_index', str(traced().jaxpr))
    self.assertNotIn('platform_index', str(traced('cpu').jaxpr))
    for device, platform in (('cpu', 'cpu'), ('gpu', 'cuda'), ('tpu', 'tpu')):
      self.assertEqual(
          custom_calls(traced(device), platform),
          custom_calls(traced(), platform),
      )
    self.assertNotIn('LayoutConstraint', custom_calls(traced('gpu'), 'cuda'))

  @parameterized.parameters(*_OPERATIONS)
  def test_arrays_of_numpy_without_jit(self, name):
    ours, by_numpy, *shapes = _OPERATIONS[name]
    arrays = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    wanted, _ = by_numpy(*map(np.float64, arrays))
    close(ours(*arrays), wanted, jnp.float32)

  @parameterized.parameters(*_OPERATIONS)
  def test_exported_for_any_batch_size(self, name):
    ours, by_numpy, (_, *shape), *others = _OPERATIONS[name]
    batch = export.symbolic_shape('batch')
    others = [normal(*other, seed=1) for other in others]
    with forms.plain_forms():
      exported = export.export(
          jax.jit(ours), platforms=('cpu', 'cuda', 'tpu')
      )(jax.ShapeDtypeStruct((*batch, *shape), jnp.float32), *others)
    exported = export.deserialize(exported.serialize())
    for count in 1, 3:
      x = normal(count, *shape)
      wanted, _ = by_numpy(*map(np.float64, (x, *others)))
      close(exported.call(x, *others), wanted, jnp.float32)


class PlainFormsTest(absltest.TestCase):

  def test_what_is_traced_is_not_reused(self):
    """One function of `jax.jit`, called with the option and without it."""
    x, kernel = jnp.ones((2, 4)), jnp.ones((4, 3))
    calls = []

    @jax.jit
    def product(x, kernel):
      calls.append(None)
      return dense.grouped_dense(x, kernel, 1)

    def is_plain():
      product(x, kernel)
      return 'LayoutConstraint' not in product.lower(x, kernel).as_text()

    self.assertFalse(is_plain())
    with forms.plain_forms():
      self.assertTrue(is_plain())
    self.assertFalse(is_plain())
    with self.assertRaises(RuntimeError), forms.plain_forms():
      raise RuntimeError
    self.assertFalse(is_plain())
    self.assertLen(calls, 2)

  def test_a_step_of_training(self):
    """All of it: gradients, their norm, on two towers."""
    config = testing.narrow_config()
    config.model.num_classes = 10
    config.mesh.tower = 2
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    rule = optimizer.create_optimizer(config.optimizer)
    create = lambda key: train_step.create_state(model, rule, key)
    batch = testing.random_batch(np.random.default_rng(0), 4, 10)
    batch = sharding.put_batch(batch, mesh)

    def run():
      state = sharding.initialize(create, mesh, 0)
      step = train_step.make_train_step(
          model=model,
          optimizer=rule,
          mesh=mesh,
          state=state,
          images=lambda batch: batch['image'],
          seed=0,
      )
      rates = jax.tree.map(lambda _: np.float32(0.01), state.params)
      text = step.lower(state, batch, rates).as_text()
      _, metrics = step(state, batch, rates)
      return 'LayoutConstraint' in text, jax.device_get(metrics)

    by_layout, wanted = run()
    self.assertTrue(by_layout)
    with forms.plain_forms():
      by_layout, got = run()
    self.assertFalse(by_layout)
    for name, value in wanted.items():
      np.testing.assert_allclose(got[name], value, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
