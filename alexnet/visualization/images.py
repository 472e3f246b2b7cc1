"""Draws images with their predictions, as in the paper's Figure 4."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Number of classes with bars.
TOP = 5
_DPI = 130
_NAME = 24
_RIGHT, _OTHER = '#2f9d6a', '#9aaabc'


def top(
    probabilities: np.ndarray, count: int = TOP
) -> list[list[tuple[int, float]]]:
  """Finds the most probable classes of each image, in descending order.

  Args:
    probabilities: [images, classes].
    count: largest number of classes.

  Returns:
    (class, probability) pairs of each image; ties are in the order of classes.
  """
  order = np.argsort(-probabilities, axis=1, kind='stable')[:, :count]
  return [
      [(int(label), float(row[label])) for label in labels]
      for row, labels in zip(probabilities, order)
  ]


def plain(text: str, longest: int, *, keep_end: bool = False) -> str:
  """Escapes a text for Matplotlib.

  Args:
    text: text of one or more lines.
    longest: number of letters after which a line is cut.
    keep_end: cut off the beginning instead of the end, as for a path.
  """

  def cut(line):
    if len(line) <= longest:
      return line
    return f'…{line[1 - longest :]}' if keep_end else f'{line[: longest - 1]}…'

  # Escaped after cutting: a single dollar would begin a formula.
  return '\n'.join(map(cut, text.split('\n'))).replace('$', r'\$')


def predictions(
    squares: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[int | None],
    class_names: Sequence[str],
    columns: int = 4,
) -> bytes:
  """Draws images with their most probable classes below (Figure 4, left).

  Args:
    squares: [images, size, size, 3] uint8, or 1 channel if grey.
    probabilities: [images, classes].
    labels: the true class of each image, whose bar has another colour; None if
      unknown.
    class_names: names of the classes.
    columns: number of images per row.

  Returns:
    A PNG file.
  """
  rows = -(-len(squares) // columns)
  figure = _figure(2.1 * columns, 3.3 * rows)
  grid = figure.add_gridspec(2 * rows, columns, height_ratios=(2, 1.1) * rows)
  for index, (square, best, label) in enumerate(
      zip(squares, top(probabilities), labels)
  ):
    row, column = divmod(index, columns)
    axes = figure.add_subplot(grid[2 * row, column])
    _image(axes, square, '' if label is None else class_names[label])
    axes = figure.add_subplot(grid[2 * row + 1, column])
    colors = [_RIGHT if guess == label else _OTHER for guess, _ in best]
    places = range(len(best))
    axes.barh(places, [p for _, p in best], 0.8, color=colors, alpha=0.55)
    axes.set(xlim=(0, 1), ylim=(TOP - 0.5, -0.5), xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    for place, (guess, _) in zip(places, best):
      axes.text(
          0.02,
          place,
          plain(class_names[guess], _NAME),
          va='center',
          fontsize=7,
      )
  return _file(figure)


def rows(
    images: Sequence[Sequence[np.ndarray]],
    captions: Sequence[Sequence[str]],
    *,
    of_queries: bool = False,
    kind: str = 'png',
) -> bytes:
  """Draws rows of images with captions.

  Args:
    images: rows of [size, size, 3] uint8 (1 channel if grey), which may have
      different lengths.
    captions: a caption for each image.
    of_queries: whether the first image of each row is a query, which gets a
      frame and a caption that keeps its end.
    kind: format: 'png', 'jpg', 'svg' or 'pdf'.

  Returns:
    The contents of the file.
  """
  columns = max(map(len, images))
  figure = _figure(1.5 * columns, 1.75 * len(images))
  ratios = [1.15 if of_queries else 1, *[1] * (columns - 1)]
  grid = figure.add_gridspec(len(images), columns, width_ratios=ratios)
  for row, (squares, texts) in enumerate(zip(images, captions)):
    for column, (square, text) in enumerate(zip(squares, texts)):
      is_query = of_queries and column == 0
      axes = figure.add_subplot(grid[row, column])
      _image(axes, square, text, keep_end=is_query)
      if is_query:
        axes.set_axis_on()
        axes.set(xticks=(), yticks=())
        axes.spines[:].set_linewidth(2)
  return _file(figure, kind)


def encode(
    pixels: np.ndarray, kind: str = 'PNG', size: int | None = None
) -> bytes:
  """Encodes pixels as an image file.

  Args:
    pixels: [height, width, channels] uint8; 1 channel is grey, 4 have opacity.
    kind: 'PNG' or 'JPEG'.
    size: largest length of the longer side, in pixels; None for no limit.
  """
  image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
  if size is not None:
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
  file = io.BytesIO()
  image.save(file, kind, quality=85, optimize=True)
  return file.getvalue()


def decode(file: bytes) -> np.ndarray:
  """Decodes an image file to [height, width, 3] uint8."""
  with Image.open(io.BytesIO(file)) as image:
    return np.asarray(image.convert('RGB'))


def _figure(width, height):
  # Avoids pyplot, which keeps figures and may open windows.
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout='constrained')
  figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, hspace=0, wspace=0)
  backend_agg.FigureCanvasAgg(figure)
  return figure


def _image(axes, square, text, keep_end=False):
  axes.imshow(square, cmap='gray', vmin=0, vmax=255)  # If it has no colours.
  axes.set_axis_off()
  axes.set_title(plain(text, _NAME, keep_end=keep_end), fontsize=7, pad=2)


def _file(figure, kind='png'):
  file = io.BytesIO()
  figure.savefig(file, format=kind, dpi=_DPI, facecolor='white')
  return file.getvalue()
