"""What tests share: meshes, recipes, narrow networks, random batches."""

import functools
import pathlib

import jax
import ml_collections
import numpy as np
from PIL import Image

from configs import alexnet, alexnet_2012

MESHES = ((1, 1), (1, 2), (2, 1), (2, 2))

# Features small enough for a CPU, each divisible by two towers.
NARROW = dict(
    conv1=8, conv2=12, conv3=16, conv4=16, conv5=12, fc6=32, fc7=32
)


def narrow_config(
    data: str = 'digits', recipe=alexnet, stddev: float | None = 0.1
) -> ml_collections.ConfigDict:
  """A recipe with few features, whose signal reaches the logits all the same.

  Args:
    data: the dataset.
    recipe: the config's module.
    stddev: of all layers but conv1; None leaves the recipe's.
  """
  config = recipe.get_config(data)
  for name, features in NARROW.items():
    config.model[name].features = features
  if stddev is not None:
    config.model.conv1.stddev = 0.02
    for name in ('conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8'):
      config.model[name].stddev = stddev
  config.batch_size = 8
  config.evaluation_batch_size = 16
  # Another program to compile, in each of many runs.
  config.layer_statistics_images = 0
  return config


@functools.cache
def init_of(model):
  """`model.init`, compiled once for equal networks."""
  return jax.jit(model.init)


@functools.cache
def apply_of(model):
  """`model.apply`, compiled once for equal networks."""
  return jax.jit(model.apply, static_argnames='mutable')


RECIPES = {'paper': alexnet, '2012': alexnet_2012}


def random_batch(
    rng: np.random.Generator, count: int, classes: int
) -> dict[str, np.ndarray]:
  """Noise with labels, scaled like images minus their mean."""
  return {
      'image': 60 * rng.standard_normal((count, 224, 224, 3), np.float32),
      'label': rng.integers(0, classes, count).astype(np.int32),
  }


def write_images(
    directory: pathlib.Path, classes: int, per_class: int, seed: int = 0
) -> pathlib.Path:
  """Writes a folder of small JPEGs that differ in colour by class."""
  rng = np.random.default_rng(seed)
  for label in range(classes):
    folder = directory / f'class{label}'
    folder.mkdir(parents=True)
    for index in range(per_class):
      base = np.full((40, 50, 3), 255 * label // classes, np.int16)
      noisy = base + rng.integers(0, 60, base.shape)
      image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
      image.save(folder / f'{index:03d}.jpg', quality=90)
  return directory
