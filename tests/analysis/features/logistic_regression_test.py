"""Probes beside scikit-learn without our rotation, and formulas in NumPy."""

import numpy as np
from absl.testing import absltest, parameterized
from sklearn import linear_model

from alexnet.analysis.features import logistic_regression


def noisy(images, dimensions, classes=3, seed=0):
  """Features of which some say something of the class, and labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, images)
  features = rng.standard_normal((images, dimensions)) * 7 + 30
  features[:, :classes] += 9 * (labels[:, None] == np.arange(classes))
  features[:, -1] = 4
  return features.astype(np.float32), labels


class FitTest(parameterized.TestCase):

  @parameterized.parameters(20, 300)
  def test_is_scikit_learn_on_standardized_features(self, dimensions):
    """More dimensions than images, too."""
    features, labels = noisy(200, dimensions)
    train, test = features[:120], features[120:]
    got = logistic_regression.fit(
        train, labels[:120], test, labels[120:], seed=3
    )

    varies = train.std(axis=0) > 0
    scaled = (features - train.mean(axis=0))[:, varies]
    scaled /= train.std(axis=0)[varies] * np.sqrt(dimensions)
    x, y = scaled[:120].astype(np.float64), labels[:120]
    order = np.random.default_rng(3).permutation(120)
    held_out, rest = order[:24], order[24:]
    best = None
    for power in range(-2, 5):
      model = linear_model.LogisticRegression(C=10.0**power, max_iter=5000)
      score = model.fit(x[rest], y[rest]).score(x[held_out], y[held_out])
      if best is None or score > best[0]:
        best = score, 10.0**power
    model = linear_model.LogisticRegression(C=best[1], max_iter=5000).fit(x, y)
    self.assertEqual(got.strength, best[1])
    self.assertEqual(got.dimensions, dimensions)
    # A test image more or less, where the boundary goes through it.
    self.assertAlmostEqual(
        got.accuracy, model.score(scaled[120:], labels[120:]), delta=0.015
    )
    self.assertGreater(got.accuracy, 0.45)

  def test_chooses_on_training_images_alone(self):
    """Labels of the test images decide nothing."""
    features, labels = noisy(150, 30)
    results = [
        logistic_regression.fit(
            features[:100], labels[:100], features[100:], wanted
        )
        for wanted in (labels[100:], labels[100:][::-1])
    ]
    self.assertEqual(results[0].strength, results[1].strength)
    self.assertNotEqual(results[0].accuracy, results[1].accuracy)

  def test_nothing_to_learn(self):
    features, _ = noisy(20, 5)
    one = np.zeros(20, int)
    with self.assertRaisesRegex(logistic_regression.ProbeError, 'at least two'):
      logistic_regression.fit(features, one, features, one)


class StandardizedTest(absltest.TestCase):

  def test_formula(self):
    train = np.array([[1, 5, 100], [3, 5, 300]], np.float32)
    test = np.array([[4, 6, 200]], np.float32)
    got, got_test = logistic_regression.standardized(train, test)
    root = np.sqrt(3)
    np.testing.assert_allclose(
        got, np.array([[-1, 0, -1], [1, 0, 1]]) / root, rtol=1e-6
    )
    np.testing.assert_allclose(
        got_test, np.array([[2, 0, 0]]) / root, rtol=1e-6
    )

  def test_small_differences_beside_large_means(self):
    """The features of a network that has not been trained."""
    rng = np.random.default_rng(0)
    small = rng.standard_normal((500, 4)).astype(np.float32)
    got, _ = logistic_regression.standardized(1 + 1e-3 * small, small)
    np.testing.assert_allclose(got.std(axis=0), 0.5, rtol=1e-3)
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-6)


class RotatedTest(absltest.TestCase):

  def test_keeps_all_products(self):
    rng = np.random.default_rng(0)
    train = rng.standard_normal((9, 40)).astype(np.float32)
    train[8] = train[0]  # Eight dimensions are spanned.
    test = rng.standard_normal((5, 40)).astype(np.float32)
    got, got_test = logistic_regression.rotated(train, test)
    self.assertEqual(got.shape, (9, 8))
    np.testing.assert_allclose(got @ got.T, train @ train.T, atol=1e-4)
    np.testing.assert_allclose(got_test @ got.T, test @ train.T, atol=1e-4)

  def test_leaves_few_dimensions(self):
    train = np.ones((9, 4), np.float32)
    self.assertIs(logistic_regression.rotated(train, train)[0], train)


if __name__ == '__main__':
  absltest.main()
