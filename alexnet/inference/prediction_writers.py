"""Writes predictions as CSV, JSON, or a picture like the paper's Figure 4.

A writer receives each result as it comes, so memory use does not grow with the
number of images. It is a context manager: the file appears when the context
ends. After an error there is no new file, and an earlier one stays unchanged.
"""

import abc
import contextlib
import csv
import io
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from alexnet.inference import fully_convolutional, image_files
from alexnet.inference.predictions import Prediction
from alexnet.inference.predictor import TrainedNetwork
from alexnet.visualization import images
from input_pipeline.errors import ImageError, printable
from input_pipeline.files import atomic

# Largest number of images in a picture.
PICTURES = 24
_COLUMNS = 4
# Inches of a picture's tile: title, image, the bars below it, and the gap to
# the next tile.
_TITLE, _SIDE, _BARS, _GAP = 0.25, 2.4, 1.0, 0.2
# Inches of the heat maps' colour scale, with its text.
_SCALE = 0.6
# A heat map over a grey image.
_HEAT = {'cmap': 'inferno', 'vmin': 0, 'vmax': 1, 'alpha': 0.6}
_LONGEST_NAME = 28


class Writer(abc.ABC):
  """A file of predictions."""

  def __init__(self, path: pathlib.Path):
    """Takes the path of the file; creates its folder if necessary."""
    self.path = path
    path.parent.mkdir(parents=True, exist_ok=True)

  def __enter__(self) -> 'Writer':
    with contextlib.ExitStack() as stack:
      self._file: BinaryIO = stack.enter_context(
          atomic.opened(self.path, self.path.parent)
      )
      self._begin()
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error) -> None:
    self._stack.__exit__(*error)

  @abc.abstractmethod
  def _begin(self) -> None:
    """Begins writing."""

  @abc.abstractmethod
  def add(self, result: Prediction | ImageError) -> None:
    """Adds the next result."""

  @abc.abstractmethod
  def finish(self) -> str:
    """Completes the file; returns a line about it."""


def create(
    path: pathlib.Path,
    network: TrainedNetwork,
    *,
    views: str,
    top: int,
    scales: Sequence[int] | None = None,
) -> Writer:
  """Creates the writer for a file name: .csv, .json or .png.

  Args:
    path: path of the file.
    network: the network that makes the predictions.
    views: views of the predictions.
    top: number of classes to name.
    scales: scales of dense views, as given; None draws a picture's maps at the
      scale of `fully_convolutional.map_scale`.
  """
  if path.suffix.lower() == '.csv':
    return _Table(path, min(top, len(network.class_names)))
  if path.suffix.lower() == '.json':
    return _Json(path, {'step': network.step, 'views': views})
  own = views == 'dense' and scales is None
  return _Picture(path, network, own)


class _Text(Writer):

  def _begin(self):
    self._count = 0
    # File names may hold bytes that are not UTF-8.
    self._text = io.TextIOWrapper(
        self._file, encoding='utf-8', errors='surrogateescape', newline=''
    )
    self._head()

  def __exit__(self, *error):
    # Otherwise the wrapper closes the file when it is garbage-collected.
    with contextlib.suppress(OSError, ValueError):
      self._text.detach()
    super().__exit__(*error)

  @abc.abstractmethod
  def _head(self) -> None:
    """Writes the beginning of the file."""

  def add(self, result):
    self._add(result)
    self._count += 1

  def finish(self):
    self._text.flush()
    return f'{self.path}: {self._count:,} files'


class _Table(_Text):
  """CSV with one row per file: its name, its error, or its classes."""

  def __init__(self, path, top):
    super().__init__(path)
    self._top = top

  def _head(self):
    self._writer = csv.writer(self._text)
    numbers = range(1, self._top + 1)
    names = [(f'class{i}', f'probability{i}') for i in numbers]
    self._writer.writerow(('file', 'error', *itertools.chain(*names)))
    self._empty = [''] * 2 * self._top

  def _add(self, result):
    if isinstance(result, ImageError):
      self._writer.writerow((result.name, result.reason, *self._empty))
      return
    values = [(name, f'{p:.6f}') for _, name, p in result.classes]
    self._writer.writerow((result.path, '', *itertools.chain(*values)))


class _Json(_Text):
  """{..., 'files': [{'file', 'classes': [{'class', 'probability'}]}]}."""

  def __init__(self, path, about: dict[str, Any]):
    super().__init__(path)
    self._about = about

  def _head(self):
    self._text.write(json.dumps(self._about)[:-1] + ', "files": [')

  def _add(self, result):
    if isinstance(result, ImageError):
      values = {'file': result.name, 'error': result.reason}
    else:
      classes = [
          {'class': name, 'probability': p} for _, name, p in result.classes
      ]
      values = {'file': str(result.path), 'classes': classes}
    self._text.write((',' if self._count else '') + '\n' + json.dumps(values))

  def finish(self):
    self._text.write('\n]}\n')
    return super().finish()


class _Picture(Writer):
  """The first images with their classes, and heat maps of dense views."""

  def __init__(self, path, network, own_scale):
    super().__init__(path)
    self._network = network
    self._own_scale = own_scale

  def _begin(self):
    self._first = []
    self._all = 0

  def add(self, result):
    if isinstance(result, ImageError):
      return
    self._all += 1
    if len(self._first) < PICTURES:
      self._first.append(result)

  def _tiles(self):
    """Yields (prediction, [height, width, channels], heat map or None)."""
    maps = [prediction.maps for prediction in self._first]
    if self._own_scale and maps:
      maps = fully_convolutional.stream(
          self._network,
          [prediction.path for prediction in self._first],
          (fully_convolutional.map_scale(self._network.config),),
      )
    for prediction, of_one in zip(self._first, maps):
      # The file may have been deleted meanwhile.
      with contextlib.suppress(ImageError):
        if isinstance(of_one, ImageError):
          raise of_one
        yield prediction, *self._image_and_heat(prediction, of_one)

  def _image_and_heat(self, prediction, maps):
    if not maps:
      return self._network.square(prediction.path), None
    finest = max(maps, key=lambda one: min(one.size))
    image = image_files.open_image(
        prediction.path, self._network.inputs.background
    )
    seen = fully_convolutional.whole(
        self._network, image, min(finest.size)
    )
    heat = fully_convolutional.heat_map(
        maps,
        prediction.classes[0][0],
        seen.shape[:2],
        self._network.model.stride,
        self._network.config.augmentation.crop_size,
    )
    return seen, heat

  def finish(self):
    from matplotlib import figure

    tiles = [*self._tiles()]
    has_heat = any(heat is not None for _, _, heat in tiles)
    each = 1 + has_heat
    columns = max(1, min(len(tiles), _COLUMNS // each))
    rows = max(1, -(-len(tiles) // columns))
    width = columns * (each * _SIDE + _GAP) + _GAP
    tiled = rows * (_TITLE + _SIDE + _BARS + _GAP)
    height = tiled + has_heat * _SCALE
    fig = figure.Figure((width, height), dpi=100)

    def axes_at(left, top, size):
      place = (left, height - top - size[1], *size)
      return fig.add_axes([
          inches / side for inches, side in zip(place, (width, height) * 2)
      ])

    for number, (prediction, image, heat) in enumerate(tiles):
      row, column = divmod(number, columns)
      left = _GAP + column * (each * _SIDE + _GAP)
      top = row * tiled / rows + _TITLE
      square = (_SIDE, _SIDE)
      _draw_image(axes_at(left, top, square), image, prediction.path.name)
      if heat is not None:
        _draw_image(
            axes_at(left + _SIDE, top, square),
            image,
            prediction.classes[0][1],
            heat,
        )
      bars = axes_at(left, top + _SIDE, (each * _SIDE, _BARS))
      _draw_bars(bars, prediction.classes)
    if has_heat:
      size = (2 * _SIDE, _SCALE / 4)
      _draw_scale(axes_at((width - size[0]) / 2, tiled, size))
    fig.savefig(self._file, format='png')
    note = f', the first of {self._all:,}' if len(tiles) < self._all else ''
    return f'{self.path}: {len(tiles)} images{note}'


def _short(text):
  return images.plain(printable(text), _LONGEST_NAME)


def _draw_image(axes, image, title, heat=None):
  if heat is None:
    axes.imshow(image, cmap='gray', vmin=0, vmax=255)  # If it has no colours.
  else:
    grey = image.mean(-1) / 255
    axes.imshow(grey, cmap='gray', vmin=0, vmax=1)
    axes.imshow(heat, **_HEAT)
  axes.set_anchor('S')
  axes.set_title(_short(title), fontsize=7, pad=3)
  axes.set_axis_off()


def _draw_scale(axes):
  """Draws the colour scale of heat maps over a medium grey."""
  extent = (0, 1, 0, 1)
  grey = np.full((1, 1), 0.5)
  axes.imshow(grey, 'gray', vmin=0, vmax=1, aspect='auto', extent=extent)
  axes.imshow(
      np.linspace(0, 1, 256)[None], aspect='auto', extent=extent, **_HEAT
  )
  axes.set_xticks([0, 0.5, 1], ['0 %', '50 %', '100 %'], fontsize=7)
  axes.set_yticks([])
  axes.set_xlabel(
      'probability of the class above the map', fontsize=7, labelpad=1
  )


def _draw_bars(axes, classes):
  """Draws bars with class names on them, as in the paper's Figure 4."""
  places = range(len(classes))
  axes.barh(places, [p for _, _, p in classes], color='#9ecae1')
  for place, (_, name, probability) in zip(places, classes):
    axes.text(0.01, place, _short(name), va='center', fontsize=7)
    axes.text(
        0.99, place, f'{probability:.1%}', va='center', ha='right', fontsize=7
    )
  axes.set_xlim(0, 1)
  axes.set_ylim(len(classes) - 0.5, -0.5)
  axes.set_xticks([])
  axes.set_yticks([])
