"""The table's numbers, counted from all distances at once."""

import pathlib
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from alexnet.analysis import retrieval_table
from alexnet.analysis.features import hashing, store
from tests.analysis.features.features_test import run_command
from tests.analysis.features.hashing_test import clusters


def write(path, vectors, labels, **about):
  about = {
      'layer': 'fc7', 'step': 1, 'class_names': ['a', 'b'],
      'source': path.name, **about,
  }
  writer = store.Writer(path, about)
  indices = np.arange(len(labels))
  writer.add(vectors, labels, indices, [*map(str, indices)])
  writer.close()
  return store.load(path)


class RetrievalTableTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(mock.patch.object(hashing, 'STEPS', 3))

  def test_measures(self):
    vectors, labels = clusters(6, 30, dimensions=40)
    # Classes of three clusters, and wrong labels, so that not all is right.
    labels = labels % 2 ^ (np.arange(180) % 7 == 0)
    index = write(self.directory / 'i', vectors[:150], labels[:150])
    queries = write(self.directory / 'q', vectors[150:], labels[150:])
    found = retrieval_table.measure(
        index, queries, neighbours=10, components=[4, 8], bits=[16, 32],
        seeds=2,
    )
    self.assertEqual(
        [(one.name, one.bytes_an_image, len(one.precision)) for one in found],
        [
            ('exact, float32', 160, 1),
            ('4 principal components', 16, 1),
            ('8 principal components', 32, 1),
            ('16 bits of the autoencoder', 2, 2),
            ('32 bits of the autoencoder', 4, 2),
            ('16 signs of rotated components', 2, 2),
            ('32 signs of rotated components', 4, 2),
        ],
    )
    distances = np.linalg.norm(
        vectors[150:, None].astype(np.float64) - vectors[None, :150], axis=2
    )
    nearest = np.argsort(distances, axis=1)[:, :10]
    exact = (labels[nearest] == labels[150:, None]).mean()
    self.assertAlmostEqual(found[0].precision[0], exact)
    self.assertBetween(exact, 0.5, 0.95)
    by_name = {one.name: one for one in found}

    def share(distances):
      rows = np.argsort(distances, axis=1, kind='stable')[:, :10]
      return (labels[rows] == labels[150:, None]).mean()

    # Principal components from the covariance's eigenvectors, and their signs
    # under the rotations.
    middle = vectors[:150].astype(np.float64).mean(axis=0)
    centred = vectors.astype(np.float64) - middle
    directions = np.linalg.eigh(np.cov(centred[:150].T))[1][:, ::-1]
    for count in (4, 8):
      few = centred @ directions[:, :count]
      by_hand = share(
          np.linalg.norm(few[150:, None] - few[None, :150], axis=2)
      )
      (got,) = by_name[f'{count} principal components'].precision
      self.assertAlmostEqual(got, by_hand, delta=0.01)
    components = hashing.fit_components(vectors[:150], 256)
    for count in (16, 32):
      for kind, make in {
          'signs of rotated components': lambda count, seed: hashing.rotated(
              components, count, seed
          ),
          'bits of the autoencoder': lambda count, seed: hashing.train(
              vectors[:150], count, components=components, seed=seed
          ),
      }.items():
        by_hand = []
        for seed in (0, 1):
          bits = np.unpackbits(make(count, seed).encode(vectors), axis=1)
          by_hand.append(
              share((bits[150:, None] != bits[None, :150]).sum(axis=2))
          )
        np.testing.assert_allclose(
            by_name[f'{count} {kind}'].precision, by_hand, atol=1e-9
        )
        self.assertNotEqual(*by_hand)
    for one in found:
      self.assertGreater(min(one.milliseconds), 0)
      self.assertBetween(len(one.milliseconds), 3, 30)

  def test_few_images_have_few_components(self):
    vectors, labels = clusters(2, 20, dimensions=40)
    labels = labels % 2
    index = write(self.directory / 'i', vectors[:20], labels[:20])
    queries = write(self.directory / 'q', vectors[20:], labels[20:])
    found = retrieval_table.measure(
        index, queries, neighbours=3, components=[16, 32], bits=[16, 32]
    )
    self.assertEqual(
        [one.name for one in found],
        [
            'exact, float32',
            '16 principal components',
            '16 bits of the autoencoder',
            '32 bits of the autoencoder',
            '16 signs of rotated components',
        ],
    )

  def test_rows(self):
    found = [
        retrieval_table.Measured(
            'exact, float32', 16384, (0.5,), (10.0, 12.0, 20.0)
        ),
        retrieval_table.Measured('codes', 16, (0.4, 0.6), (0.5,)),
    ]
    table = retrieval_table.table(found, 10)
    self.assertEqual(
        table.headings,
        ('search', 'bytes an image', 'precision@10', 'ms a query'),
    )
    self.assertEqual(
        table.rows,
        (
            ('exact, float32', '16,384', '0.5000', '12.00 (11.00 to 16.00)'),
            ('codes', '16', '0.5000 ± 0.1414', '0.50 (0.50 to 0.50)'),
        ),
    )

  def test_sets_that_do_not_fit_together(self):
    vectors, labels = clusters(2, 20)
    index = write(self.directory / 'i', vectors, labels)
    measure = lambda queries: retrieval_table.measure(
        index, queries, neighbours=10, components=[], bits=[]
    )
    error = store.FeaturesError
    with self.assertRaisesRegex(error, 'the same layer'):
      measure(write(self.directory / 'a', vectors, labels, layer='fc6'))
    with self.assertRaisesRegex(error, 'the same layer'):
      measure(write(self.directory / 'p', vectors, labels, parameters='x'))
    with self.assertRaisesRegex(error, 'the same images'):
      measure(write(self.directory / 's', vectors, labels, source='i'))
    with self.assertRaisesRegex(error, 'same classes'):
      names = ['x', 'y']
      measure(write(self.directory / 'b', vectors, labels, class_names=names))
    with self.assertRaisesRegex(error, 'same classes'):
      measure(write(self.directory / 'c', vectors, labels * 0 - 1))
    with self.assertRaisesRegex(error, 'at least 41'):
      retrieval_table.measure(
          index, index, neighbours=41, components=[], bits=[]
      )

  @parameterized.parameters(
      ('--components=abc', 'components is abc: expected positive integers'),
      ('--components=0', 'components is 0: expected positive'),
      ('--bits=33', 'multiples of 16, got 33'),
  )
  def test_flags_are_checked_first(self, flag, message):
    status, _, error = run_command(
        'retrieval_table', '--features=nowhere', '--queries=nowhere', flag
    )
    self.assertEqual(status, 1)
    self.assertIn(message, error)
    self.assertNotIn('Traceback', error)


if __name__ == '__main__':
  absltest.main()
