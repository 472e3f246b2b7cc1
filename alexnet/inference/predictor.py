"""Applies a trained network to any images.

The training data is not needed: the workdir holds the mean image and all else
that preparing images takes (`checkpointing/input_spec.py`).
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import export as jax_export

from alexnet.checkpointing.input_spec import Inputs
from alexnet.config.errors import ConfigError
from alexnet.inference import batching, fully_convolutional, image_files
from alexnet.inference import views as views_lib
from alexnet.inference.image_files import ImageLike, Images
from alexnet.models import Module
from alexnet.models.inference_params import for_module, rounded
from alexnet.models.layers import OUTPUTS, kept
from alexnet.ops import forms
from alexnet.runtime import compilation
from alexnet.runtime.gpu import device_memory, precision
from input_pipeline import preprocessing
from input_pipeline.errors import ImageError
from input_pipeline.files import threads

# {views: largest number of crops of an image}.
VIEWS = {'centre': 1, 'ten': 10}


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
  """The network of a checkpoint, on one device.

  Attributes:
    config: the run's whole config.
    step: step of the checkpoint.
    class_names: names of the outputs, in order.
    inputs: description of how training images were prepared.
    model: the module.
    params: tree of float32 arrays on the device.
    model_state: {collection: tree} of other variables, such as the means of
      batch normalization; empty for AlexNet.
  """

  config: ml_collections.ConfigDict
  step: int
  class_names: tuple[str, ...]
  inputs: Inputs
  model: Module
  params: Any
  model_state: Any = dataclasses.field(default_factory=dict)

  @property
  def variables(self) -> Any:
    """Parameters and model state, as `model.apply` takes them."""
    return {'params': self.params, **self.model_state}

  @property
  def layers(self) -> tuple[str, ...]:
    """Layer names for `features`, in order; the head is the last."""
    return self.model.layer_names

  @property
  def size(self) -> int:
    """Side of the squares that images are resized and cut to, in pixels."""
    return self.config.dataset.size

  @property
  def channels(self) -> int:
    """Number of colour channels that the network reads, 3 or 1."""
    return self.config.dataset.channels

  def fingerprint(self) -> str:
    """Returns the SHA-256 of all parameters, in hexadecimal."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(jax.tree_util.keystr(path).encode())
      digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()

  @functools.cached_property
  def views(self) -> views_lib.Views:
    """Functions from squares to the network's input."""
    return views_lib.Views(
        self.inputs.mean_image,
        self.config.augmentation.mean_crop,
        mirror=self.config.augmentation.flip,
        crop=self.config.augmentation.crop_size,
    )

  def squares(self, images: Images) -> np.ndarray:
    """Reads images as the pipeline does (paper §2).

    Args:
      images: paths of image files, or [height, width, 3 or 1] uint8 arrays, of
        any sizes. Arrays of this size are squares already.

    Returns:
      [images, size, size, channels] uint8: shorter side resized, centre
      cropped, with the border and the channels of training.

    Raises:
      DataError: an image cannot be used; `ImageError` if it is a file.
    """
    with futures.ThreadPoolExecutor(threads.cores()) as pool:
      squares = [*pool.map(self.square, _each(images))]
    shape = self._squares_of(len(squares)).shape
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
      images: images, see `squares`.
      views: 'centre'; 'ten' for the mean of ten views (paper §4.1; five if
        training does not mirror images); or 'dense' for the mean over all
        positions of the whole image, see fully_convolutional.py.
      scales: for dense views, lengths to resize the shorter side to, in pixels;
        None for `size`.

    Returns:
      [images, classes] float32 probabilities.

    Raises:
      DataError: an image cannot be used.
    """
    stream = self.stream(images, views=views, scales=scales)
    rows = [*map(_raised, stream)]
    return np.array(rows, np.float32).reshape(len(rows), len(self.class_names))

  def features(self, images: Images, layer: str) -> np.ndarray:
    """Computes the activations of a layer for the images' centre crops.

    Args:
      images: images, see `squares`.
      layer: one of `layers`. A convolution's activations are taken after the
        operations that follow it, a hidden fully connected layer's after its
        activation and before dropout's scaling; the head's are the logits.

    Returns:
      [images, ...] float32.

    Raises:
      ConfigError: there is no such layer.
      DataError: an image cannot be used.
    """
    rows = [*map(_raised, self.stream(images, layer=layer))]
    shape = jax.eval_shape(
        functools.partial(self._layer, layer),
        self.variables,
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
    """Yields results for any number of images, in constant memory.

    Threads read the next images while the device computes.

    Args:
      images: images, see `squares`. Functions without arguments that return
        such arrays are called in the threads.
      views: views of each image, see `predict`.
      scales: scales of dense views, see `predict`.
      layer: name of the layer to compute, see `features`; None for
        probabilities.
      batch_size: number of images computed at once; None for the config's
        evaluation_batch_size, or fewer if there are few images.

    Yields:
      For each image its row of the result of `predict` or `features`, or the
      error for an image that cannot be used.

    Raises:
      ConfigError: there are no such views, scales or layer.
      DataError: an image that is not a file cannot be used.
      DeviceMemoryError: the device runs out of memory.
    """
    images = _each(images)
    if layer is not None:
      views = 'centre'
    elif views not in (*VIEWS, 'dense'):
      raise ConfigError(
          f"views is '{views}': expected 'dense' or one of {tuple(VIEWS)}"
      )
    if scales is not None and views != 'dense':
      raise ConfigError(
          f"scales is {tuple(scales)}, which needs dense views, but views is "
          f"'{views}': give views='dense', or no scales"
      )
    work = device_memory.Work(
        'a prediction',
        None,
        'pass a smaller batch_size to this method of the network, or use the '
        'CPU with JAX_PLATFORMS=cpu',
        self._device,
    )
    with work.explained():
      yield from self._results(images, views, scales, layer, batch_size)

  def _results(self, images, views, scales, layer, batch_size):
    if views == 'dense':
      for maps in fully_convolutional.stream(self, images, scales, batch_size):
        is_error = isinstance(maps, ImageError)
        yield maps if is_error else fully_convolutional.mean(maps)
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

  def export(
      self,
      *,
      views: str = 'centre',
      batch_size: int | None = None,
      platforms: Sequence[str] = ('cpu', 'cuda', 'tpu'),
  ) -> jax_export.Exported:
    """Exports what `predict` computes, for programs without this package.

    All operations take their plain forms (ops/forms.py), which are slower on a
    CPU than `predict`.

    Args:
      views: 'centre' or 'ten', see `predict`.
      batch_size: number of images in a call; None for any number.
      platforms: platforms that the function can run on.

    Returns:
      A function (variables, squares) -> [batch, classes] float32 probabilities,
      for this network's `variables` and the result of `squares`.
      Its `serialize()` returns bytes for `jax.export.deserialize`.

    Raises:
      ConfigError: there are no such views, or they cannot be exported.
    """
    if views not in VIEWS:
      raise ConfigError(
          f"views is '{views}': expected one of {tuple(VIEWS)} to export"
      )
    (batch,) = jax_export.symbolic_shape(str(batch_size or 'batch'))
    squares = jax.ShapeDtypeStruct(
        (batch, self.size, self.size, self.channels), jnp.uint8
    )

    def probabilities(variables, squares):
      return self._probabilities(views, variables, squares, self.views)

    with forms.plain_forms():
      exact = precision.traced(probabilities, self.model, None)
      function = jax_export.export(jax.jit(exact), platforms=platforms)
      return function(self.variables, squares)

  def square(self, image: ImageLike) -> np.ndarray:
    """Reads one image as a square, see `squares`."""
    picture = image_files.open_image(image, self.inputs.background)
    is_file = isinstance(image, (str, os.PathLike))
    if picture.size == (self.size, self.size) and not is_file:
      return preprocessing.framed(np.asarray(picture), channels=self.channels)
    border = self.config.dataset.border
    square = preprocessing.resized(
        picture,
        aspect=self.inputs.aspect,
        box=preprocessing.whole(self.size - 2 * border),
    )
    return preprocessing.framed(square, border, self.channels)

  def _squares_of(self, count):
    return np.zeros((count, self.size, self.size, self.channels), np.uint8)

  def compiled(
      self, name: str, function: Callable[[Any, jax.Array, Any], jax.Array]
  ) -> Callable[[np.ndarray], jax.Array]:
    """Compiles a function for the network's device.

    Args:
      name: key of the cache of compiled functions.
      function: function of (variables, images, views).

    Returns:
      A function of the images alone.
    """
    if name not in self._compiled:
      device = self._device
      on_device = compilation.jit_for(
          device,
          self.model.dtype,
          precision.traced(
              lambda variables, *others: function(
                  for_module(variables), *others
              ),
              self.model,
              device,
          ),
      )
      views = jax.device_put(self.views, device)
      self._compiled[name] = lambda images: on_device(
          self._rounded, images, views
      )
    return self._compiled[name]

  @property
  def _device(self):
    (device,) = jax.tree.leaves(self.params)[0].devices()
    return device

  @functools.cached_property
  def _compiled(self):
    return {}

  @functools.cached_property
  def _rounded(self):
    return rounded(self.variables, self.model.dtype)

  def _step(self, views, layer):
    """Compiles the function from squares to probabilities or a layer."""
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

  def _probabilities(self, name, variables, squares, inputs):
    crops = getattr(inputs, name)({'image': squares})
    return jnp.exp(views_lib.predict_views(self.model, variables, crops)[0])

  def _layer(self, name, variables, squares, inputs):
    crops = inputs.centre({'image': squares})[:, 0]
    _, outputs = self.model.apply(variables, crops, mutable=OUTPUTS)
    return kept(outputs, name).astype(jnp.float32)


def _each(images):
  if isinstance(images, (str, os.PathLike)):
    return [images]
  return images


def _raised(result):
  if isinstance(result, ImageError):
    raise result
  return result
