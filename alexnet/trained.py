"""A trained network from its workdir, to be used on any images.

  network = trained.load(pathlib.Path('runs/alexnet'))
  probabilities = network.predict(['photo.jpg'])
  features = network.features(['photo.jpg'], 'fc7')

Nothing of the training data is needed: what a network must know of it lies in
the workdir (`inputs.py`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from alexnet import (
  batching,
  checkpoints,
  config_checks,
  definitions,
  dense,
  photos,
  train_step,
)
from alexnet import inputs as inputs_lib
from alexnet import views as views_lib
from alexnet import workdir as workdir_lib
from alexnet.errors import CheckpointError, ConfigError
from alexnet.inputs import Inputs
from alexnet.models import OUTPUTS, Module, create_model, kept
from alexnet.models.rounded import for_module, rounded
from alexnet.photos import ImageLike, Images
from input_pipeline import datasets, preprocessing, threads
from input_pipeline.errors import DataError, ImageError

# Views of an image, and how many images of a batch of centre crops they take.
VIEWS = {'centre': 1, 'ten': 10}


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
  """The network of a checkpoint, on one device.

  Attributes:
    config: the run's whole config.
    step: of the checkpoint.
    class_names: of the outputs, in their order.
    inputs: what it has to know of its training images.
    model: the module.
    params: {layer: {'kernel', 'bias'}} float32, on the device.
  """

  config: ml_collections.ConfigDict
  step: int
  class_names: tuple[str, ...]
  inputs: Inputs
  model: Module
  params: Any

  @property
  def layers(self) -> tuple[str, ...]:
    """Names that `features` knows, in order: 'pool1', ..., 'fc7', 'fc8'."""
    return self.model.layer_names

  @property
  def size(self) -> int:
    """Side of the squares that images become, in pixels."""
    return self.config.dataset.size

  def fingerprint(self) -> str:
    """SHA-256 of all parameters: another one for every other network."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()

  @functools.cached_property
  def views(self) -> views_lib.Views:
    """How the network's input is made of squares."""
    return views_lib.Views(
        self.inputs.mean_image,
        self.config.augmentation.mean_crop,
        mirror=self.config.augmentation.flip,
        crop=self.config.augmentation.crop_size,
    )

  def squares(self, images: Images) -> np.ndarray:
    """What the pipeline would read of images (paper §2).

    Args:
      images: paths of JPEG and PNG files, or [height, width, 3] uint8 arrays of
        any sizes.

    Returns:
      [images, size, size, 3] uint8: shorter side resized, centre cut out.

    Raises:
      DataError: one of them cannot be used; `ImageError` if it is a file.
    """
    with futures.ThreadPoolExecutor(threads.cores()) as pool:
      squares = [*pool.map(self.square, _each(images))]
    shape = (len(squares), self.size, self.size, 3)
    return np.array(squares, np.uint8).reshape(shape)

  def predict(
      self,
      images: Images,
      *,
      views: str = 'centre',
      scales: Sequence[int] | None = None,
  ) -> np.ndarray:
    """Predicts the classes of images.

    Args:
      images: as of `squares`.
      views: 'centre'; 'ten' for the mean of ten views (paper §4.1; five where
        training does not mirror images); or 'dense' for the mean of all places
        of the whole image, see dense.py.
      scales: of dense views, what the shorter side is resized to, in pixels;
        None: as the squares.

    Returns:
      [images, classes] float32 probabilities.

    Raises:
      DataError: an image cannot be used.
    """
    stream = self.stream(images, views=views, scales=scales)
    rows = [*map(_raised, stream)]
    return np.array(rows, np.float32).reshape(len(rows), len(self.class_names))

  def features(self, images: Images, layer: str) -> np.ndarray:
    """Activities of a layer, of the images' centre crops.

    Args:
      images: as of `squares`.
      layer: one of `layers`. 'pool1', 'conv3' and so on are what is left of a
        convolution after all that follows it, 'fc6' and 'fc7' the units after
        the activation and before dropout's factor, 'fc8' the logits.

    Returns:
      [images, ...] float32.

    Raises:
      ConfigError: no such layer.
      DataError: an image cannot be used.
    """
    rows = [*map(_raised, self.stream(images, layer=layer))]
    shape = jax.eval_shape(
        functools.partial(self._layer, layer),
        self.params,
        self._squares_of(1),
        self.views,
    )
    return np.array(rows, np.float32).reshape(len(rows), *shape.shape[1:])

  def stream(
      self,
      images: Images,
      *,
      views: str = 'centre',
      scales: Sequence[int] | None = None,
      layer: str | None = None,
      batch_size: int | None = None,
  ) -> Iterator[np.ndarray | ImageError]:
    """Results of any number of images, in memory that does not grow.

    Threads read the next images while the device computes.

    Args:
      images: as of `squares`, any number. Functions without arguments that
        give such an array are called in the threads.
      views: see `predict`.
      scales: see `predict`.
      layer: see `features`; None for probabilities.
      batch_size: images that the device computes at once; None: as in the
        config's evaluation, or fewer if there are few images.

    Yields:
      For each image its row of `predict`'s or `features`' result, or the error
      by which it cannot be used.
    """
    images = _each(images)
    if layer is not None:
      views = 'centre'
    elif views not in (*VIEWS, 'dense'):
      raise ConfigError(
          f"views is '{views}': wanted 'dense' or one of {tuple(VIEWS)}"
      )
    if scales is not None and views != 'dense':
      raise ConfigError(
          f"scales is {tuple(scales)}, which is of dense views, but views is "
          f"'{views}': give views='dense', or no scales"
      )
    if views == 'dense':
      for maps in dense.stream(self, images, scales, batch_size):
        yield maps if isinstance(maps, ImageError) else dense.mean(maps)
      return
    if batch_size is None:
      batch_size = max(1, self.config.evaluation_batch_size // VIEWS[views])
      if hasattr(images, '__len__'):
        batch_size = batching.padded(len(images), batch_size)
    step = self._step(views, layer)

    def begin(squares):
      batch = self._squares_of(batch_size)
      for place, square in enumerate(squares):
        batch[place] = square
      return step(batch)

    yield from batching.stream(
        images, self.square, begin, np.asarray, batch_size
    )

  def square(self, image: ImageLike) -> np.ndarray:
    """The square of one image, see `squares`."""
    image = photos.open_image(image)
    if image.size == (self.size, self.size):
      return np.asarray(image)
    return preprocessing.resized(
        image,
        aspect=self.inputs.aspect,
        box=preprocessing.whole(self.size),
    )

  def _squares_of(self, count):
    return np.zeros((count, self.size, self.size, 3), np.uint8)

  def compiled(
      self, name: str, function: Callable[[Any, jax.Array, Any], jax.Array]
  ) -> Callable[[np.ndarray], jax.Array]:
    """Compiles a function of (params, images, views), once for each name.

    Returns:
      A function of the images alone, for the network's device.
    """
    if name not in self._compiled:
      (device,) = jax.tree.leaves(self.params)[0].devices()
      on_device = train_step.jit_for(
          device,
          self.model.dtype,
          lambda params, *others: function(for_module(params), *others),
      )
      views = jax.device_put(self.views, device)
      self._compiled[name] = lambda images: on_device(
          self._rounded, images, views
      )
    return self._compiled[name]

  @functools.cached_property
  def _compiled(self):
    return {}

  @functools.cached_property
  def _rounded(self):
    return rounded(self.params, self.model.dtype)

  def _step(self, views, layer):
    """From squares to an array."""
    if layer is None:
      return self.compiled(
          views, functools.partial(self._probabilities, views)
      )
    if layer not in self.layers:
      raise ConfigError(
          f"this network has no layer '{layer}': it has "
          + ', '.join(self.layers)
      )
    return self.compiled(
        f'layer {layer}', functools.partial(self._layer, layer)
    )

  def _probabilities(self, name, params, squares, inputs):
    crops = getattr(inputs, name)({'image': squares})
    return jnp.exp(train_step.predict_views(self.model, params, crops)[0])

  def _layer(self, name, params, squares, inputs):
    crops = inputs.centre({'image': squares})[:, 0]
    _, variables = self.model.apply({'params': params}, crops, mutable=OUTPUTS)
    return kept(variables, name).astype(jnp.float32)


def load(
    workdir: str | os.PathLike,
    *,
    step: int | str | None = None,
    overrides: dict[str, Any] | None = None,
) -> TrainedNetwork:
  """Loads the network of a run, finished or under way.

  Args:
    workdir: of the run.
    step: of the checkpoint; 'best' for that of the best evaluation; None or
      'newest' for the newest, or, with a warning, the newest that is not
      damaged.
    overrides: {dotted field: value} of the config: where the data of a run is
      now that has no `inputs.npz` yet; `model.num_classes`, if the run had it
      set to more than its data has, in a file.

  Raises:
    CheckpointError: no run there, no such checkpoint, or it is damaged, or of
      another network than its config.
    ConfigError: a field of the config has a value that cannot work.
    DataError: a run without `inputs.npz`, whose data is not there either, or
      has other classes than the network has outputs.
  """
  workdir = pathlib.Path(workdir).expanduser()
  config = workdir_lib.load_config(workdir)
  with config.ignore_type():
    config.update_from_flattened_dict(overrides or {})
  config_checks.check(config)
  if config.model.num_classes is None:
    raise CheckpointError(
        f'{workdir} does not say how many classes its network has: it is no '
        'workdir that a run has made'
    )
  if checkpoints.newest_step(workdir) is None:
    raise CheckpointError(
        f'{workdir} has no checkpoint yet: train the run first'
    )
  with contextlib.closing(
      checkpoints.Checkpoints(workdir, read_only=True)
  ) as store:
    step = store.find(checkpoints.NEWEST if step is None else step)
    inputs = inputs_lib.load(workdir)
    if inputs is None:
      # The config alone does not tell what was asked for and what came of data.
      spare = (
          config.model.name == definitions.NAME  # The file says it.
          or 'model.num_classes' in (overrides or {})
          or _asked_for_outputs(workdir)
      )
      inputs = _inputs_from_data(config, workdir, spare)
    model = create_model(config.model)
    params = _restore(store, workdir, step, _shapes_of(model, config))
  names = inputs_lib.output_names(
      inputs.class_names, config.model.num_classes
  )
  size, side = config.dataset.size, len(inputs.mean_image)
  if side != size:
    raise CheckpointError(
        f'{workdir} has a mean image of {side} pixels, but dataset.size is '
        f'{size}: its files are not of one run'
    )
  return TrainedNetwork(config, step, names, inputs, model, params)


def _shapes_of(model, config):
  """Shapes of the parameters of the config's network."""
  side = config.augmentation.crop_size
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)['params']
  config_checks.check_size(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
  return shapes


def _restore(store, workdir, step, wanted):
  shapes = store.parameter_shapes(step)
  check_shapes(workdir, step, shapes, wanted)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=device
      ),
      shapes,
  )
  return store.restore_parameters(step, target)


def check_shapes(
    workdir: pathlib.Path, step: int, got: Any, wanted: Any
) -> None:
  """Compares a checkpoint with its network before there is any array.

  Args:
    workdir: of the run, for the message.
    step: of the checkpoint.
    got: tree of the shapes that its metadata tells.
    wanted: tree of those of the config's network.

  Raises:
    CheckpointError: a shape or dtype differs, or a parameter is too many.
  """
  flat = lambda tree: {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  got, wanted = flat(got), flat(wanted)
  describe = lambda leaf: f'{leaf.dtype} {leaf.shape}' if leaf else 'nothing'
  for name in sorted(got.keys() | wanted.keys()):
    ours, theirs = describe(wanted.get(name)), describe(got.get(name))
    if ours != theirs:
      raise CheckpointError(
          f'the checkpoint of step {step} in {workdir} has {theirs} for '
          f'{name}, its config wants {ours}: its files are not of one run'
      )


def _asked_for_outputs(workdir):
  """Whether a command of the run had --config.model.num_classes."""
  try:
    sessions = workdir_lib.read_sessions(workdir / workdir_lib.ENVIRONMENT)
  except (OSError, ValueError):
    return False
  return any(
      'model.num_classes' in str(argument)
      for session in sessions
      for argument in session.get('command', ())
  )


def _inputs_from_data(config, workdir, spare):
  """Of the run's data; `spare`: whether it may have more outputs than that."""
  from input_pipeline.pipeline import Pipeline  # With it comes TensorFlow.

  try:
    train, evaluation = datasets.create_sources(config.dataset, config.seed)
    found, outputs = len(train.class_names), config.model.num_classes
    if found > outputs or (found < outputs and not spare):
      raise DataError(
          f'{train.name} has {found} classes and the network {outputs} '
          'outputs, so these are not the images that it was trained on'
      )
    return inputs_lib.of_pipeline(Pipeline(config, train, evaluation))
  except DataError as error:
    raise DataError(
        f'{workdir} has no {inputs_lib.FILE}, as runs of older versions, so '
        f'its data is needed ({error}): continue the run where its data is, '
        'with the command that made it, which writes that file'
    ) from error


def _each(images):
  if isinstance(images, (str, os.PathLike)):
    return [images]
  return images


def _raised(result):
  if isinstance(result, ImageError):
    raise result
  return result
