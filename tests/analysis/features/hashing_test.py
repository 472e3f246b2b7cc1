"""Binary codes: the formulas in NumPy, clusters that have to stay apart."""

import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.analysis.features import blocks, hashing, nearest, store
from alexnet.analysis.features.hashing import Autoencoder


def clusters(count, each, dimensions=24, seed=0):
  """(vectors, cluster of each), tight beside the distances between them."""
  rng = np.random.default_rng(seed)
  centres = 10 * rng.standard_normal((count, dimensions))
  labels = np.arange(count * each) % count
  noise = 0.5 * rng.standard_normal((count * each, dimensions))
  return (centres[labels] + noise + 50).astype(np.float32), labels


class ComponentsTest(parameterized.TestCase):

  @parameterized.parameters(40, 3000)
  def test_are_those_of_the_covariance(self, rows):
    """Of 3,000 rows by the randomized algorithm."""
    rng = np.random.default_rng(0)
    scales = 2.0 ** -np.arange(12)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    vectors = rng.standard_normal((rows, 12)) * scales @ turn + 5
    got = hashing.fit_components(vectors.astype(np.float32), 4)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(
        got.deviations, np.sqrt(values[::-1][:4]), rtol=1e-3
    )
    same = np.abs(np.sum(got.directions.T * directions[:, ::-1][:, :4], axis=0))
    np.testing.assert_allclose(same, 1, rtol=1e-4)
    by_formula = (vectors - vectors.mean(axis=0)) @ got.directions.T
    np.testing.assert_allclose(got.project(vectors), by_formula, atol=1e-4)
    np.testing.assert_allclose(
        got.project(vectors, 2), by_formula[:, :2], atol=1e-4
    )
    self.assertEqual(got.first(3).directions.shape, (3, 12))


class CoderTest(parameterized.TestCase):

  @parameterized.parameters(1, 7, 10_000)
  def test_encode_is_the_formula(self, rows):
    rng = np.random.default_rng(0)
    components = hashing.Components(
        rng.standard_normal(9), rng.standard_normal((5, 9)), np.ones(5)
    )
    coder = hashing.Coder(
        components, rng.standard_normal((5, 16)), rng.standard_normal(16)
    )
    vectors = rng.standard_normal((20, 9)).astype(np.float32)
    with mock.patch.object(blocks, '_BYTES', rows * 9 * 4):
      got = coder.encode(vectors)
    read = (vectors - components.mean) @ components.directions.T
    bits = read @ coder.kernel + coder.bias > 0
    np.testing.assert_array_equal(np.unpackbits(got, axis=1), bits)
    self.assertEqual(coder.bits, 16)

  def test_rotated(self):
    components = hashing.Components(
        np.zeros(40, np.float32), np.eye(40, dtype=np.float32), np.ones(40)
    )
    kernel = hashing.rotated(components, 32).kernel
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(32), atol=1e-5)
    self.assertFalse(kernel[32:].any())
    with self.assertRaisesRegex(store.FeaturesError, '48 bits of 40'):
      hashing.rotated(components, 48)


class AutoencoderTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.model = Autoencoder(dimensions=3, bits=4, hidden=5)
    self.vectors = np.random.default_rng(0).standard_normal((6, 3))
    self.params = self.model.init(jax.random.key(0), self.vectors)['params']

  def code(self, params):
    return self.model.apply({'params': params}, self.vectors)[1]

  def test_is_binary_forward_and_logistic_backward(self):
    layer = self.params['encoder']
    inside = self.vectors @ np.asarray(layer['kernel']) + layer['bias']
    np.testing.assert_allclose(
        self.code(self.params), np.where(inside > 0, 1, -1), atol=1e-6
    )
    gradient = jax.grad(lambda p: jnp.sum(self.code(p)))(self.params)
    units = 1 / (1 + np.exp(-inside))
    np.testing.assert_allclose(
        gradient['encoder']['bias'],
        (2 * units * (1 - units)).sum(axis=0),
        rtol=1e-5,
    )

  def test_decodes_from_the_code_alone(self):
    decoded, code = self.model.apply({'params': self.params}, self.vectors)
    p = jax.tree.map(np.asarray, self.params)
    hidden = code @ p['hidden']['kernel'] + p['hidden']['bias']
    wanted = np.maximum(hidden, 0) @ p['decoder']['kernel']
    np.testing.assert_allclose(decoded, wanted + p['decoder']['bias'],
                               rtol=1e-5, atol=1e-6)


class TrainTest(parameterized.TestCase):

  def test_clusters_keep_codes_of_their_own(self):
    vectors, labels = clusters(12, 40)
    coder = hashing.train(vectors, 32, steps=200)
    bits = np.unpackbits(coder.encode(vectors), axis=1)
    # The same bits in nearly all of a cluster; others in every other one.
    typical = np.stack([
        bits[labels == label].mean(axis=0) > 0.5 for label in range(12)
    ])
    self.assertLess((bits != typical[labels]).mean(), 0.06)
    apart = (typical[:, None] != typical[None]).sum(axis=2)
    self.assertGreater(apart[~np.eye(12, dtype=bool)].min(), 4)
    # None of the bits is the same for all, as some would be by chance.
    self.assertGreater(bits.mean(axis=0).min(), 0.1)
    self.assertLess(bits.mean(axis=0).max(), 0.9)
    # Of vectors it has not seen, which are those of the same clusters.
    others = vectors + np.float32(0.3)
    _, rows = nearest.Hamming(coder.encode(vectors)).search(
        coder.encode(others), 10
    )
    self.assertGreater(nearest.precision(rows, labels, labels), 0.98)

  def test_learns(self):
    """Two bits of vectors that two signs have made become these signs.

    Both have the same variance, so nothing but the decoder can tell them.
    """
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (1000, 2))
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0][:2]
    vectors = signs @ turn + 0.05 * rng.standard_normal((1000, 6))
    for steps, least, most in ((1, 0, 0.5), (300, 0.9, 1)):
      layer = hashing._fit(vectors.astype(np.float32), 2, 0, steps)['encoder']
      bits = np.sign(vectors @ layer['kernel'] + layer['bias'])
      alike = np.abs(signs.T @ bits / 1000).max(axis=1)
      self.assertBetween(alike.min(), least, most)

  def test_the_same_again(self):
    vectors, _ = clusters(3, 10)
    first, second = (hashing.train(vectors, 16, steps=5) for _ in range(2))
    np.testing.assert_array_equal(first.kernel, second.kernel)

  @parameterized.parameters(0, 8, 20)
  def test_bits_that_cannot_be(self, bits):
    vectors, _ = clusters(2, 5)
    with self.assertRaisesRegex(store.FeaturesError, 'multiple of 16'):
      hashing.train(vectors, bits)


class OpenIndexTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path) / 'set'
    self.vectors, self.labels = clusters(4, 25)
    patch = mock.patch.object(hashing, 'STEPS', 20)
    patch.start()
    self.addCleanup(patch.stop)

  def write(self, count=100):
    writer = store.Writer(self.path, {})
    names = [str(i) for i in range(count)]
    writer.add(
        self.vectors[:count], self.labels[:count], np.arange(count), names
    )
    writer.close()
    return store.load(self.path)

  def test_is_trained_once_and_finds(self):
    found = self.write()
    first = hashing.open_index(found, 32)
    with mock.patch.object(hashing, 'train', side_effect=AssertionError):
      second = hashing.open_index(found, 32)
    np.testing.assert_array_equal(first.codes, second.codes)
    _, rows = second.search(self.vectors[:8], 5)
    self.assertEqual(
        nearest.precision(rows, self.labels, self.labels[:8]), 1
    )

  def test_goes_with_its_features(self):
    hashing.open_index(self.write(), 32)
    found = self.write(count=60)
    self.assertLen(hashing.open_index(found, 32).codes, 60)

  def test_damaged(self):
    found = self.write()
    (self.path / 'code-32.npz').write_bytes(b'nothing')
    with self.assertRaisesRegex(store.FeaturesError, 'remove it'):
      hashing.open_index(found, 32)


if __name__ == '__main__':
  absltest.main()
