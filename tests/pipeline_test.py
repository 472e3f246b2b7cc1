"""Batches: order, parts of processes, and pixels worked out in NumPy."""

from tests import testing  # isort: skip

import importlib.util
import io
import itertools
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from configs import alexnet
from input_pipeline import pipeline as pipeline_lib
from input_pipeline import sources
from input_pipeline.errors import DataError

del testing

Pipeline = pipeline_lib.Pipeline

# Of ImageNet, by the authors' release.
MAIN_COMPONENT = np.array([-0.5635, -0.5762, -0.5920])


def encode(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG', compress_level=1)
  return buffer.getvalue()


class FakeSource(sources.Source):
  """Images of its own; the label of each is its index."""

  def __init__(self, images):
    self.name = 'fake'
    self.class_names = tuple(str(index) for index in range(len(images)))
    self.broken = set()
    self.reads = []
    self._encoded = [encode(image) for image in images]

  def __len__(self):
    return len(self._encoded)

  def read(self, index):
    self.reads.append(index)
    return b'junk' if index in self.broken else self._encoded[index], index

  def describe(self, index):
    return f'photos/{index}.png'

  def fingerprint(self):
    return 'f00d'


def flat(count):
  """Images of one colour each, [1, 1, 3], the level 10 times the index."""
  return [np.full((1, 1, 3), 10 * index, np.uint8) for index in range(count)]


def noise(count, seed=0):
  """[count, 256, 256, 3], which the pipeline does not resize."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 256, 256, 3)).astype(np.uint8)


def places(count):
  """Images whose red is the row and whose green the column of a pixel."""
  rows, columns = np.mgrid[:256, :256]
  image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
  return [image] * count


def places_of(batch):
  """(row and column of the crop, whether mirrored) of images of `places`."""
  # The mean colour of `places` is 127.5, 127.5, 0.
  row = batch['image'][:, 0] + 127.5
  first, last = row[:, 0], row[:, -1]
  flipped = first[:, 1] > last[:, 1]
  left = np.where(flipped, last[:, 1], first[:, 1])
  return np.stack([first[:, 0], left], axis=-1).round().astype(int), flipped


def make(images, evaluation=None, *, process=0, processes=1, **fields):
  """A pipeline; fields of the config by their dotted names, __ for the dot."""
  config = alexnet.get_config('folder')
  config.batch_size = 4
  config.dataset.pca = 'imagenet'
  config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in fields.items()}
  )
  train = images if isinstance(images, FakeSource) else FakeSource(images)
  if not isinstance(evaluation, FakeSource):
    evaluation = FakeSource(flat(2) if evaluation is None else evaluation)
  return Pipeline(
      config, train, evaluation, process=process, processes=processes
  )


def take(pipeline, count, first_step=0, **options):
  """One dict of the arrays of some training batches, [batches, ...] each."""
  batches = itertools.islice(
      pipeline.training_batches(first_step, **options), count
  )
  return stack(batches)


def stack(batches):
  batches = list(batches)
  return {
      name: np.stack([batch[name] for batch in batches]) for name in batches[0]
  }


def examples(batches):
  """[batches, examples, ...] to [batches * examples, ...]."""
  return {name: np.concatenate(array) for name, array in batches.items()}


def assert_same(actual, expected):
  """Bit for bit."""
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(actual[name], array)


class OrderTest(parameterized.TestCase):

  def test_types(self):
    batch = take(make(flat(5)), 1)
    self.assertEqual(batch['image'].shape, (1, 4, 224, 224, 3))
    self.assertEqual(batch['image'].dtype, np.float32)
    self.assertEqual(batch['label'].shape, (1, 4))
    self.assertEqual(batch['label'].dtype, np.int32)

  def test_an_example_is_its_image_and_its_label(self):
    batch = take(make(flat(7), augmentation__lighting='none'), 4)
    # Levels 0, 10, ..., 60 less their mean.
    np.testing.assert_allclose(
        batch['image'],
        np.broadcast_to(
            10.0 * batch['label'][..., None, None, None] - 30,
            (4, 4, 224, 224, 3),
        ),
    )

  @parameterized.parameters(1, 3, 9)
  def test_resumes_at_any_step(self, step):
    pipeline = make(noise(5))
    whole = take(pipeline, step + 3)
    rest = {name: array[step:] for name, array in whole.items()}
    assert_same(take(pipeline, 3, step), rest)
    assert_same(take(make(noise(5)), 3, step), rest)

  def test_seeds_differ(self):
    images = places(40)
    options = dict(
        batch_size=40, dataset__mean='channels',
        augmentation__lighting='none',
    )
    batch, again, other = (
        examples(take(make(images, seed=seed, **options), 1))
        for seed in (0, 0, 1)
    )
    assert_same(batch, again)
    # By chance one of 40 is at the same place; a crop is in 1 of 1,024.
    self.assertLess((batch['label'] == other['label']).sum(), 8)
    corners, others = places_of(batch)[0], places_of(other)[0]
    self.assertLess((corners == others).all(1).sum(), 4)

  def test_seeds_differ_in_lighting(self):
    options = dict(augmentation__lighting='standard_deviation')
    images = flat(1)
    batch, other = (take(make(images, seed=s, **options), 2) for s in (0, 1))
    # One grey image: nothing but lighting differs.
    difference = np.abs(batch['image'] - other['image'])
    self.assertGreater(difference.min(axis=(2, 3)).max(axis=2).min(), 0.1)

  def test_every_epoch_has_every_example_once(self):
    """11 examples in batches of 4: batches cross from epoch to epoch."""
    labels = take(make(flat(11)), 22)['label'].reshape(8, 11)
    np.testing.assert_array_equal(
        np.sort(labels, axis=1), np.tile(np.arange(11), (8, 1))
    )
    self.assertLen(np.unique(labels, axis=0), 8)
    self.assertFalse((np.diff(labels, axis=1) == 1).all(1).any())

  def test_order_is_random(self):
    """Where an example is in an epoch says nothing about the next epoch."""
    labels = take(make(flat(16), batch_size=16), 40)['label']
    self.assertEqual(labels.shape, (40, 16))
    # The mean place of an example over 40 epochs: 7.5, sd 4.6 / sqrt(40).
    where = np.argsort(labels, axis=1)
    np.testing.assert_allclose(where.mean(0), 7.5, atol=4.5 * 4.6 / 40**0.5)
    # Correlations of successive epochs: sd 1 / sqrt(15), of their mean 0.041.
    correlations = [
        np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(where)
    ]
    self.assertAlmostEqual(np.mean(correlations), 0, delta=4.5 * 0.041)

  def test_batch_larger_than_the_set(self):
    labels = take(make(flat(3), batch_size=8), 3)['label'].reshape(8, 3)
    np.testing.assert_array_equal(
        np.sort(labels, axis=1), np.tile(np.arange(3), (8, 1))
    )

  def test_one_example(self):
    labels = take(make(flat(1)), 2)['label']
    np.testing.assert_array_equal(labels, np.zeros((2, 4)))

  @parameterized.parameters((2, 0), (4, 3))
  def test_parts_of_processes(self, processes, first_step):
    options = dict(batch_size=8, augmentation__images_per_crop=3)
    images = noise(5)
    # Lighting ends in the second batch.
    lit = {'lighting_steps': first_step + 1}
    whole = take(make(images, **options), 2, first_step, **lit)
    parts = [
        take(
            make(images, process=process, processes=processes, **options),
            2,
            first_step,
            **lit,
        )
        for process in range(processes)
    ]
    for part in parts:
      self.assertEqual(part['label'].shape, (2, 8 // processes))
    assert_same(
        {
            name: np.concatenate([part[name] for part in parts], axis=1)
            for name in whole
        },
        whole,
    )


class EditedSourceTest(absltest.TestCase):

  def test_a_running_pipeline_keeps_its_code(self):
    """AutoGraph would read it again, from a file that has changed since."""
    folder = self.enterContext(tempfile.TemporaryDirectory())
    path = pathlib.Path(folder, 'edited_preprocessing.py')
    code = pathlib.Path(pipeline_lib.preprocessing.__file__).read_text()
    # Line numbers of its own, because AutoGraph knows code by them.
    path.write_text('# This copy only.\n' * 3 + code)
    spec = importlib.util.spec_from_file_location('edited_preprocessing', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images = noise(3)
    expected = make(images, images)
    with mock.patch.object(pipeline_lib, 'preprocessing', module):
      running = make(images, images)
      # As an editor or `git pull` would do while a run goes on.
      path.write_text('# A new line.\n' * 9 + code)
      assert_same(take(running, 1), take(expected, 1))
      assert_same(
          *(
              next(pipeline.evaluation_batches(3, ten_views=True))
              for pipeline in (running, expected)
          )
      )


class EvaluationTest(parameterized.TestCase):

  @parameterized.product(
      case=((1, 1), (3, 1), (7, 1), (16, 1), (2, 2), (4, 2), (14, 2), (16, 2))
  )
  def test_every_example_once(self, case):
    batch_size, processes = case
    ten_views = case in ((3, 1), (4, 2))
    evaluation = flat(7)
    parts = [
        stack(
            make(
                flat(2), evaluation, process=process, processes=processes
            ).evaluation_batches(batch_size, ten_views=ten_views)
        )
        for process in range(processes)
    ]
    batches = -(-7 // batch_size)
    views = 10 if ten_views else 1
    for part in parts:
      shape = (batches, batch_size // processes)
      self.assertEqual(part['label'].shape, shape)
      self.assertEqual(part['weight'].shape, shape)
      self.assertEqual(part['image'].shape, (*shape, views, 224, 224, 3))
      self.assertEqual(part['label'].dtype, np.int32)
      self.assertEqual(part['weight'].dtype, np.float32)
      self.assertEqual(part['image'].dtype, np.float32)
    label, weight, image = (
        np.concatenate([part[name] for part in parts], axis=1)
        for name in ('label', 'weight', 'image')
    )
    # In order, and what fills the last batch weighs nothing.
    np.testing.assert_array_equal(label[weight == 1], np.arange(7))
    np.testing.assert_array_equal(
        weight.ravel(), [1] * 7 + [0] * (weight.size - 7)
    )
    # Levels 0 and 10 of the training set have a mean of 5.
    np.testing.assert_allclose(
        image[..., 0, 0, 1], np.stack([10.0 * label - 5] * views, axis=-1)
    )

  @parameterized.parameters('under', 'centre')
  def test_views(self, mean_crop):
    train, evaluation = noise(2), noise(3, seed=1)
    pipeline = make(train, evaluation, augmentation__mean_crop=mean_crop)
    mean = train.mean(0)

    def view(image, top, left):
      part = lambda x: x[top : top + 224, left : left + 224]
      if mean_crop == 'under':
        return part(image - mean)
      return part(image) - mean[16:240, 16:240]

    offsets = ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
    ten = stack(pipeline.evaluation_batches(3, ten_views=True))['image'][0]
    one = stack(pipeline.evaluation_batches(3, ten_views=False))['image'][0]
    for image, views, centre in zip(evaluation, ten, one):
      five = np.stack([view(image, *offset) for offset in offsets])
      np.testing.assert_allclose(views[:5], five, atol=1e-4)
      if mean_crop == 'under':
        mirrored = five[:, :, ::-1]
      else:
        # Only the image is mirrored, and the mean stays as it is.
        centre_of_mean = mean[16:240, 16:240]
        mirrored = (five + centre_of_mean)[:, :, ::-1] - centre_of_mean
      np.testing.assert_allclose(views[5:], mirrored, atol=1e-4)
      np.testing.assert_allclose(centre, five[4:], atol=1e-4)

  def test_five_views_where_mirror_images_are_others(self):
    """As in training: a mirrored digit is another one."""
    train, evaluation = noise(2), noise(1, seed=1)
    ten, five = (
        stack(
            make(
                train, evaluation, augmentation__flip=flip
            ).evaluation_batches(1, ten_views=True)
        )['image']
        for flip in (True, False)
    )
    self.assertEqual(five.shape, (1, 1, 5, 224, 224, 3))
    np.testing.assert_array_equal(five, ten[:, :, :5])

  def test_a_process_reads_its_part_only(self):
    evaluation = FakeSource(flat(8))
    pipeline = make(flat(2), evaluation, process=1, processes=2)
    list(pipeline.evaluation_batches(4, ten_views=False))
    self.assertCountEqual(evaluation.reads, [2, 3, 6, 7])

  def test_is_not_augmented(self):
    fields = dict(
        augmentation__lighting='standard_deviation',
        augmentation__lighting_divisor=1.1,
    )
    images = noise(3)
    plain, lit = (
        stack(
            make(images, images, **options).evaluation_batches(
                3, ten_views=False
            )
        )
        for options in ({'augmentation__lighting': 'none'}, fields)
    )
    assert_same(lit, plain)


class MeanTest(parameterized.TestCase):

  @parameterized.parameters(
      ('image', 'under'), ('image', 'centre'), ('channels', 'under'),
      ('channels', 'centre'),
  )
  def test_training(self, mean, mean_crop):
    images = noise(3)
    pipeline = make(
        images,
        dataset__mean=mean,
        augmentation__mean_crop=mean_crop,
        augmentation__crop_offsets=1,
        augmentation__flip=False,
        augmentation__lighting='none',
    )
    average = images.mean(0)
    if mean == 'channels':
      average = np.broadcast_to(images.mean((0, 1, 2)), average.shape)
    start = 0 if mean_crop == 'under' else 16
    average = average[start : start + 224, start : start + 224]
    batch = examples(take(pipeline, 2))
    for image, label in zip(batch['image'], batch['label']):
      np.testing.assert_allclose(
          image, images[label][:224, :224] - average, atol=1e-4
      )

  def test_of_imagenet(self):
    source = FakeSource(noise(3))
    pipeline = make(
        source,
        dataset__mean='imagenet_channels',
        dataset__pca='imagenet',
        augmentation__crop_offsets=1,
        augmentation__flip=False,
        augmentation__lighting='none',
    )
    self.assertIsNone(pipeline.statistics)
    self.assertEmpty(source.reads)  # All it needs is built in.
    batch = examples(take(pipeline, 1))
    for image, label in zip(batch['image'], batch['label']):
      np.testing.assert_allclose(
          image,
          noise(3)[label][:224, :224] - np.array([127.30, 119.72, 104.91]),
          atol=1e-4,
      )

  @parameterized.parameters('under', 'centre')
  def test_offset_and_flip(self, mean_crop):
    """The mean under a crop moves and flips with it, its centre does not."""
    images = noise(3)
    fields = dict(
        augmentation__mean_crop=mean_crop, augmentation__lighting='none'
    )
    batch = examples(take(make(images, **fields), 4))
    # The same examples of images that say where they are cut.
    known = examples(
        take(make(places(3), dataset__mean='channels', **fields), 4)
    )
    np.testing.assert_array_equal(batch['label'], known['label'])
    mean = images.mean(0)
    for image, label, (top, left), flipped in zip(
        batch['image'], batch['label'], *places_of(known)
    ):
      def cut(x, top=top, left=left, flipped=flipped):
        x = x[top : top + 224, left : left + 224]
        return x[:, ::-1] if flipped else x

      if mean_crop == 'under':
        expected = cut(images[label] - mean)
      else:
        expected = cut(images[label]) - mean[16:240, 16:240]
      np.testing.assert_allclose(image, expected, atol=1e-4)
    self.assertLen(set(places_of(known)[1]), 2)


class CropTest(parameterized.TestCase):

  def crops(self, batches, count=5, **fields):
    """(corner, flip) of each example in some batches."""
    pipeline = make(
        places(count),
        dataset__mean='channels',
        augmentation__lighting='none',
        **fields,
    )
    corners, flips = places_of(examples(take(pipeline, batches)))
    return list(zip(map(tuple, corners), flips))

  def test_of_each_image(self):
    crops = self.crops(10)
    self.assertGreater(len(set(crops)), 36)
    offsets = np.array([corner for corner, _ in crops])
    self.assertBetween(offsets.min(), 0, 3)
    self.assertBetween(offsets.max(), 28, 31)
    self.assertBetween(sum(flip for _, flip in crops), 8, 32)

  @parameterized.parameters(1, 2, 33)
  def test_offsets(self, offsets):
    crops = self.crops(30, augmentation__crop_offsets=offsets)
    found = {offset for corner, _ in crops for offset in corner}
    self.assertContainsSubset({0, offsets - 1}, found)
    self.assertContainsSubset(found, range(offsets))

  def test_without_flip(self):
    crops = self.crops(10, augmentation__flip=False)
    self.assertFalse(any(flip for _, flip in crops))

  @parameterized.parameters(12, 64)
  def test_shared_by_32_images(self, batch_size):
    """Consecutive ones of the stream, whatever the batches are."""
    crops = self.crops(
        192 // batch_size,
        batch_size=batch_size,
        augmentation__images_per_crop=32,
    )
    groups = [set(crops[start : start + 32]) for start in range(0, 192, 32)]
    self.assertEqual([len(group) for group in groups], [1] * 6)
    self.assertLen(set.union(*groups), 6)
    self.assertLen({flip for _, flip in set.union(*groups)}, 2)


class LightingTest(parameterized.TestCase):

  def batches(self, images, count=2, lighting_steps=None, **fields):
    return take(make(images, **fields), count, lighting_steps=lighting_steps)

  @parameterized.parameters('eigenvalue', 'standard_deviation')
  def test_is_a_colour_then_a_divisor(self, lighting):
    """Run #145: (crop - mean + shift) / 1.1."""
    images = noise(3)
    plain = self.batches(images, augmentation__lighting='none')
    # A divisor without lighting divides nothing.
    assert_same(
        self.batches(
            images,
            augmentation__lighting='none',
            augmentation__lighting_divisor=1.1,
        ),
        plain,
    )
    lit = self.batches(
        images,
        augmentation__lighting=lighting,
        augmentation__lighting_divisor=1.1,
    )
    np.testing.assert_array_equal(lit['label'], plain['label'])
    shift = 1.1 * lit['image'].astype(float) - plain['image']
    colors = shift.mean((2, 3))
    # One colour for all of an image, and another one for each image.
    np.testing.assert_allclose(
        shift, np.broadcast_to(colors[:, :, None, None], shift.shape), atol=1e-3
    )
    self.assertLen(np.unique(colors.reshape(-1, 3).round(3), axis=0), 8)
    undivided = self.batches(images, augmentation__lighting=lighting)
    np.testing.assert_allclose(
        undivided['image'] - plain['image'],
        np.broadcast_to(colors[:, :, None, None], shift.shape),
        atol=1e-3,
    )

  def test_ends(self):
    images = noise(3)
    fields = dict(
        augmentation__lighting='standard_deviation',
        augmentation__lighting_divisor=1.1,
    )
    plain = self.batches(images, 5, augmentation__lighting='none')
    lit = self.batches(images, 5, **fields)
    ends = self.batches(images, 5, lighting_steps=3, **fields)
    np.testing.assert_array_equal(ends['image'][:3], lit['image'][:3])
    np.testing.assert_array_equal(ends['image'][3:], plain['image'][3:])
    for step in range(5):
      self.assertFalse(np.allclose(lit['image'][step], plain['image'][step]))
    # Steps of the run, not of this iterator.
    resumed = take(make(images, **fields), 3, 2, lighting_steps=3)
    assert_same(resumed, {name: array[2:] for name, array in ends.items()})
    never = self.batches(images, 2, lighting_steps=0, **fields)
    np.testing.assert_array_equal(never['image'], plain['image'][:2])

  @parameterized.parameters(
      ('standard_deviation', 0.1, 12.178), ('eigenvalue', 0.1, 5.816),
      ('eigenvalue', 0.2, 11.632),
  )
  def test_size_with_the_components_of_imagenet(self, kind, scale, expected):
    batch = self.batches(
        flat(1),
        1,
        batch_size=256,
        augmentation__lighting=kind,
        augmentation__lighting_scale=scale,
        dataset__pca='imagenet',
    )
    # One flat image less itself: only the shift is left.
    along = batch['image'][0, :, 100, 100] @ MAIN_COMPONENT
    # The standard deviation of 256 numbers has an error of 4.4 %.
    self.assertAlmostEqual(along.std() / expected, 1, delta=0.18)

  def test_components_of_the_data(self):
    """Only the blue of these images varies, and so does its lighting."""
    images = np.zeros((2, 256, 256, 3), np.uint8)
    images[..., 0] = 30
    images[0, ..., 2] = 160  # Blue 0 or 160: a standard deviation of 80.
    batch = self.batches(
        images,
        1,
        batch_size=256,
        augmentation__lighting='standard_deviation',
        dataset__pca='dataset',
        dataset__mean='channels',
    )
    colors = batch['image'][0, :, 100, 100]
    blue = colors[:, 2] - np.where(batch['label'][0] == 0, 80, -80)
    np.testing.assert_allclose(colors[:, :2], 0, atol=1e-3)
    self.assertAlmostEqual(blue.std() / 8, 1, delta=0.18)


class ErrorsTest(parameterized.TestCase):

  def test_statistics(self):
    source = FakeSource(flat(5))
    source.broken = {3}
    with self.assertRaisesRegex(DataError, r'decode photos/3\.png'):
      make(source)

  def test_training(self):
    source = FakeSource(flat(9))
    pipeline = make(source)
    source.broken = {3}
    batches = pipeline.training_batches(0)
    with self.assertRaisesRegex(DataError, r'decode photos/3\.png'):
      for _ in range(3):  # An epoch and a bit.
        next(batches)

  @parameterized.parameters(False, True)
  def test_evaluation(self, ten_views):
    evaluation = FakeSource(flat(5))
    evaluation.broken = {4}
    pipeline = make(flat(2), evaluation)
    batches = pipeline.evaluation_batches(2, ten_views=ten_views)
    with self.assertRaisesRegex(DataError, r'decode photos/4\.png'):
      list(batches)

  def test_files_of_a_folder(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    for name in ('ant', 'newt'):
      (root / name).mkdir()
      for index in range(3):
        Image.fromarray(flat(2)[1]).save(root / name / f'{index}.png')
    config = alexnet.get_config('folder')
    config.batch_size = 2
    config.dataset.train_dir = str(root)
    pipeline = Pipeline(config, *sources.create_sources(config.dataset, 0))
    (held_out,) = {pipeline.evaluation.describe(i) for i in range(2)} - {
        pipeline.evaluation.describe(0)
    }
    pathlib.Path(held_out).write_text('not an image')
    with self.assertRaisesRegex(DataError, f'cannot decode {held_out}'):
      list(pipeline.evaluation_batches(2, ten_views=False))
    pathlib.Path(held_out).unlink()
    with self.assertRaisesRegex(DataError, f'cannot read {held_out}'):
      list(pipeline.evaluation_batches(2, ten_views=False))

  def test_mended_and_broken_elsewhere(self):
    """The error is that of now, not of an earlier pass."""
    evaluation = FakeSource(flat(5))
    pipeline = make(flat(2), evaluation)
    for index in (1, 3):
      evaluation.broken = {index}
      with self.assertRaisesRegex(DataError, rf'photos/{index}\.png'):
        list(pipeline.evaluation_batches(1, ten_views=False))
    evaluation.broken = set()
    self.assertLen(list(pipeline.evaluation_batches(1, ten_views=False)), 5)

  @parameterized.parameters(
      ('dataset.mean', 'pixel', "wanted one of .*'image', 'channels'"),
      ('dataset.pca', 'none', "wanted one of .*'imagenet', 'dataset'"),
      ('augmentation.mean_crop', 'center', "wanted one of .*'centre'"),
      ('augmentation.lighting', 'on', "wanted one of .*'none'"),
      ('augmentation.crop_offsets', 34, '1 to 33'),
      ('augmentation.crop_offsets', 0, '1 to 33'),
      ('augmentation.images_per_crop', 0, 'at least 1'),
      ('augmentation.lighting_divisor', 0.0, 'more than 0'),
      ('augmentation.lighting_divisor', -1.1, 'more than 0'),
  )
  def test_fields(self, field, value, wanted):
    source = FakeSource(flat(2))
    with self.assertRaisesRegex(DataError, f"{field} is '?{value}.*{wanted}"):
      make(source, **{field.replace('.', '__'): value})
    self.assertEmpty(source.reads)  # Before the images are read.


if __name__ == '__main__':
  absltest.main()
