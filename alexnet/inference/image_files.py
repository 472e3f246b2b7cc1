"""Lists and opens the images that a user names."""

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.files import listing
from input_pipeline.files import paths as paths_lib
from input_pipeline.images import decoding

# A path, pixels [height, width, 3] or, grey, [height, width, 1] uint8, or a
# function without arguments that returns pixels and is called in a thread.
ImageLike = str | os.PathLike | np.ndarray | Callable[[], np.ndarray]
Images = Iterable[ImageLike]


def open_image(
    image: ImageLike, background: decoding.Background
) -> Image.Image:
  """Decodes a file, or turns an array of 8-bit pixels into an RGB image.

  Args:
    image: a file or pixels.
    background: colour behind transparent pixels of a file, see
      `decoding.decode`.

  Raises:
    DataError: the image cannot be used; `ImageError` if it is a file.
  """
  if isinstance(image, (str, os.PathLike)):
    return decoding.decode(sources.read_file(image), str(image), background)
  pixels = image() if callable(image) else image
  shape, dtype = getattr(pixels, 'shape', None), getattr(pixels, 'dtype', None)
  if (
      dtype != np.uint8
      or len(shape) != 3
      or shape[2] not in (1, 3)
      or 0 in shape
  ):
    raise DataError(
        f'an image is {type(pixels).__name__} of shape {shape} and dtype '
        f'{dtype}: expected a path, or an array [height, width, 3] of uint8, '
        '0..255 ([height, width, 1] if grey)'
    )
  pixels = np.asarray(pixels)
  return Image.fromarray(np.broadcast_to(pixels, (*shape[:2], 3)))


def find(
    names: Sequence[str],
) -> tuple[list[pathlib.Path | str], listing.LeftOut]:
  """Lists files, and the images in folders and their subfolders.

  Args:
    names: names of folders, and of files with any suffix.

  Returns:
    (paths as written, with `~` expanded; other files in the folders). URLs are
    kept as they are, to be reported like broken files.

  Raises:
    DataError: a folder cannot be listed.
  """
  paths, ignored = [], listing.LeftOut()
  for name in names:
    if paths_lib.is_address(name):
      paths.append(name)
      continue
    path = paths_lib.local(name, 'an image')
    if not name.startswith('~'):
      path = pathlib.Path(name)
    if path.is_dir():
      paths += sources.images_below([path], ignored)[0]
    else:  # Missing files too: they are reported like broken files.
      paths.append(path)
  return paths, ignored
