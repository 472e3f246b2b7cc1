"""Batches: order, parts of processes, and pixels worked out in NumPy."""

import importlib.util
import itertools
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

import jax
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized
from PIL import Image

from alexnet.inference.views import Views
from configs import alexnet, alexnet_2012
from input_pipeline import datasets, preprocessing, sources
from input_pipeline import pipeline as pipeline_lib
from input_pipeline.batches import pixels, python_calls
from input_pipeline.errors import DataError
from input_pipeline.files import threads

Pipeline = pipeline_lib.Pipeline

# Of ImageNet, by the authors' release: components in columns, and their
# standard deviations.
DEVIATIONS = np.array([19.7208, 37.0939, 121.7801])
EIGENVECTORS = np.array([
    [0.4180, -0.7126, -0.5635],
    [-0.8170, -0.0235, -0.5762],
    [0.3973, 0.7012, -0.5920],
])
ROOT = pathlib.Path(__file__).parents[2]
# What a batch says of each example besides its pixels.
NUMBERS = ('label', 'offset', 'flip', 'shift', 'divisor')


class FakeSource(sources.Source):
  """Images of its own; the label of each is its index."""

  def __init__(self, images):
    self.name = 'fake'
    self.class_names = tuple(str(index) for index in range(len(images)))
    self.broken = set()
    self.reads = []  # (index, box)
    self._encoded = [sources.encode_png(image) for image in images]

  def __len__(self):
    return len(self._encoded)

  def read(self, index):
    return b'junk' if index in self.broken else self._encoded[index], index

  def image(self, index, box=preprocessing.WHOLE):
    self.reads.append((index, box))
    return super().image(index, box)

  def describe(self, index):
    return f'photos/{index}.png'

  def fingerprint(self):
    return 'f00d'


class Listed(FakeSource):
  """As many examples as wanted, which nobody reads."""

  def __init__(self, count):
    super().__init__([])
    self._count = count

  def __len__(self):
    return self._count


def flat(count):
  """Images of one colour each, [8, 8, 3], the level 10 times the index."""
  return [np.full((8, 8, 3), 10 * index, np.uint8) for index in range(count)]


def noise(count, seed=0):
  """[count, 256, 256, 3], which the pipeline does not resize."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 256, 256, 3)).astype(np.uint8)


def coloured(count, seed=0):
  """Noise whose colours depend on each other, unlike in each image."""
  rng = np.random.default_rng(seed)
  mix = np.array([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.4, 0.3, 0.3]])
  levels = noise(count, seed) @ mix.T + rng.uniform(-30, 30, (count, 1, 1, 3))
  return np.clip(levels, 0, 255).astype(np.uint8)


def make_config(recipe=alexnet, **fields):
  """Fields of the config by their dotted names, __ for the dot."""
  config = recipe.get_config('folder')
  config.batch_size = 4
  config.dataset.pca = 'imagenet'
  config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in fields.items()}
  )
  return config


def make(images, evaluation=None, *, process=0, processes=1, **fields):
  """A pipeline; fields as in `make_config`."""
  train = images if isinstance(images, FakeSource) else FakeSource(images)
  if not isinstance(evaluation, FakeSource):
    evaluation = FakeSource(flat(2) if evaluation is None else evaluation)
  return Pipeline(
      make_config(**fields), train, evaluation, process=process,
      processes=processes,
  )


def planned(count, **fields):
  """A pipeline of that many examples, for its plan."""
  fields = {'dataset__mean': 'imagenet_channels', **fields}
  return make(Listed(count), **fields)


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


def network_input(pipeline, batch, **fields):
  """What the network reads of [examples, ...], as a run makes it."""
  config = make_config(**fields).augmentation
  views = Views(
      pipeline.mean_image, config.mean_crop, mirror=config.flip, crop=224
  )
  return np.asarray(jax.jit(views.training)(batch))


def by_numpy(images, batch, mean, mean_crop):
  """The same by the formulas, from whole images [count, 256, 256, 3]."""
  result = []
  for label, (top, left), flip, shift, divisor in zip(
      *(batch[name] for name in NUMBERS)
  ):
    cut = lambda x, top=top, left=left: x[top : top + 224, left : left + 224]
    mirror = (lambda x: x[:, ::-1]) if flip else (lambda x: x)
    image = images[label].astype(np.float64)
    if mean_crop == 'under':
      image = mirror(cut(image - mean))
    else:
      image = mirror(cut(image)) - mean[16:240, 16:240]
    result.append((image + shift) / divisor)
  return np.stack(result)


def assert_same(actual, expected):
  """Bit for bit."""
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(actual[name], array)
    assert actual[name].dtype == array.dtype


class OrderTest(parameterized.TestCase):

  def test_types(self):
    batch = take(make(flat(5)), 1)
    self.assertEqual(
        {name: (array.shape, array.dtype) for name, array in batch.items()},
        {
            'image': ((1, 4, 224, 224, 3), np.uint8),
            'label': ((1, 4), np.int32),
            'offset': ((1, 4, 2), np.int32),
            'flip': ((1, 4), np.bool_),
            'shift': ((1, 4, 3), np.float32),
            'divisor': ((1, 4), np.float32),
        },
    )

  def test_an_example_is_its_image_and_its_label(self):
    batch = take(make(flat(7)), 4)
    np.testing.assert_array_equal(
        batch['image'],
        np.broadcast_to(
            10 * batch['label'][..., None, None, None], (4, 4, 224, 224, 3)
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
    """In order, crops, flips and colours, and only by the seed."""
    options = dict(
        batch_size=64, augmentation__lighting='standard_deviation'
    )
    batch, again, other = (
        examples(take(make(64 * flat(1), seed=seed, **options), 1))
        for seed in (0, 0, 1)
    )
    assert_same(batch, again)
    equal = {
        name: (batch[name] == other[name]).reshape(64, -1).all(1).sum()
        for name in NUMBERS
    }
    # By chance one of 64 is at the same place; a crop is in 1 of 1,024.
    self.assertLess(equal['label'], 8)
    self.assertLess(equal['offset'], 4)
    self.assertBetween(equal['flip'], 12, 52)
    self.assertEqual(equal['shift'], 0)

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

  def test_no_neighbours_of_the_epoch_before(self):
    length, epochs = 500, 41
    plan = planned(length).plan(0, length * epochs)
    orders = plan.index.reshape(epochs, length)
    np.testing.assert_array_equal(
        np.sort(orders, axis=1), np.tile(np.arange(length), (epochs, 1))
    )
    again = 0
    for one, other in itertools.pairwise(orders.tolist()):
      again += len(
          set(itertools.pairwise(one)) & set(itertools.pairwise(other))
      )
    # An ordered pair is there again with chance 1 / 500: a Poisson number of
    # mean 40 * 499 / 500.
    self.assertBetween(again, 40 - 5 * 40**0.5, 40 + 5 * 40**0.5)

  def test_batch_larger_than_the_set(self):
    labels = take(make(flat(3), batch_size=8), 3)['label'].reshape(8, 3)
    np.testing.assert_array_equal(
        np.sort(labels, axis=1), np.tile(np.arange(3), (8, 1))
    )

  def test_one_example(self):
    labels = take(make(flat(1)), 2)['label']
    np.testing.assert_array_equal(labels, np.zeros((2, 4)))

  @parameterized.parameters(1, 6, 24)
  def test_the_stream_does_not_depend_on_the_batch_size(self, batch_size):
    fields = dict(
        augmentation__images_per_crop=3,
        augmentation__lighting='standard_deviation',
    )
    expected = examples(take(make(noise(5), **fields), 6))
    fields['batch_size'] = batch_size
    stream = take(make(noise(5), **fields), 24 // batch_size)
    assert_same(examples(stream), expected)

  def test_batches_stay_as_they_are(self):
    """Whoever keeps one does not see the next ones in its memory."""
    batches = make(noise(5)).training_batches(0)
    kept = [next(batches) for _ in range(6)]
    copies = [
        {name: array.copy() for name, array in batch.items()} for batch in kept
    ]
    for _ in range(6):
      next(batches)
    for batch, copy in zip(kept, copies):
      assert_same(batch, copy)


class ProcessesTest(parameterized.TestCase):

  @parameterized.parameters((2, 0), (4, 3))
  def test_parts_make_up_the_batch(self, processes, first_step):
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

  def test_four_processes_make_up_the_epoch(self):
    """Two batches of 8 are an epoch of 16; each reads a quarter of it."""
    order = take(make(flat(16), batch_size=8), 40)['label']
    seen = []
    for process in range(4):
      source = FakeSource(flat(16))
      pipeline = make(
          source, process=process, processes=4, batch_size=8,
          dataset__mean='imagenet_channels',
      )
      self.assertEmpty(source.reads)
      labels = take(pipeline, 2)['label']
      self.assertEqual(labels.shape, (2, 2))
      np.testing.assert_array_equal(
          labels, order[:2, 2 * process : 2 * process + 2]
      )
      seen += labels.ravel().tolist()
      # It has read on, but only what it will need: of no other process.
      reads = [index for index, _ in source.reads]
      own = order[:, 2 * process : 2 * process + 2].ravel()
      self.assertContainsSubset(labels.ravel().tolist(), reads)
      self.assertCountEqual(reads, own[: len(reads)].tolist())
    self.assertCountEqual(seen, range(16))

  def test_only_the_crop_is_asked_for(self):
    source = FakeSource(flat(6))
    pipeline = make(source, dataset__mean='imagenet_channels', batch_size=12)
    batch = take(pipeline, 1)
    boxes = {
        (index, box.top, box.left, box.size) for index, box in source.reads
    }
    for index, (top, left) in zip(batch['label'][0], batch['offset'][0]):
      self.assertIn((index, top, left, 224), boxes)
    self.assertEqual({box[-1] for box in boxes}, {224})


class EditedSourceTest(absltest.TestCase):

  def test_a_running_pipeline_keeps_its_code(self):
    """AutoGraph would read it again, from a file that has changed since."""
    folder = self.enterContext(tempfile.TemporaryDirectory())
    # Where dataclasses and AutoGraph look for a module, and the second copy
    # for the first.
    self.enterContext(mock.patch.dict('sys.modules'))
    edits = {}
    for original, edited in (
        (python_calls, ('tf.numpy_function(', 'tf.no_such_function(')),
        (pixels, ('calls.call(', 'calls.no_such_call(')),
        (pipeline_lib, ('self._draw(', 'self._no_such_draw(')),
    ):
      code = pathlib.Path(original.__file__).read_text()
      self.assertIn(edited[0], code)
      path = pathlib.Path(folder, f'{len(edits)}.py')
      edits[path] = code.replace(*edited)
      # Line numbers of its own, because AutoGraph knows code by them.
      path.write_text('# This copy only.\n' * 3 + code)
      spec = importlib.util.spec_from_file_location(original.__name__, path)
      module = importlib.util.module_from_spec(spec)
      sys.modules[original.__name__] = module
      spec.loader.exec_module(module)
    source = FakeSource(noise(3))
    # Without statistics, so that nothing is run before the edit.
    config = make_config(dataset__mean='imagenet_channels')
    running, expected = (
        made(config, source, source) for made in (module.Pipeline, Pipeline)
    )
    # As an editor or `git pull` would do while a run goes on: where the old
    # calls were, there are others.
    for path, edited in edits.items():
      path.write_text('# A new line..\n' * 3 + edited)
    assert_same(take(running, 1), take(expected, 1))
    assert_same(
        *(
            next(pipeline.evaluation_batches(3))
            for pipeline in (running, expected)
        )
    )


class EvaluationTest(parameterized.TestCase):

  @parameterized.parameters(
      (1, 1), (3, 1), (7, 1), (16, 1), (4, 2), (14, 2), (40, 4),
  )
  def test_every_example_once(self, batch_size, processes):
    evaluation = flat(7)
    parts = [
        stack(
            make(
                flat(2), evaluation, process=process, processes=processes
            ).evaluation_batches(batch_size)
        )
        for process in range(processes)
    ]
    batches = -(-7 // batch_size)
    for part in parts:
      shape = (batches, batch_size // processes)
      self.assertEqual(
          {name: (array.shape, array.dtype) for name, array in part.items()},
          {
              'image': ((*shape, 256, 256, 3), np.uint8),
              'label': (shape, np.int32),
              'weight': (shape, np.float32),
          },
      )
    label, weight, image = (
        np.concatenate([part[name] for part in parts], axis=1)
        for name in ('label', 'weight', 'image')
    )
    # In order, and what fills the last batch weighs nothing.
    np.testing.assert_array_equal(label[weight == 1], np.arange(7))
    np.testing.assert_array_equal(
        weight.ravel(), [1] * 7 + [0] * (weight.size - 7)
    )
    np.testing.assert_array_equal(
        image,
        np.broadcast_to(10 * label[..., None, None, None], image.shape),
    )

  @parameterized.parameters('under', 'centre')
  def test_views(self, mean_crop):
    train, evaluation = noise(2), noise(3, seed=1)
    pipeline = make(train, evaluation)
    mean = train.mean(0)

    def view(image, top, left):
      part = lambda x: x[top : top + 224, left : left + 224]
      if mean_crop == 'under':
        return part(image - mean)
      return part(image) - mean[16:240, 16:240]

    offsets = ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
    batch = next(pipeline.evaluation_batches(3))
    views = Views(pipeline.mean_image, mean_crop, mirror=True, crop=224)
    ten = np.asarray(jax.jit(views.ten)(batch))
    one = np.asarray(jax.jit(views.centre)(batch))
    self.assertEqual(ten.shape, (3, 10, 224, 224, 3))
    self.assertEqual(one.shape, (3, 1, 224, 224, 3))
    for image, all_views, centre in zip(evaluation, ten, one):
      five = np.stack([view(image, *offset) for offset in offsets])
      np.testing.assert_allclose(all_views[:5], five, atol=1e-4)
      if mean_crop == 'under':
        mirrored = five[:, :, ::-1]
      else:
        # Only the image is mirrored, and the mean stays as it is.
        centre_of_mean = mean[16:240, 16:240]
        mirrored = (five + centre_of_mean)[:, :, ::-1] - centre_of_mean
      np.testing.assert_allclose(all_views[5:], mirrored, atol=1e-4)
      np.testing.assert_allclose(centre, five[4:], atol=1e-4)
    # As in training: a mirrored digit is another one.
    views = Views(pipeline.mean_image, mean_crop, mirror=False, crop=224)
    np.testing.assert_array_equal(jax.jit(views.ten)(batch), ten[:, :5])

  def test_a_process_reads_its_part_only(self):
    evaluation = FakeSource(flat(8))
    pipeline = make(flat(2), evaluation, process=1, processes=2)
    list(pipeline.evaluation_batches(4))
    self.assertCountEqual(
        evaluation.reads,
        [(index, preprocessing.Box(0, 0, 256)) for index in (2, 3, 6, 7)],
    )

  def test_is_not_augmented(self):
    fields = dict(
        augmentation__lighting='standard_deviation',
        augmentation__lighting_divisor=1.1,
        seed=1,
    )
    images = noise(3)
    plain, lit = (
        stack(make(images, images, **options).evaluation_batches(3))
        for options in ({'augmentation__lighting': 'none'}, fields)
    )
    assert_same(lit, plain)
    np.testing.assert_array_equal(plain['image'][0], images)


class RecipeTest(parameterized.TestCase):
  """What the network reads in training, against NumPy from the formulas."""

  def test_paper(self):
    """A crop, a flip and a colour for each image (paper, section 4.1)."""
    images = coloured(24)
    fields = dict(batch_size=16, dataset__pca='dataset')
    pipeline = make(images, **fields)
    batch = examples(take(pipeline, 6))
    wide = images.astype(np.float64)
    mean = wide.mean(0)
    np.testing.assert_allclose(
        network_input(pipeline, batch, **fields),
        by_numpy(images, batch, mean, 'under'),
        atol=2e-4,
    )
    self.assertGreater(len(np.unique(batch['offset'], axis=0)), 80)
    self.assertLen(np.unique(batch['shift'], axis=0), 96)
    self.assertBetween(batch['flip'].sum(), 24, 72)
    np.testing.assert_array_equal(batch['divisor'], 1)

    # Lighting (of many more examples): along the principal components, by
    # 255 times the eigenvalues of the colours in 0..1, times 0.1.
    covariance = np.cov(wide.reshape(-1, 3) / 255, rowvar=False, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    shifts = pipeline.plan(0, 20_000).shift
    np.testing.assert_array_equal(shifts[:96], batch['shift'])
    sizes = shifts @ vectors / (0.1 * 255 * values)
    # Five times the sampling error of a variance.
    np.testing.assert_allclose(
        np.cov(sizes.T), np.eye(3), atol=5 * (2 / 20_000) ** 0.5
    )
    np.testing.assert_allclose(sizes.mean(0), 0, atol=5 / 20_000**0.5)
    for size in sizes.T:
      self.assertGreater(scipy.stats.kstest(size, 'norm').pvalue, 1e-4)

  def test_2012(self):
    """Run #145: a crop for 32 images, the mean's centre, a divisor."""
    images = coloured(24)
    fields = dict(recipe=alexnet_2012, batch_size=16, dataset__pca='dataset')
    pipeline = make(images, **fields)
    steps = 4 * 2
    batch = examples(take(pipeline, steps + 2, lighting_steps=steps))
    wide = images.astype(np.float64)
    mean = wide.mean(0)
    np.testing.assert_allclose(
        network_input(pipeline, batch, **fields),
        by_numpy(images, batch, mean, 'centre'),
        atol=2e-4,
    )
    # Five groups of 32, in ten batches of 16.
    crops = np.concatenate([batch['offset'], batch['flip'][:, None]], axis=1)
    groups = crops.reshape(5, 32, 3)
    np.testing.assert_array_equal(
        groups, np.broadcast_to(groups[:, :1], groups.shape)
    )
    self.assertLen(np.unique(groups[:, 0, :2], axis=0), 5)
    # While there is lighting, each image has its own, and is divided by 1.1.
    lit = 16 * steps
    self.assertLen(np.unique(batch['shift'][:lit], axis=0), lit)
    np.testing.assert_array_equal(batch['divisor'][:lit], np.float32(1.1))
    np.testing.assert_array_equal(batch['shift'][lit:], 0)
    np.testing.assert_array_equal(batch['divisor'][lit:], 1)

    # The roots of the eigenvalues of the colours in 0..255.
    covariance = np.cov(wide.reshape(-1, 3), rowvar=False, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    shifts = pipeline.plan(0, 20_000).shift
    np.testing.assert_array_equal(shifts[:lit], batch['shift'][:lit])
    sizes = shifts @ vectors / (0.1 * np.sqrt(values))
    np.testing.assert_allclose(
        np.cov(sizes.T), np.eye(3), atol=5 * (2 / 20_000) ** 0.5
    )

  @parameterized.parameters(
      (alexnet, 32, 1), (alexnet_2012, 33, 32)
  )
  def test_offsets_are_uniform(self, recipe, offsets, shared):
    count = 30 * offsets**2
    plan = planned(1000, recipe=recipe).plan(0, count * shared)
    top, left = plan.offset[::shared].T.astype(int)
    flip = plan.flip[::shared]
    for cells, number in (
        (top, offsets), (left, offsets), (offsets * top + left, offsets**2),
        (2 * (offsets * top + left) + flip, 2 * offsets**2),
    ):
      counts = np.bincount(cells, minlength=number)
      self.assertLen(counts, number)
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, 1e-4)
    self.assertAlmostEqual(flip.mean(), 0.5, delta=2.5 / count**0.5)
    # Whatever the image is that they are of.
    table = scipy.stats.contingency.crosstab(
        plan.index[::shared] // 100, top // 4
    ).count
    self.assertGreater(scipy.stats.chi2_contingency(table).pvalue, 1e-4)

  @parameterized.parameters(
      ('standard_deviation', 0.1, 1.0), ('eigenvalue', 0.1, 1.0),
      ('eigenvalue', 0.2, 2.0),
  )
  def test_lighting_with_the_components_of_imagenet(self, kind, scale, factor):
    shift = planned(
        1000, augmentation__lighting=kind, augmentation__lighting_scale=scale
    ).plan(0, 8192).shift
    lengths = DEVIATIONS if kind != 'eigenvalue' else DEVIATIONS**2 / 255
    sizes = np.linalg.solve(EIGENVECTORS, shift.T) / lengths[:, None] / 0.1
    np.testing.assert_allclose(
        np.cov(sizes), factor**2 * np.eye(3),
        atol=5 * (2 / 8192) ** 0.5 * factor**2,
    )

  @parameterized.parameters(1, 2, 33)
  def test_offsets(self, offsets):
    plan = planned(
        1000, augmentation__crop_offsets=offsets, augmentation__flip=False
    ).plan(7, 3000)
    self.assertEqual(set(plan.offset.ravel().tolist()), set(range(offsets)))
    self.assertFalse(plan.flip.any())

  def test_no_lighting_has_no_divisor(self):
    plan = planned(
        1000, augmentation__lighting='none', augmentation__lighting_divisor=1.1
    ).plan(0, 100)
    np.testing.assert_array_equal(plan.shift, 0)
    np.testing.assert_array_equal(plan.divisor, 1)

  def test_lighting_ends(self):
    """At a step of the run, not of this iterator."""
    fields = dict(
        augmentation__lighting='standard_deviation',
        augmentation__lighting_divisor=1.1,
    )
    images = flat(3)
    lit = take(make(images, **fields), 5)
    ends = take(make(images, **fields), 5, lighting_steps=3)
    for name in ('image', 'label', 'offset', 'flip'):
      np.testing.assert_array_equal(ends[name], lit[name])
    for name, off in (('shift', 0), ('divisor', 1)):
      np.testing.assert_array_equal(ends[name][:3], lit[name][:3])
      np.testing.assert_array_equal(ends[name][3:], off)
      self.assertTrue((lit[name] != off).all())
    resumed = take(make(images, **fields), 3, 2, lighting_steps=3)
    assert_same(resumed, {name: array[2:] for name, array in ends.items()})
    never = take(make(images, **fields), 2, lighting_steps=0)
    np.testing.assert_array_equal(never['shift'], 0)
    np.testing.assert_array_equal(never['divisor'], 1)

  def test_uses_are_independent(self):
    """The order, the crop, the flip and the colour of an example."""
    length = 20_000
    plan = planned(length, augmentation__lighting='standard_deviation').plan(
        0, length
    )
    along = plan.shift @ EIGENVECTORS  # Nearly orthogonal.
    columns = [
        plan.index, np.argsort(plan.index), *plan.offset.T, plan.flip,
        *along.T, *np.abs(along.T),
    ]
    columns = np.stack([scipy.stats.rankdata(column) for column in columns])
    correlations = np.corrcoef(columns)
    # The signs of a shift's parts and their sizes are known to be theirs.
    np.testing.assert_allclose(
        correlations - np.eye(len(columns)), 0, atol=5 / length**0.5
    )


class MeanTest(parameterized.TestCase):

  @parameterized.parameters(
      ('image', 'under'), ('image', 'centre'), ('channels', 'under'),
      ('channels', 'centre'),
  )
  def test_training(self, mean, mean_crop):
    images = noise(3)
    fields = dict(
        dataset__mean=mean,
        augmentation__mean_crop=mean_crop,
        augmentation__crop_offsets=1,
        augmentation__flip=False,
        augmentation__lighting='none',
    )
    pipeline = make(images, **fields)
    average = images.mean(0)
    if mean == 'channels':
      average = np.broadcast_to(images.mean((0, 1, 2)), average.shape)
    self.assertEqual(pipeline.mean_image.dtype, np.float32)
    np.testing.assert_allclose(pipeline.mean_image, average, rtol=1e-6)
    start = 0 if mean_crop == 'under' else 16
    average = average[start : start + 224, start : start + 224]
    batch = examples(take(pipeline, 2))
    for image, label in zip(
        network_input(pipeline, batch, **fields), batch['label']
    ):
      np.testing.assert_allclose(
          image, images[label][:224, :224] - average, atol=1e-4
      )

  def test_of_imagenet(self):
    source = FakeSource(noise(3))
    pipeline = make(
        source,
        dataset__mean='imagenet_channels',
        dataset__pca='imagenet',
    )
    self.assertIsNone(pipeline.statistics)
    self.assertEmpty(source.reads)  # All it needs is built in.
    np.testing.assert_array_equal(
        pipeline.mean_image,
        np.broadcast_to(np.float32([127.30, 119.72, 104.91]), (256, 256, 3)),
    )

  @parameterized.parameters('under', 'centre')
  def test_offset_and_flip(self, mean_crop):
    """The mean under a crop moves and flips with it, its centre does not."""
    images = noise(3)
    fields = dict(
        augmentation__mean_crop=mean_crop, augmentation__lighting='none'
    )
    pipeline = make(images, **fields)
    batch = examples(take(pipeline, 4))
    np.testing.assert_allclose(
        network_input(pipeline, batch, **fields),
        by_numpy(images, batch, images.mean(0), mean_crop),
        atol=1e-4,
    )
    self.assertLen(set(batch['flip'].tolist()), 2)

  def test_statistics_of_all_images_in_many_chunks(self):
    """37 images: parts of 16 that threads read at once, and a rest."""
    images = coloured(37)
    source = FakeSource(images)
    pipeline = make(source, dataset__pca='dataset')
    self.assertCountEqual(
        source.reads,
        [(index, preprocessing.Box(0, 0, 256)) for index in range(37)],
    )
    wide = images.astype(np.float64)
    np.testing.assert_allclose(
        pipeline.mean_image, wide.mean(0), rtol=1e-6
    )
    np.testing.assert_allclose(
        pipeline.statistics.covariance,
        np.cov(wide.reshape(-1, 3), rowvar=False, bias=True),
        rtol=1e-9,
    )

  def test_statistics_that_came_with_the_data(self):
    source = FakeSource(flat(3))
    known = make(noise(2)).statistics
    source.statistics = lambda: known
    pipeline = make(source)
    self.assertIs(pipeline.statistics, known)
    self.assertEmpty(source.reads)
    np.testing.assert_array_equal(pipeline.mean_image, known.mean_image)

  def test_components_of_the_data(self):
    """Only the blue of these images varies, and so does its lighting."""
    images = np.zeros((2, 256, 256, 3), np.uint8)
    images[..., 0] = 30
    images[0, ..., 2] = 160  # Blue 0 or 160: a standard deviation of 80.
    pipeline = make(
        images,
        augmentation__lighting='standard_deviation',
        dataset__pca='dataset',
        dataset__mean='channels',
    )
    shift = pipeline.plan(0, 4096).shift
    np.testing.assert_allclose(shift[:, :2], 0, atol=1e-3)
    # The standard deviation of 4,096 numbers has an error of 1.1 %.
    self.assertAlmostEqual(shift[:, 2].std() / 8, 1, delta=0.055)


class ThreadsTest(absltest.TestCase):

  def test_batches_are_read_by_several_threads(self):
    """Both wait for the other one: one thread alone would never go on."""
    barrier = threading.Barrier(2)

    class Meeting(FakeSource):

      def image(self, index, box=preprocessing.WHOLE):
        if index in (0, 3):  # The first of a batch.
          barrier.wait(timeout=60)
        return super().image(index, box)

    pipeline = make(flat(2), Meeting(flat(6)))
    with mock.patch.object(threads, 'cores', return_value=2):
      labels = stack(pipeline.evaluation_batches(3))['label']
    np.testing.assert_array_equal(labels, np.arange(6).reshape(2, 3))


class StreamTest(absltest.TestCase):

  def test_nothing_is_read_once_it_is_closed(self):
    pipeline = make(flat(5))
    stream = pipeline.training_batches(0)
    next(stream)
    stream.close()
    count = len(pipeline.train.reads)
    time.sleep(0.3)
    self.assertLen(pipeline.train.reads, count)

  def test_is_closed_before_python_ends(self):
    """Else TensorFlow could wait for ever for a call that Python stopped."""
    code = (
        'import atexit\n'
        'atexit.register(lambda: print([s.gi_frame for s in streams]))\n'
        'from benchmarks.ends import Images\n'
        'from configs import alexnet\n'
        'from input_pipeline.pipeline import Pipeline\n'
        'config = alexnet.get_config("folder")\n'
        'config.batch_size = 4\n'
        'config.dataset.mean = "imagenet_channels"\n'
        'config.dataset.pca = "imagenet"\n'
        'images = Images("reading")\n'
        'pipeline = Pipeline(config, images, images)\n'
        'streams = [\n'
        '    pipeline.training_batches(0), pipeline.evaluation_batches(1)\n'
        ']\n'
        'for stream in streams: next(stream)\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
        timeout=120,
    )
    self.assertEqual(result.stdout.strip(), '[None, None]', result.stderr)
    self.assertEqual(result.returncode, 0, result.stderr)


class ErrorsTest(parameterized.TestCase):

  def test_statistics(self):
    source = FakeSource(flat(5))
    source.broken = {3}
    with self.assertRaisesRegex(DataError, r'cannot use photos/3\.png'):
      make(source)

  def test_training(self):
    source = FakeSource(flat(9))
    pipeline = make(source)
    source.broken = {3}
    batches = pipeline.training_batches(0)
    with self.assertRaisesRegex(DataError, r'cannot use photos/3\.png'):
      for _ in range(3):  # An epoch and a bit.
        next(batches)

  def test_evaluation(self):
    evaluation = FakeSource(flat(5))
    evaluation.broken = {4}
    pipeline = make(flat(2), evaluation)
    batches = pipeline.evaluation_batches(2)
    with self.assertRaisesRegex(DataError, r'cannot use photos/4\.png'):
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
    pipeline = Pipeline(config, *datasets.create_sources(config.dataset, 0))
    (held_out,) = {pipeline.evaluation.describe(i) for i in range(2)} - {
        pipeline.evaluation.describe(0)
    }
    pathlib.Path(held_out).write_text('not an image')
    with self.assertRaisesRegex(
        DataError, rf'cannot use {held_out} \(it is not a JPEG'
    ):
      list(pipeline.evaluation_batches(2))
    pathlib.Path(held_out).unlink()
    with self.assertRaisesRegex(
        DataError, rf'cannot use {held_out} \(No such file'
    ):
      list(pipeline.evaluation_batches(2))

  def test_mended_and_broken_elsewhere(self):
    """The error is that of now, not of an earlier pass."""
    evaluation = FakeSource(flat(5))
    pipeline = make(flat(2), evaluation)
    for index in (1, 3):
      evaluation.broken = {index}
      with self.assertRaisesRegex(DataError, rf'photos/{index}\.png'):
        list(pipeline.evaluation_batches(1))
    evaluation.broken = set()
    self.assertLen(list(pipeline.evaluation_batches(1)), 5)

  def test_another_error_is_raised_as_it_is(self):
    """Not as text, and not as the error of an image before."""
    evaluation = FakeSource(flat(5))
    pipeline = make(flat(2), evaluation)
    evaluation.broken = {1}
    with self.assertRaises(DataError):
      list(pipeline.evaluation_batches(1))
    mistake = ZeroDivisionError('a mistake of the program')
    with mock.patch.object(evaluation, 'read', side_effect=mistake):
      for batches in (
          pipeline.evaluation_batches(1),
          make(evaluation, dataset__mean='imagenet_channels').training_batches(
              7
          ),
      ):
        with self.assertRaises(ZeroDivisionError) as caught:
          list(batches)
        self.assertIs(caught.exception, mistake)

  def test_the_first_of_two_broken_images(self):
    """In the order of the examples, though batches are made at once."""
    evaluation = FakeSource(flat(6))
    read = evaluation.read

    def late(index):
      if index == 2:
        time.sleep(0.3)
      return read(index)

    evaluation.read = late
    evaluation.broken = {2, 3}
    batches = make(flat(2), evaluation).evaluation_batches(1)
    labels = [next(batches)['label'].item() for _ in range(2)]
    self.assertEqual(labels, [0, 1])
    with self.assertRaisesRegex(DataError, r'photos/2\.png'):
      next(batches)

  @parameterized.parameters(
      ('dataset.mean', 'pixel', "expected one of .*'image', 'channels'"),
      ('dataset.pca', 'none', "expected one of .*'imagenet', 'dataset'"),
      ('augmentation.mean_crop', 'center', "expected one of .*'centre'"),
      ('augmentation.lighting', 'on', "expected one of .*'none'"),
      ('augmentation.crop_offsets', 34, '1 to 33'),
      ('augmentation.crop_size', 257, 'dataset.size is 256: expected a crop'),
      ('augmentation.crop_size', 0, 'expected a whole number from 1'),
      ('dataset.size', 513, 'from 1 to 512'),
      ('augmentation.crop_offsets', 0, 'a whole number from 1'),
      ('augmentation.images_per_crop', 0, 'a whole number from 1'),
      ('augmentation.lighting_divisor', 0.0, 'a number > 0'),
      ('augmentation.lighting_divisor', -1.1, 'a number > 0'),
  )
  def test_fields(self, field, value, wanted):
    source = FakeSource(flat(2))
    with self.assertRaisesRegex(DataError, f"{field} is '?{value}.*{wanted}"):
      make(source, **{field.replace('.', '__'): value})
    self.assertEmpty(source.reads)  # Before the images are read.

  def test_sizes_that_do_not_fit(self):
    with self.assertRaisesRegex(DataError, '1 to 7, which fit a 250 crop'):
      make(FakeSource(flat(2)), augmentation__crop_size=250)
    source = FakeSource(flat(2))
    source.size = 64
    with self.assertRaisesRegex(
        DataError, 'dataset.size is 256, .* squares of 64 pixels: set .*=64'
    ):
      make(source)

  def test_small_squares(self):
    """Eight pixels of ten: each batch is a part of its image's square."""
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (10, 10, 3)).astype(np.uint8) for _ in range(4)
    ]
    pipeline = make(
        FakeSource(images),
        FakeSource(images),
        dataset__size=10,
        augmentation__crop_size=8,
        augmentation__crop_offsets=3,
    )
    batch = next(pipeline.training_batches(0))
    offsets = set()
    for image, label, (top, left) in zip(
        batch['image'], batch['label'], batch['offset']
    ):
      square = images[label][top : top + 8, left : left + 8]
      np.testing.assert_array_equal(image, square)
      offsets.add((int(top), int(left)))
    self.assertLessEqual(max(map(max, offsets)), 2)
    np.testing.assert_allclose(
        pipeline.mean_image, np.mean(images, 0), atol=1e-3
    )
    np.testing.assert_array_equal(
        pipeline.evaluation_squares([2, 0]), [images[2], images[0]]
    )


if __name__ == '__main__':
  absltest.main()
