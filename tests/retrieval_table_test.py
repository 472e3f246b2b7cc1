"""The table's numbers, counted from all distances at once."""

from tests import testing  # isort: skip  # noqa: F401

import pathlib
from unittest import mock

import numpy as np
from absl.testing import absltest

from alexnet.analysis import codes, feature_sets, retrieval_table
from tests.codes_test import clusters


def write(path, vectors, labels, **about):
  about = {'layer': 'fc7', 'step': 1, 'class_names': ['a', 'b'], **about}
  writer = feature_sets.Writer(path, about)
  indices = np.arange(len(labels))
  writer.add(vectors, labels, indices, [*map(str, indices)])
  writer.close()
  return feature_sets.load(path)


class RetrievalTableTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(mock.patch.object(codes, 'STEPS', 3))

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
    for one in found:
      self.assertGreater(one.milliseconds, 0)
      self.assertBetween(one.timed, 3, 30)

  def test_rows(self):
    found = [
        retrieval_table.Measured('exact, float32', 16384, (0.5,), 12.345, 100),
        retrieval_table.Measured('codes', 16, (0.4, 0.6), 0.5, 100),
    ]
    table = retrieval_table.table(found, 10)
    self.assertEqual(
        table.headings,
        ('search', 'bytes an image', 'precision@10', 'ms a query'),
    )
    self.assertEqual(
        table.rows,
        (
            ('exact, float32', '16,384', '0.5000', '12.35'),
            ('codes', '16', '0.5000 ± 0.1414', '0.50'),
        ),
    )

  def test_sets_that_do_not_fit_together(self):
    vectors, labels = clusters(2, 20)
    index = write(self.directory / 'i', vectors, labels)
    measure = lambda queries: retrieval_table.measure(
        index, queries, neighbours=10, components=[], bits=[]
    )
    error = feature_sets.FeaturesError
    with self.assertRaisesRegex(error, 'the same layer'):
      measure(write(self.directory / 'a', vectors, labels, layer='fc6'))
    with self.assertRaisesRegex(error, 'same classes'):
      names = ['x', 'y']
      measure(write(self.directory / 'b', vectors, labels, class_names=names))
    with self.assertRaisesRegex(error, 'same classes'):
      measure(write(self.directory / 'c', vectors, labels * 0 - 1))
    with self.assertRaisesRegex(error, 'at least 41'):
      retrieval_table.measure(
          index, index, neighbours=41, components=[], bits=[]
      )


if __name__ == '__main__':
  absltest.main()
