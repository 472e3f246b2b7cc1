"""Batches as a pure function of (seed, step): nothing to save, nothing to seek.

Training is one endless stream of examples. Example i of the stream belongs to
epoch i // n and is the image at place i % n of that epoch's permutation; batch
s is the examples from s * batch_size on. Every epoch therefore shows every
image exactly once, and batches cross from one epoch into the next.
"""

import functools
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf

from input_pipeline import preprocessing
from input_pipeline import statistics as statistics_lib
from input_pipeline.errors import DataError
from input_pipeline.sources import Source

# What a random number is for, so that uses are independent of each other.
_ORDER, _CROP, _LIGHTING = range(3)
_USES = 3
_ENDLESS = np.iinfo(np.int64).max

Batch = dict[str, np.ndarray]


class Pipeline:
  """The data of one run.

  Attributes:
    train: the training set.
    evaluation: the evaluation set.
    statistics: of the training set's images; None if the config takes all it
      needs from ImageNet's, which are built in.
  """

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      train: Source,
      evaluation: Source,
      *,
      process: int = 0,
      processes: int = 1,
  ):
    """Opens the data; computes the training set's statistics on first use.

    Args:
      config: the whole config; reads dataset, augmentation, seed and the batch
        sizes.
      train: the training set.
      evaluation: the evaluation set.
      process: index of this process, which reads its part of each batch.
      processes: number of processes.

    Raises:
      DataError: a field that cannot work, or an image that cannot be read.
    """
    _check(config, processes)
    self._config = config
    self.train = train
    self.evaluation = evaluation
    self._process = process
    self._processes = processes
    self._failure: DataError | None = None
    self.statistics: statistics_lib.Statistics | None = None
    wanted = config.dataset.mean, config.dataset.pca
    if wanted != ('imagenet_channels', 'imagenet'):
      self.statistics = statistics_lib.load_or_compute(
          train, self._squares(train), config.dataset.statistics_dir
      )
    if config.dataset.pca == 'imagenet':
      self._components = (
          statistics_lib.IMAGENET_DEVIATIONS,
          statistics_lib.IMAGENET_EIGENVECTORS,
      )
    else:
      self._components = self.statistics.principal_components()
    self._mean = self._mean_to_subtract()

  def training_batches(
      self, first_step: int, *, lighting_steps: int | None = None
  ) -> Iterator[Batch]:
    """Endless training batches from a step on.

    Args:
      first_step: of the run, 0 for the first batch.
      lighting_steps: batches from this one on have no PCA lighting and are not
        divided by its divisor; None: all have it.

    Yields:
      This process's part of each batch: 'image' [examples, 224, 224, 3]
      float32, mean subtracted, and 'label' [examples] int32.

    Raises:
      DataError: an image cannot be read; names it.
    """
    batch_size = self._config.batch_size
    size = batch_size // self._processes
    if lighting_steps is None:
      lighting_steps = _ENDLESS

    def example(i):
      # From this process's i-th example to its place in the stream of all.
      step = i // size
      position = step * batch_size + self._process * size + i % size
      return self._training_example(position, step < lighting_steps)

    dataset = tf.data.Dataset.range(first_step * size, _ENDLESS)
    return self._batches(dataset, example, size)

  def evaluation_batches(
      self, batch_size: int, *, ten_views: bool
  ) -> Iterator[Batch]:
    """One pass over the evaluation set, every example exactly once.

    Args:
      batch_size: images in a batch of all processes.
      ten_views: ten views of each image, or the centre crop only. Where
        training does not mirror images (augmentation.flip), neither do these:
        five views are left.

    Yields:
      This process's part of each batch: 'image' [examples, views, 224, 224, 3]
      float32, mean subtracted, 'label' [examples] int32 and 'weight' [examples]
      float32, 0 where the last batch is filled up.

    Raises:
      DataError: an image cannot be read; names it.
    """
    size = batch_size // self._processes
    length = len(self.evaluation)

    def example(i):
      step = i // size
      index = step * batch_size + self._process * size + i % size
      image, label = self._read(self.evaluation, tf.minimum(index, length - 1))
      weight = tf.cast(index < length, tf.float32)
      views = self._views(image, ten_views)
      return {'image': views, 'label': label, 'weight': weight}

    batches = -(-length // batch_size)
    dataset = tf.data.Dataset.range(batches * size)
    return self._batches(dataset, example, size)

  def _training_example(self, position, lit):
    config = self._config.augmentation
    length = len(self.train)
    epoch, place = position // length, position % length
    # A cipher on the range of indices. Its keys are random words, because it
    # uses few of their bits; with 8 rounds instead of TensorFlow's usual 4,
    # neighbours of one epoch are no likelier to be neighbours in the next.
    key = tf.random.stateless_uniform(
        [3], self._seed(_ORDER, epoch), None, None, tf.uint32
    )
    index = tf.raw_ops.RandomIndexShuffle(
        index=place, seed=key, max_index=length - 1, rounds=8
    )
    image, label = self._read(self.train, index)
    image = tf.cast(image, tf.float32)
    # The mean image under a crop moves and flips with it; its centre does not.
    under = config.mean_crop == 'under'
    if under:
      image -= self._mean
    image = preprocessing.random_crop(
        image,
        seed=self._seed(_CROP, position // config.images_per_crop),
        offsets=config.crop_offsets,
        flip=config.flip,
    )
    if not under:
      image -= preprocessing.centre_crop(self._mean)
    if config.lighting != 'none':
      shift = preprocessing.lighting_shift(
          seed=self._seed(_LIGHTING, position),
          kind=config.lighting,
          scale=config.lighting_scale,
          deviations=self._components[0],
          eigenvectors=self._components[1],
      )
      divisor = config.lighting_divisor
      image = tf.cond(lit, lambda: (image + shift) / divisor, lambda: image)
    return {'image': image, 'label': label}

  def _views(self, image, ten_views):
    views = preprocessing.centre_view
    if ten_views:
      views = functools.partial(
          preprocessing.ten_views, mirror=self._config.augmentation.flip
      )
    image = tf.cast(image, tf.float32)
    if self._config.augmentation.mean_crop == 'under':
      return views(image - self._mean)
    return views(image) - preprocessing.centre_crop(self._mean)

  def _mean_to_subtract(self):
    config = self._config.dataset
    if config.mean == 'image':
      return self.statistics.mean_image
    if config.mean == 'channels':
      means = self.statistics.channel_means
    else:
      means = statistics_lib.IMAGENET_CHANNEL_MEANS
    shape = (preprocessing.SQUARE, preprocessing.SQUARE, 3)
    return np.broadcast_to(means, shape).astype(np.float32)

  def _seed(self, use, number):
    return tf.stack([self._config.seed * _USES + use, number])

  def _read(self, source, index):
    """Tensors of the example: [256, 256, 3] uint8 image, [] int32 label."""

    def read(index):
      try:
        encoded, label = source.read(int(index))
        name = source.describe(int(index))
        return preprocessing.to_square(encoded, name), np.int32(label)
      except DataError as error:
        # tf.data reports an exception as text; the iterator raises this one.
        self._failure = error
        raise

    image, label = tf.numpy_function(
        read, [index], (tf.uint8, tf.int32), stateful=False
    )
    image.set_shape((preprocessing.SQUARE, preprocessing.SQUARE, 3))
    label.set_shape(())
    return image, label

  def _squares(self, source):
    dataset = tf.data.Dataset.range(len(source)).map(
        lambda i: self._read(source, i)[0], tf.data.AUTOTUNE
    )
    return self._iterate(dataset)

  def _batches(self, dataset, example, size):
    # AutoGraph reads source files again while a run goes on, edited or not.
    example = tf.autograph.experimental.do_not_convert(example)
    dataset = dataset.map(example, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(size, drop_remainder=True).prefetch(2)
    return self._iterate(dataset)

  def _iterate(self, dataset):
    iterator = dataset.as_numpy_iterator()
    while True:
      try:
        value = next(iterator)
      except StopIteration:
        return
      except tf.errors.OpError as error:
        if self._failure is not None:
          raise self._failure from None
        raise DataError(f'the input pipeline failed: {error}') from error
      yield value


def _check(config, processes):
  """Raises DataError for a field that no pipeline can be built from."""
  def choice(field, value, wanted):
    if value not in wanted:
      raise DataError(f"{field} is '{value}', wanted one of {wanted}")

  for field in ('batch_size', 'evaluation_batch_size'):
    if config[field] % processes:
      raise DataError(
          f'{field} is {config[field]}, which {processes} processes cannot '
          f'share equally: set --config.{field} to a multiple'
      )
  augmentation = config.augmentation
  means = ('image', 'channels', 'imagenet_channels')
  choice('dataset.mean', config.dataset.mean, means)
  choice('dataset.pca', config.dataset.pca, ('imagenet', 'dataset'))
  choice('augmentation.mean_crop', augmentation.mean_crop, ('under', 'centre'))
  choice(
      'augmentation.lighting',
      augmentation.lighting,
      ('eigenvalue', 'standard_deviation', 'none'),
  )
  if not 1 <= augmentation.crop_offsets <= preprocessing.BORDER + 1:
    raise DataError(
        f'augmentation.crop_offsets is {augmentation.crop_offsets}: wanted 1 '
        f'to {preprocessing.BORDER + 1}, which fit a {preprocessing.CROP} crop '
        f'into {preprocessing.SQUARE} pixels'
    )
  if augmentation.images_per_crop < 1:
    raise DataError(
        f'augmentation.images_per_crop is {augmentation.images_per_crop}: '
        'wanted at least 1'
    )
  if augmentation.lighting_divisor <= 0:
    raise DataError(
        f'augmentation.lighting_divisor is {augmentation.lighting_divisor}: '
        'wanted more than 0'
    )
