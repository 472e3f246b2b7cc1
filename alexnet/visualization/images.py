"""Draws images with their predictions, as in the paper's Figure 4."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Classes that bars are drawn for.
TOP = 5
_DPI = 130
_NAME = 24
_RIGHT, _OTHER = '#2f9d6a', '#9aaabc'


def top(
    probabilities: np.ndarray, count: int = TOP
) -> list[list[tuple[int, float]]]:
  """The most probable classes of each image, in descending order.

  Args:
    probabilities: [images, classes].
    count: classes to return, at most.

  Returns:
    (class, probability) for each image; equal ones in the order of classes.
  """
  order = np.argsort(-probabilities, axis=1, kind='stable')[:, :count]
  return [
      [(int(label), float(row[label])) for label in labels]
      for row, labels in zip(probabilities, order)
  ]


def plain(text: str, longest: int, *, keep_end: bool = False) -> str:
  """Escapes a text for Matplotlib.

  Args:
    text: of one or more lines.
    longest: letters of a line; of a longer one the rest is cut off.
    keep_end: cut off the beginning, as of a path, and not the end.
  """

  def cut(line):
    if len(line) <= longest:
      return line
    return f'…{line[1 - longest :]}' if keep_end else f'{line[: longest - 1]}…'

  # After that, as one of two dollars may be gone: they would begin a formula.
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
    squares: [images, size, size, 3] uint8.
    probabilities: [images, classes].
    labels: the true class of each image, whose bar has another colour; None
      where it is not known.
    class_names: the classes' names.
    columns: images beside each other.

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
  """Draws rows of images with a text above each.

  Args:
    images: rows of [size, size, 3] uint8; they may be of different lengths.
    captions: of the same lengths.
    of_queries: whether the first of each row is what was asked for, which has
      a frame then, and a name of which the end is shown.
    kind: of the file: 'png', 'jpg', 'svg' or 'pdf'.

  Returns:
    The file.
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
    pixels: [height, width, 3 or 4] uint8.
    kind: 'PNG' or 'JPEG'.
    size: the greater side in the end, in pixels, if it is greater than that.
  """
  image = Image.fromarray(pixels)
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
  # Without pyplot, which keeps figures and may open windows.
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout='constrained')
  figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, hspace=0, wspace=0)
  backend_agg.FigureCanvasAgg(figure)
  return figure


def _image(axes, square, text, keep_end=False):
  axes.imshow(square)
  axes.set_axis_off()
  axes.set_title(plain(text, _NAME, keep_end=keep_end), fontsize=7, pad=2)


def _file(figure, kind='png'):
  file = io.BytesIO()
  figure.savefig(file, format=kind, dpi=_DPI, facecolor='white')
  return file.getvalue()
