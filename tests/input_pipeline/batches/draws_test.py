"""What is drawn, against Philox written from its paper, and by statistics."""

import itertools

import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from input_pipeline.batches import draws
from input_pipeline.files.tensorflow_cpu import tf

# Run #145's, by facts of the authors' release; an eigenvector a column.
DEVIATIONS = np.array([19.7208, 37.0939, 121.7801])
EIGENVECTORS = np.stack(
    [
        (0.4180, -0.8170, 0.3973),
        (-0.7126, -0.0235, 0.7012),
        (-0.5635, -0.5762, -0.5920),
    ],
    axis=1,
)


def philox(counter, key):
  """Philox 4x32-10 by its paper (Salmon et al., SC 2011).

  Args:
    counter: [blocks, 4] words of 32 bits, the lowest first.
    key: [2] words of 32 bits.

  Returns:
    [blocks, 4] uint64, words of 32 bits.
  """
  mask, half = np.uint64(2**32 - 1), np.uint64(32)
  x, k = np.asarray(counter, np.uint64).T, np.asarray(key, np.uint64)
  for _ in range(10):
    first, second = np.uint64(0xD2511F53) * x[0], np.uint64(0xCD9E8D57) * x[2]
    x = np.stack([
        (second >> half) ^ x[1] ^ k[0], second & mask,
        (first >> half) ^ x[3] ^ k[1], first & mask,
    ])
    k = (k + np.array([0x9E3779B9, 0xBB67AE85], np.uint64)) & mask
  return x.T


def blocks(seed, use, numbers):
  """[count, 4] uint64 words: those that belong to numbers, for one use."""
  counter = [(n % 2**32, n >> 32, use, 0) for n in numbers]
  return philox(counter, (seed % 2**32, seed >> 32))


def normal(words):
  """[count, 3] by Box and Muller, from fractions of 23 bits."""
  fraction = (words & np.uint64(2**23 - 1)).astype(np.float64) / 2**23
  size = np.sqrt(-2 * np.log(np.maximum(fraction[:, 0::2], 1e-7)))
  angle = 2 * np.pi * fraction[:, 1::2]
  pairs = np.stack([size * np.sin(angle), size * np.cos(angle)], axis=-1)
  return pairs.reshape(-1, 4)[:, :3]


def numbers(first, count):
  return tf.range(first, first + count, dtype=tf.int64)


def order(seed, epoch, length):
  """[length] int64."""
  examples = numbers(epoch * length, length)
  return draws.shuffled(seed, examples, length).numpy()


def orders(seed, epochs, length):
  """[epochs, length]."""
  examples = numbers(0, epochs * length)
  return draws.shuffled(seed, examples, length).numpy().reshape(epochs, length)


def random_crops(seed, groups, offsets, flip):
  drawn = draws.crops(seed, tf.constant(groups, tf.int64), offsets, flip)
  return [tensor.numpy() for tensor in drawn]


def axes(kind='standard_deviation', scale=0.1):
  return draws.lighting_axes(kind, scale, DEVIATIONS, EIGENVECTORS)


def shifts(count, *options, first=0, seed=7):
  """[count, 3]."""
  return draws.colour_shifts(
      seed, numbers(first, count), axes(*options)
  ).numpy()


class PhiloxTest(parameterized.TestCase):
  """The numbers that a run is made of, on any machine."""

  def test_the_papers_known_answers(self):
    # Of Random123's kat_vectors: philox4x32 10.
    for counter, key, expected in (
        ([0] * 4, [0] * 2, '6627e8d5 e169c58d bc57ac4c 9b00dbd8'),
        ([2**32 - 1] * 4, [2**32 - 1] * 2,
         '408f276d 41c83b0e a20bc7c6 6d5451fd'),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
         [0xA4093822, 0x299F31D0], 'd16cfe09 94fdcceb 5001e420 24126ea1'),
    ):
      words = philox([counter], key)[0].tolist()
      self.assertEqual(' '.join(f'{word:08x}' for word in words), expected)

  @parameterized.product(
      seed=(0, 7, 2**63 + 5), first=(0, 1, 2**31 - 2, 2**40), offsets=(32, 33)
  )
  def test_crops_by_hand(self, seed, first, offsets):
    groups = range(first, first + 5)
    corners, flips = random_crops(seed, groups, offsets, True)
    words = blocks(seed, 1, groups).astype(object)
    np.testing.assert_array_equal(corners, words[:, :2] * offsets // 2**32)
    np.testing.assert_array_equal(flips, words[:, 2] >= 2**31)

  @parameterized.product(
      kind=('scale', 'area', 'offsets'), seed=(0, 2**63 + 5), first=(0, 2**40)
  )
  def test_regions_by_hand(self, kind, seed, first):
    """The crop's own words, then five more blocks of tries of an area."""
    uses = {'scale': [1], 'area': [1, 3, 4, 5, 6, 7], 'offsets': []}[kind]
    groups = [first, first, first + 1, first + 2, first + 2]
    words = draws.region_words(seed, tf.constant(groups, tf.int64), kind)
    self.assertEqual(words.dtype, tf.uint32)
    self.assertEqual(words.shape, (5, 4 * len(uses)))
    if uses:
      expected = [blocks(seed, use, groups) for use in uses]
      np.testing.assert_array_equal(words, np.concatenate(expected, axis=1))

  @parameterized.product(seed=(0, 7, 2**63 + 5), first=(0, 2**40))
  def test_lighting_by_hand(self, seed, first):
    got = shifts(200, first=first, seed=seed)
    factors = normal(blocks(seed, 2, range(first, first + 200)))
    np.testing.assert_allclose(
        got, 0.1 * factors * DEVIATIONS @ EIGENVECTORS.T, rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters((0, 0, 7), (9, 91, 1000), (2**63 + 5, 2**33, 2))
  def test_order_by_hand(self, seed, epoch, length):
    """Its keys; the cipher is TensorFlow's."""
    key = blocks(seed, 0, [epoch])[0, :3].astype(np.uint32)
    shuffled = [
        tf.raw_ops.RandomIndexShuffle(
            index=np.int64(i), seed=key, max_index=np.int64(length - 1),
            rounds=16,
        ).numpy()
        for i in range(min(length, 20))
    ]
    self.assertEqual(order(seed, epoch, length)[:20].tolist(), shuffled)

  def test_the_cipher_stays_as_it_is(self):
    """Else a run that goes on would not show every image once an epoch."""
    self.assertEqual(
        order(0, 0, 1000)[:8].tolist(),
        [504, 471, 130, 112, 720, 493, 628, 931],
    )
    index = draws.shuffled(1, numbers(2 * 1_281_167, 4), 1_281_167)
    self.assertEqual(
        index.numpy().tolist(), [686_035, 988_489, 161_540, 1_061_887]
    )


class OrderTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 7, 1000, 10_001, 70_000)
  def test_every_example_once(self, length):
    np.testing.assert_array_equal(
        np.sort(order(3, 5, length)), np.arange(length)
    )

  def test_all_orders_are_equally_likely(self):
    found = [tuple(row) for row in orders(0, 960, 4).tolist()]
    counts = [found.count(one) for one in set(found)]
    self.assertLen(counts, 24)
    self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-4)
    # Of successive epochs one in 24 has the same: 40, and sd 6.2.
    same = sum(a == b for a, b in itertools.pairwise(found))
    self.assertBetween(same, 40 - 31, 40 + 31)

  @parameterized.parameters((1000, 200), (50_000, 20))
  def test_no_memory_of_the_epoch_before(self, length, epochs):
    """Neighbours are neighbours again as often as by chance."""
    found = orders(1, epochs, length)
    again = same = 0
    for one, other in itertools.pairwise(found):
      again += (np.diff(np.argsort(other)[one]) == 1).sum()
      same += (one == other).sum()
    # An ordered pair of neighbours follows again, and an example has the same
    # place again, with chance 1 / length: a Poisson number.
    mean = epochs - 1
    for count in (again, same):
      self.assertBetween(count, mean - 5 * mean**0.5, mean + 5 * mean**0.5)

  @parameterized.parameters((500, 200), (20_000, 20))
  def test_no_neighbours_of_the_files_stay_together(self, length, epochs):
    steps = np.diff(orders(2, epochs, length), axis=1)
    for distance in (1, -1, 2, -2, 4, 8, 16, 64):
      mean = epochs * (1 - abs(distance) / length)
      self.assertBetween(
          (steps == distance).sum(), mean - 5 * mean**0.5, mean + 5 * mean**0.5
      )

  @parameterized.parameters((500, 200), (20_000, 20))
  def test_parts_of_an_epoch_have_all_parts_of_the_files(self, length, epochs):
    """Sixteenths: of a file that has one class after the other, say."""
    found = orders(3, epochs, length)
    places = np.broadcast_to(np.arange(length), found.shape)
    table = scipy.stats.contingency.crosstab(
        places.ravel() * 16 // length, found.ravel() * 16 // length
    ).count
    self.assertGreater(scipy.stats.chi2_contingency(table).pvalue, 1e-4)

  def test_seeds_differ(self):
    """In all of their bits."""
    seeds = (0, 1, 2, 2**8, 2**16, 2**32, 2**63)
    found = [order(seed, 4, 1000) for seed in seeds]
    for one, other in itertools.combinations(found, 2):
      self.assertLess((one == other).sum(), 10)

  def test_epochs_differ(self):
    """However far they are from each other: shuffles know 8 bits a word."""
    found = [order(0, epoch, 1000) for epoch in (0, 1, 2**8, 2**16, 2**32)]
    for one, other in itertools.combinations(found, 2):
      self.assertLess((one == other).sum(), 10)


class CropsTest(parameterized.TestCase):

  @parameterized.parameters(32, 33)
  def test_uniform(self, offsets):
    count = 40 * offsets**2
    corners, flips = random_crops(5, np.arange(count), offsets, True)
    self.assertEqual((corners.dtype, corners.shape), (np.int32, (count, 2)))
    self.assertEqual((flips.dtype, flips.shape), (bool, (count,)))
    # Five standard deviations of a fair coin.
    self.assertAlmostEqual(flips.mean(), 0.5, delta=2.5 / count**0.5)
    self.assertBetween(corners.min(), 0, 0)
    self.assertBetween(corners.max(), offsets - 1, offsets - 1)
    # Each of the offsets, of the pairs, and of the pairs that are mirrored.
    top, left = corners.T.astype(int)
    for cells, number in (
        (top, offsets), (left, offsets), (offsets * top + left, offsets**2),
        (2 * (offsets * top + left) + flips, 2 * offsets**2),
    ):
      counts = np.bincount(cells, minlength=number)
      self.assertLen(counts, number)
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-4)

  def test_neighbours_are_independent(self):
    corners, flips = random_crops(2, np.arange(20_000), 32, True)
    for values in (corners[:, 0] // 4, corners[:, 1] // 4, flips):
      for distance in (1, 2, 32):
        table = scipy.stats.contingency.crosstab(
            values[:-distance], values[distance:]
        ).count
        self.assertGreater(scipy.stats.chi2_contingency(table).pvalue, 1e-4)

  def test_one_offset_without_flip(self):
    corners, flips = random_crops(0, np.arange(100), 1, False)
    np.testing.assert_array_equal(corners, np.zeros((100, 2)))
    self.assertFalse(flips.any())

  def test_a_group_has_one_crop(self):
    groups = np.arange(7, 200) // 32
    corners, flips = random_crops(0, groups, 33, True)
    alone, alone_flips = random_crops(0, np.arange(7), 33, True)
    np.testing.assert_array_equal(corners, alone[groups])
    np.testing.assert_array_equal(flips, alone_flips[groups])
    self.assertLen(np.unique(alone, axis=0), 7)


class ColourShiftsTest(parameterized.TestCase):

  @parameterized.parameters(
      # Lengths of the components for pixels in 0..255; in 0..1 the eigenvalue
      # is (sd / 255)^2, and 255 times that again in 0..255.
      ('standard_deviation', (19.7208, 37.0939, 121.7801), 12.2),
      ('eigenvalue', (1.52514, 5.39585, 58.15824), 5.8),
  )
  def test_covariance(self, kind, lengths, main):
    count = 8192
    drawn = shifts(count, kind)
    self.assertEqual(drawn.dtype, np.float32)
    covariance = np.cov(drawn.T.astype(float))
    # Against V diag(length^2 * 0.01) V^T, in units of each component: a
    # variance has a sampling error of sqrt(2 / n), here five of them.
    units = EIGENVECTORS / (0.1 * np.array(lengths))
    np.testing.assert_allclose(
        units.T @ covariance @ units, np.eye(3), atol=5 * (2 / count) ** 0.5
    )
    np.testing.assert_allclose(
        covariance,
        EIGENVECTORS @ np.diag(np.square(lengths) * 0.01) @ EIGENVECTORS.T,
        atol=5 * (2 / count) ** 0.5 * (0.1 * lengths[2]) ** 2,
    )
    np.testing.assert_allclose(
        (drawn @ units).mean(0), 0, atol=5 / count**0.5
    )
    # The levels that facts of the two descriptions give.
    along = drawn @ EIGENVECTORS[:, 2]
    self.assertAlmostEqual(along.std() / main, 1, delta=0.04)

  def test_axes(self):
    np.testing.assert_allclose(
        axes('eigenvalue', 0.3), 3 * axes('eigenvalue', 0.1), rtol=1e-6
    )

  def test_the_normal_numbers(self):
    # The eigenvectors have four digits; their inverse is exact.
    drawn = shifts(20_000, 'standard_deviation')
    factors = np.linalg.solve(EIGENVECTORS, drawn.T.astype(float))
    factors /= 0.1 * DEVIATIONS[:, None]
    for one in factors:
      self.assertGreater(scipy.stats.kstest(one, 'norm').pvalue, 1e-4)
      self.assertGreater(scipy.stats.normaltest(one).pvalue, 1e-4)
    # Independent in their sizes too, and each of the one before it.
    for one, other in (
        *((factors[i], factors[j]) for i, j in ((0, 1), (0, 2), (1, 2))),
        *((one[:-1], one[1:]) for one in factors),
    ):
      for f in (np.sign, np.abs, np.asarray):
        correlation = np.corrcoef(f(one), f(other))[0, 1]
        self.assertAlmostEqual(correlation, 0, delta=5 / 20_000**0.5)


class StreamTest(parameterized.TestCase):
  """A number depends on the seed, on its place and on what it is for."""

  def streams(self, seed, first, count):
    places = np.arange(first, first + count)
    corners, flips = random_crops(seed, places, 33, True)
    return np.concatenate(
        [corners, flips[:, None], shifts(count, first=first, seed=seed)], axis=1
    )

  @parameterized.parameters(0, 5, 2**33)
  def test_same_in_any_part(self, first):
    whole = self.streams(3, first, 100)
    for size in (1, 7, 32):
      parts = [
          self.streams(3, first + start, min(size, 100 - start))
          for start in range(0, 100, size)
      ]
      np.testing.assert_array_equal(np.concatenate(parts), whole)

  def test_seeds_differ(self):
    """Nor is a seed's stream a piece of another one's."""
    streams = {
        seed: self.streams(seed, 0, 1000) for seed in (0, 1, 2, 2**32, 2**63)
    }
    rows = np.concatenate(list(streams.values()))
    # Shifts are real numbers, none of which occurs twice.
    self.assertLen(np.unique(rows[:, 3:], axis=0), len(rows))
    for one, other in ((0, 1), (1, 2), (0, 2**32), (0, 2**63)):
      crops = streams[one][:, :2] == streams[other][:, :2]
      # 1 in 33: 30 of 1,000, with a standard deviation of 5.4.
      np.testing.assert_allclose(crops.sum(0), 30, atol=27)

  def test_uses_are_independent(self):
    stream = self.streams(0, 0, 20_000)
    correlations = np.corrcoef(stream.T)
    # The shift's colours depend on each other by intention.
    np.testing.assert_allclose(
        correlations[:3, 3:], 0, atol=5 / 20_000**0.5
    )
    for i in range(3):
      for j in range(3, 6):
        # Not in their sizes either.
        table = scipy.stats.contingency.crosstab(
            stream[:, i], np.digitize(stream[:, j], (-10, -3, 0, 3, 10))
        ).count
        self.assertGreater(scipy.stats.chi2_contingency(table).pvalue, 1e-4)
    # Nor does the order of an epoch follow its crops or its lighting.
    index = order(0, 0, 20_000)
    for column in (*stream.T, *np.abs(stream.T)):
      for places in (index, np.argsort(index)):
        correlation = scipy.stats.spearmanr(places, column).statistic
        self.assertAlmostEqual(correlation, 0, delta=5 / 20_000**0.5)

  def test_a_stage_of_a_dataset(self):
    """In a graph as at once, bit for bit."""
    dataset = tf.data.Dataset.range(3).map(
        lambda step: draws.colour_shifts(1, 8 * step + numbers(0, 8), axes())
    )
    np.testing.assert_array_equal(
        np.concatenate(list(dataset.as_numpy_iterator())), shifts(24, seed=1)
    )


if __name__ == '__main__':
  absltest.main()
