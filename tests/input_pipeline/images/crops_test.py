"""Crops from whole images, against NumPy and Pillow, and by statistics."""

import itertools
import pathlib

import jax
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.inference.views import Views
from configs import alexnet
from input_pipeline import preprocessing, sources
from input_pipeline.batches import draws
from input_pipeline.errors import DataError
from input_pipeline.files.tensorflow_cpu import tf
from input_pipeline.images import crops
from input_pipeline.pipeline import Pipeline

_BICUBIC = Image.Resampling.BICUBIC


class FakeSource(sources.Source):
  """Images of its own, all of one class."""

  name, class_names = 'fake', ('a', 'b')

  def __init__(self, images):
    self._encoded = [sources.encode_png(image) for image in images]

  def __len__(self):
    return len(self._encoded)

  def read(self, index):
    return self._encoded[index], index

  def describe(self, index):
    return f'photos/{index}.png'

  def fingerprint(self):
    return 'f00d'


def smooth(height, width, seed=0):
  """A picture like a photo: what is near has nearly the same colour."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
  return np.asarray(Image.fromarray(coarse).resize((width, height), _BICUBIC))


def make(images, *, process=0, processes=1, **fields):
  config = alexnet.get_config('folder')
  config.batch_size = 8
  config.dataset.mean, config.dataset.pca = 'imagenet_channels', 'imagenet'
  config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in fields.items()}
  )
  source = images if isinstance(images, sources.Source) else FakeSource(images)
  return Pipeline(
      config, source, FakeSource(images) if source is not images else source,
      process=process, processes=processes,
  )


SMALL = dict(
    dataset__size=40, augmentation__crop_size=32, augmentation__crop_offsets=9
)
REGIONS = {
    kind: dict(
        SMALL, augmentation__crop=kind, augmentation__mean_crop='centre',
        augmentation__scale=(36, 60),
    )
    for kind in ('scale', 'area')
}
CIFAR = dict(
    dataset__size=32, augmentation__crop_size=32, augmentation__pad=4,
    augmentation__crop_offsets=9,
)


def words_of(kind, count, seed=0):
  group = tf.range(count, dtype=tf.int64)
  return draws.region_words(seed, group, kind).numpy().tolist()


def fractions(words):
  return np.array(words, np.float64) / 2**32


class ScaleTest(parameterized.TestCase):

  @parameterized.parameters((300, 400), (400, 300), (256, 256), (97, 700))
  def test_by_hand(self, height, width):
    """The shorter side of the scaled image, and a square in whole pixels."""
    region_of = crops.Scale((256, 480), 224)
    for words in words_of('scale', 50):
      top, left, _, scale = fractions(words)
      shorter = 256 + int(scale * 225)
      factor = shorter / min(height, width)
      region = region_of(words, width, height)
      np.testing.assert_allclose(
          region, (
              int(top * (int(height * factor + 1e-9) - 223)) / factor,
              int(left * (int(width * factor + 1e-9) - 223)) / factor,
              224 / factor, 224 / factor,
          ), rtol=1e-12,
      )
      self.assertLessEqual(region.top + region.height, height + 1e-9)
      self.assertLessEqual(region.left + region.width, width + 1e-9)

  def test_lengths_and_places_are_uniform(self):
    regions = np.array([
        crops.Scale((256, 480), 224)(words, 640, 480)
        for words in words_of('scale', 20_000)
    ])
    lengths = 480 * 224 / regions[:, 2]
    counts = np.bincount(np.round(lengths).astype(int), minlength=481)[256:]
    self.assertLen(counts, 225)
    self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-3)
    # A share of the room that the crop has; the ends are discrete.
    for axis, side in ((0, 480), (1, 640)):
      share = regions[:, axis] / (side - regions[:, 2])
      self.assertGreater(scipy.stats.kstest(share, 'uniform').pvalue, 1e-6)
      self.assertAlmostEqual(share.mean(), 0.5, delta=0.01)

  def test_all_places_of_one_length(self):
    regions = [
        crops.Scale((8, 8), 6)(words, 9, 8) for words in words_of('scale', 400)
    ]
    places = {(region.top, region.left) for region in regions}
    self.assertEqual(places, set(itertools.product(range(3), range(4))))

  @parameterized.parameters((160, 200, 80), (120, 90, 60), (50, 40, 60))
  def test_pixels_are_pillows(self, height, width, length):
    """Resized as a whole, then cut; the sides stay whole numbers."""
    image = smooth(height, width)
    factor = length / min(height, width)
    size = round(width * factor), round(height * factor)
    whole = np.asarray(Image.fromarray(image).resize(size, _BICUBIC))
    pipeline = make(
        [image] * 2, **REGIONS['scale'] | dict(
            augmentation__scale=(length, length), batch_size=16
        )
    )
    batch = next(pipeline.training_batches(0))
    words = pipeline.plan(0, 16).words
    for pixels, (top, left, *_) in zip(batch['image'], fractions(words)):
      top, left = int(top * (size[1] - 31)), int(left * (size[0] - 31))
      expected = whole[top : top + 32, left : left + 32].astype(int)
      # Pillow rounds between its two passes, in an order of its own.
      self.assertLessEqual(np.abs(pixels - expected).max(), 2)


class AreaTest(parameterized.TestCase):

  @parameterized.parameters((300, 400), (400, 300), (224, 224))
  def test_by_hand(self, height, width):
    region_of = crops.Area((0.08, 1.0), (3 / 4, 4 / 3))
    tries = 0
    for words in words_of('area', 300):
      values = fractions(words)
      for share, ratio in values[4:].reshape(10, 2):
        tries += 1
        area = (0.08 + 0.92 * share) * height * width
        aspect = (3 / 4) ** (1 - ratio) * (4 / 3) ** ratio
        columns = np.round(np.sqrt(area * aspect))
        rows = np.round(np.sqrt(area / aspect))
        if columns <= width and rows <= height:
          break
      region = region_of(words, width, height)
      self.assertEqual(region, (
          int(values[0] * (height - rows + 1)),
          int(values[1] * (width - columns + 1)), rows, columns,
      ))
    self.assertGreater(tries, 310)

  def test_distribution(self):
    """Areas and aspects that always fit are uniform, and log-uniform."""
    regions = np.array([
        crops.Area((0.08, 0.5), (3 / 4, 4 / 3))(words, 4000, 4000)
        for words in words_of('area', 20_000)
    ])
    area = regions[:, 2] * regions[:, 3] / 4000**2
    uniform = lambda low, high: scipy.stats.uniform(low, high - low).cdf
    self.assertGreater(
        scipy.stats.kstest(area, uniform(0.08, 0.5)).pvalue, 1e-3
    )
    aspect = np.log(regions[:, 3] / regions[:, 2])
    most = np.log(4 / 3)
    self.assertGreater(
        scipy.stats.kstest(aspect, uniform(-most, most)).pvalue, 1e-3
    )
    places = (regions[:, :2] / (4000 - regions[:, 2:])).T
    for share in places:
      self.assertGreater(scipy.stats.kstest(share, 'uniform').pvalue, 1e-3)
    correlations = np.corrcoef([area, aspect, *places])
    self.assertLess(np.abs(np.triu(correlations, 1)).max(), 0.03)

  def test_an_image_too_long_for_the_aspects(self):
    region_of = crops.Area((0.9, 1.0), (3 / 4, 4 / 3))
    lefts = set()
    for words in words_of('area', 50):
      top, left, height, width = region_of(words, 600, 100)
      self.assertEqual((top, height, width), (0, 100, 133))
      lefts.add(left)
    self.assertGreater(len(lefts), 30)
    self.assertLess(max(lefts), 468)
    self.assertEqual(region_of(words_of('area', 1)[0], 3, 30)[2:], (4, 3))

  @parameterized.parameters((160, 200), (60, 90))
  def test_pixels_are_pillows(self, height, width):
    """The region cut out first, then resized; borders apart."""
    image = smooth(height, width)
    pipeline = make([image] * 2, **REGIONS['area'])
    batch = next(pipeline.training_batches(0))
    kind = crops.Area((0.08, 1.0), (3 / 4, 4 / 3))
    for pixels, words in zip(batch['image'], pipeline.plan(0, 8).words):
      top, left, rows, columns = kind(words.tolist(), width, height)
      expected = Image.fromarray(image).resize(
          (32, 32), _BICUBIC, box=(left, top, left + columns, top + rows)
      )
      difference = np.abs(pixels - np.asarray(expected, int))
      self.assertLessEqual(difference.max(), 2)
    self.assertGreater(len({pixels.tobytes() for pixels in batch['image']}), 6)


class StreamTest(parameterized.TestCase):
  """The same for any batch size, division and step, as offsets are."""

  def images(self):
    return [smooth(50 + 3 * i, 80 - 4 * i, seed=i) for i in range(6)]

  def take(self, fields, count, first_step=0, **options):
    pipeline = make(self.images(), **fields, **options)
    batches = itertools.islice(pipeline.training_batches(first_step), count)
    batches = list(batches)
    return {
        name: np.concatenate([batch[name] for batch in batches])
        for name in batches[0]
    }

  @parameterized.parameters('scale', 'area', 'pad')
  def test_stream(self, kind):
    fields = CIFAR if kind == 'pad' else REGIONS[kind]
    whole = self.take(fields, 3)
    self.assertEqual(
        whole.keys(), {'image', 'label', 'offset', 'flip', 'shift', 'divisor'}
    )
    self.assertGreater(whole['flip'].mean(), 0.2)
    smaller = self.take(fields | dict(batch_size=4), 6)
    resumed = self.take(fields, 2, first_step=1)
    parts = [
        self.take(fields, 3, process=part, processes=2) for part in range(2)
    ]
    for name, array in whole.items():
      np.testing.assert_array_equal(array, smaller[name])
      np.testing.assert_array_equal(array[8:], resumed[name])
      of_parts = np.stack(
          [part[name].reshape(3, 4, *array.shape[1:]) for part in parts], 1
      )
      np.testing.assert_array_equal(array, of_parts.reshape(array.shape))

  @parameterized.parameters('scale', 'area', 'pad')
  def test_reading_processes(self, kind):
    root = pathlib.Path(self.create_tempdir().full_path)
    for i, image in enumerate(self.images()):
      (root / 'ab'[i % 2]).mkdir(exist_ok=True)
      Image.fromarray(image).save(root / 'ab'[i % 2] / f'{i}.png')
    fields = CIFAR if kind == 'pad' else REGIONS[kind]
    here, elsewhere = (
        next(make(
            sources.open_folder(root), **fields, dataset__channels=1,
            dataset__processes=processes,
        ).training_batches(0))
        for processes in (0, 1)
    )
    for name, array in here.items():
      np.testing.assert_array_equal(array, elsewhere[name])
    self.assertGreater(here['image'].std(), 20)

  @parameterized.parameters('scale', 'area')
  def test_examples_of_a_group_share_their_words(self, kind):
    fields = REGIONS[kind] | dict(augmentation__images_per_crop=4)
    words = make(self.images(), **fields).plan(2, 8).words
    self.assertLen(np.unique(words, axis=0), 3)
    self.assertLen(np.unique(words[2:6], axis=0), 1)

  def test_another_seed(self):
    one, other = (np.array(words_of('area', 9, seed)) for seed in (0, 1))
    self.assertFalse((one == other).any())


class PadTest(parameterized.TestCase):

  def test_equals_numpy(self):
    """He et al. 2015, §4.2: four pixels of zeros, after the mean is gone."""
    images = np.stack([smooth(32, 32, seed=i) for i in range(5)])
    pipeline = make(list(images), **CIFAR, dataset__mean='image')
    batch = next(itertools.islice(pipeline.training_batches(0), 3, None))
    inputs = Views(pipeline.mean_image, 'under', mirror=True, crop=32, pad=4)
    got = np.asarray(jax.jit(inputs.training)(
        batch | dict(shift=np.zeros((8, 3), np.float32))
    ))
    padded = np.zeros((5, 40, 40, 3))
    padded[:, 4:36, 4:36] = images - images.mean(0)
    for pixels, label, (top, left), flip in zip(
        got, batch['label'], batch['offset'], batch['flip']
    ):
      expected = padded[label, top : top + 32, left : left + 32]
      expected = expected[:, ::-1] if flip else expected
      np.testing.assert_allclose(pixels, expected, atol=1e-4)

  def test_all_places(self):
    offsets = make([smooth(32, 32)] * 2, **CIFAR).plan(0, 2000).offset
    self.assertEqual(set(offsets.ravel().tolist()), set(range(9)))

  def test_evaluation_has_the_whole_image(self):
    images = [smooth(32, 32, seed=i) for i in range(3)]
    batch = next(make(images, **CIFAR).evaluation_batches(3))
    np.testing.assert_array_equal(batch['image'], images)


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
      (dict(augmentation__crop='scales'), "'scales'.*'offsets', 'scale'"),
      (dict(augmentation__crop='scale'), "mean_crop 'under'.*='centre'"),
      (dict(REGIONS['area'], augmentation__pad=4), 'pad 4: set both to 0'),
      (dict(REGIONS['area'], dataset__border=2), 'border is 2 and'),
      (dict(REGIONS['scale'], augmentation__scale=(31, 60)),
       'scale begins at 31: expected at least crop_size, 32'),
      (dict(augmentation__scale=(300, 256)), r'\(300, 256\).*\(smallest, larg'),
      (dict(augmentation__scale=(256, 513)), 'from 1 to 512'),
      (dict(augmentation__area=(0.0, 1.0)), 'more than 0 and at most 1'),
      (dict(augmentation__area=(0.5, 1.1)), 'more than 0 and at most 1'),
      (dict(augmentation__aspect=(1.0, float('nan'))), 'from 1/16 to 16'),
      (dict(augmentation__pad=-1), 'pad is -1: expected a whole number'),
      (dict(CIFAR, augmentation__crop_offsets=10),
       'crop_offsets is 10: expected 1 to 9, which fit a 32 crop into 40'),
      (dict(dataset__channels=2), 'channels is 2: expected one of 1, 3'),
      (dict(dataset__border=128), 'border is 128 and dataset.size is 256'),
  )
  def test_fields(self, fields, message):
    with self.assertRaisesRegex(DataError, message):
      make([smooth(40, 40)] * 2, **fields)

  @parameterized.parameters(
      ('size', 40, REGIONS['scale'], r'\(36, 60\), but fake has images of 40 pi'
       'xels, .*--keep_aspect --size=60'),
      ('shorter', 59, REGIONS['scale'], 'images of 59 pixels'),
      ('shorter', 39, REGIONS['area'], 'shorter sides of fake have 39 pixels: '
       'prepare with --keep_aspect --size=40'),
  )
  def test_data_that_is_too_small(self, field, value, fields, message):
    source = FakeSource([smooth(40, 40)] * 2)
    setattr(source, field, value)
    with self.assertRaisesRegex(DataError, message):
      make(source, **fields)


class GreyTest(parameterized.TestCase):

  def test_framed(self):
    pixels = smooth(6, 5)
    grey = preprocessing.framed(pixels, 2, 1)
    self.assertEqual(grey.shape, (10, 9, 1))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    self.assertLess(np.abs(grey[2:8, 2:7, 0] - luma).max(), 0.51)
    self.assertEqual(grey.astype(int).sum(), grey[2:8, 2:7].astype(int).sum())
    same = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(
        preprocessing.framed(same, channels=1), same[..., :1]
    )

  @parameterized.parameters('offsets', 'scale', 'area')
  def test_is_the_grey_of_the_colours(self, kind):
    fields = REGIONS.get(kind, SMALL)
    images = [smooth(40, 56, seed=i) for i in range(3)]
    colour, grey = (
        next(make(images, **fields, dataset__channels=channels)
             .training_batches(1))
        for channels in (3, 1)
    )
    self.assertEqual(grey['image'].shape, (8, 32, 32, 1))
    self.assertEqual(grey['shift'].shape, (8, 1))
    expected = [Image.fromarray(one).convert('L') for one in colour['image']]
    np.testing.assert_array_equal(
        grey['image'][..., 0], np.stack([*map(np.asarray, expected)])
    )

  @parameterized.parameters(0, 2)
  def test_lenets_input(self, border):
    """MNIST's form: 28 pixels of one level, and a border of background."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (5, 28, 28)).astype(np.uint8)
    pipeline = make(
        list(levels), dataset__size=28 + 2 * border, dataset__border=border,
        dataset__channels=1, augmentation__crop_size=28 + 2 * border,
        augmentation__crop_offsets=1, augmentation__flip=False,
        dataset__mean='image', dataset__pca='dataset',
        augmentation__lighting_scale=0.5,
    )
    framed = np.pad(levels, ((0, 0), *[(border, border)] * 2))[..., None]
    batch = next(pipeline.evaluation_batches(5))
    np.testing.assert_array_equal(batch['image'], framed)
    training = next(pipeline.training_batches(0))
    np.testing.assert_array_equal(training['image'], framed[training['label']])
    np.testing.assert_allclose(pipeline.mean_image, framed.mean(0), atol=1e-3)
    deviations, vectors = pipeline.components
    np.testing.assert_allclose(deviations, [framed.std()], rtol=1e-5)
    self.assertEqual(np.abs(vectors).tolist(), [[1.0]])
    shift = pipeline.plan(0, 4000).shift
    self.assertAlmostEqual(
        shift.std() / (0.5 * framed.var() / 255), 1, delta=0.05
    )
    inputs = Views(pipeline.mean_image, 'under', mirror=False, crop=32)
    expected = framed[training['label']] - framed.mean(0)
    if border:
      got = np.asarray(inputs.training(training))
      shifted = expected + training['shift'][:, None, None]
      np.testing.assert_allclose(got, shifted, atol=1e-3)

  def test_imagenets_colours(self):
    pipeline = make([smooth(40, 40)] * 2, **SMALL, dataset__channels=1)
    self.assertEqual(pipeline.mean_image.shape, (40, 40, 1))
    np.testing.assert_allclose(
        pipeline.mean_image,
        127.30 * 0.299 + 119.72 * 0.587 + 104.91 * 0.114, rtol=1e-4,
    )
    (deviation,), _ = pipeline.components
    self.assertBetween(deviation, 60, 75)


if __name__ == '__main__':
  absltest.main()
