"""Draws charts for light and dark pages, and as PNG files.

Each chart is drawn twice as SVG with a transparent background, in the colours
of either theme, and once as PNG on white. It has one panel, whose text is
legible on a phone.
"""

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from alexnet.visualization import images

if TYPE_CHECKING:  # Slow to import.
  from matplotlib.axes import Axes

# Size of a panel in inches, each 72 SVG units.
SIZE = (4.6, 2.9)
_DPI = 144
# Letters after which labels in a legend are cut.
_LABEL = 32
# Letters in a row of the legend, and inches of a row.
_LEGEND, _ROW = 52, 0.16

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Theme:
  """Colours of a theme."""

  ink: str  # Text.
  faint: str  # Axes and grids.
  colors: tuple[str, ...]  # Lines; distinct for the colour-blind too.
  ordered: tuple[str, float, float]  # Colour map of ordered series; its range.
  shades: tuple[str, str]  # Matrices, from the lowest to the highest value.


LIGHT = Theme(
    ink='#2a2f36',
    faint='#c9ced6',
    colors=(
        '#1f6fb4', '#cc5a0a', '#14805a', '#9245ab', '#b8871b', '#0d8ea0',
        '#c2385b', '#6b7280',
    ),
    ordered=('viridis', 0.0, 0.85),
    shades=('#eef3f8', '#0b3d6b'),
)
DARK = Theme(
    ink='#d7dce3',
    faint='#4a515c',
    colors=(
        '#6cb2f0', '#f59b4c', '#4cc38a', '#cf93e6', '#e3c04f', '#4cc9d6',
        '#f27b97', '#a3acb9',
    ),
    ordered=('viridis', 0.25, 1.0),
    shades=('#20252d', '#8cc8ff'),
)
_STYLES = ('-', '--', ':', '-.')
# Not as many as styles, so that together they distinguish twenty lines.
_MARKERS = ('o', 's', '^', 'D', 'v')

Draw = Callable[['Axes', Theme], None]


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture on a page."""

  name: str  # Name of its PNG file, without the suffix.
  title: str  # Shown above it.
  alt: str  # Alternative text.
  png: bytes  # Contents of the PNG file.
  light: str  # Data URL for a light page.
  dark: str  # Data URL for a dark page; may be the same.
  room: str = ''  # '': one of two columns; 'wide': full width; 'small': less.


def chart(
    name: str,
    title: str,
    alt: str,
    draw: Draw,
    *,
    size: tuple[float, float] = SIZE,
    room: str = '',
) -> Picture:
  """Draws a chart of `size` inches in both themes; see `Picture`."""
  svg = [
      data_url('image/svg+xml', _render(draw, theme, size, 'svg'))
      for theme in (LIGHT, DARK)
  ]
  png = _render(draw, LIGHT, size, 'png')
  return Picture(name, title, alt, png, *svg, room=room)


def data_url(kind: str, content: bytes) -> str:
  """Encodes a file as a data URL."""
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _render(draw, theme, size, form):
  import matplotlib
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  settings = {
      'axes.axisbelow': True,
      'axes.edgecolor': theme.faint,
      'axes.grid': True,
      'axes.labelcolor': theme.ink,
      'axes.spines.right': False,
      'axes.spines.top': False,
      'font.size': 9,
      'grid.color': theme.faint,
      'grid.linewidth': 0.4,
      'legend.frameon': False,
      'legend.labelcolor': theme.ink,
      'lines.linewidth': 1.4,
      'svg.fonttype': 'none',
      'svg.hashsalt': 'alexnet',  # Makes the file reproducible.
      'text.color': theme.ink,
      'xtick.color': theme.ink,
      'ytick.color': theme.ink,
  }
  with matplotlib.rc_context(settings):
    figure = Figure(figsize=size, layout='constrained')
    backend_agg.FigureCanvasAgg(figure)
    draw(figure.subplots(), theme)
    file = io.BytesIO()
    if form == 'png':
      figure.savefig(file, format='png', dpi=_DPI, facecolor='white')
      return file.getvalue()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(file, format='svg', transparent=True, metadata=nothing)
  # Drops the document type, which contains a URL.
  text = file.getvalue().decode()
  return text[text.index('<svg') :].encode()


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a chart.

  Attributes:
    label: label in the legend.
    points: (x, y) points.
    series: index of its colour.
    style: index of its line style.
    marked: whether to mark each point, for few precise values.
  """

  label: str
  points: Points
  series: int
  style: int = 0
  marked: bool = False


def lines(
    lines: Sequence[Line],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    percent: bool = False,
    ordered: bool = False,
    from_zero: bool = True,
) -> Draw:
  """Returns a function that draws lines.

  Args:
    lines: the lines.
    xlabel: label of the x axis.
    ylabel: label of the y axis.
    log: whether y is logarithmic, if all values are positive.
    percent: whether y is a share, formatted in percent.
    ordered: whether the series are ordered, such as layers, and coloured
      accordingly.
    from_zero: whether y starts at zero.
  """

  def draw(axes, theme):
    from matplotlib.ticker import PercentFormatter

    colors = _colors(theme, lines, ordered)
    drawn = []
    for line in lines:
      # Neighbouring ordered series have similar colours.
      style, marker = line.style, 'o'
      if ordered:
        style, marker = line.series, _MARKERS[line.series % len(_MARKERS)]
      drawn += axes.plot(
          *zip(*line.points),
          _STYLES[style % len(_STYLES)],
          color=colors[line.series],
          marker=marker if line.marked or len(line.points) == 1 else None,
          markersize=3,
          clip_on=False,  # Shows marks at zero completely.
      )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    values = [y for line in lines for _, y in line.points]
    if log and min(values) > 0:
      axes.set_yscale('log')
    elif from_zero and min(values) >= 0:
      # Matplotlib's margin depends on the range of the values.
      axes.set_ylim(0, 1.06 * max(values) or None)
    if percent:
      axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if len(lines) > 1:
      _add_legend(axes, drawn, [line.label for line in lines])

  return draw


def say(
    lines: Sequence[Line],
    *,
    percent: bool = False,
    best: Callable[[list[float]], float] | None = None,
) -> str:
  """Describes lines in numbers, as alternative text.

  Args:
    lines: the lines.
    percent: see `lines`.
    best: min or max, to also give the best value; None to leave it out.

  Returns:
    The first and the last value of each line, and the best.
  """
  number = (lambda y: f'{y:.2%}') if percent else (lambda y: f'{y:.4g}')

  def of_line(line):
    values = [y for _, y in line.points]
    text = f'{line.label}: from {number(values[0])} to {number(values[-1])}'
    return text + (f', best {number(best(values))}' if best else '')

  return '; '.join(map(of_line, lines))


def _add_legend(axes, handles, labels):
  """Adds a legend above the lines and enlarges the picture for it."""
  figure = axes.figure
  longest = min(_LABEL, max(map(len, labels)))
  columns = max(1, min(4, _LEGEND // (longest + 5), len(labels)))
  rows = -(-len(labels) // columns)
  figure.set_figheight(figure.get_figheight() + _ROW * rows)
  legend = figure.legend(
      handles, ['.'] * len(labels), loc='outside upper left', fontsize=8,
      ncols=columns, handlelength=1.4, columnspacing=0.9, labelspacing=0.3,
  )
  # Set late: Matplotlib skips labels that begin with '_'.
  for text, label in zip(legend.get_texts(), labels):
    text.set_text(_short(label))


def _colors(theme, lines, ordered):
  import matplotlib

  count = 1 + max(line.series for line in lines)
  if count <= len(theme.colors) and not ordered:
    return theme.colors
  name, low, high = theme.ordered
  return matplotlib.colormaps[name](np.linspace(low, high, count))


def _short(label):
  return images.plain(label, _LABEL)


def bars(values: Mapping[str, float], *, xlabel: str) -> Draw:
  """Returns a function that draws bars, from top to bottom."""

  def draw(axes, theme):
    from matplotlib.ticker import PercentFormatter

    names = [_short(name) for name in values]
    places = np.arange(len(names))
    axes.barh(places, list(values.values()), 0.7, color=theme.colors[0])
    axes.set(
        xlabel=xlabel, xlim=(0, 1.12), ylim=(len(names) - 0.4, -0.6),
        xticks=(0, 0.25, 0.5, 0.75, 1), yticks=places, yticklabels=names,
    )
    axes.tick_params(axis='y', length=0)
    axes.grid(False, axis='y')
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for place, value in zip(places, values.values()):
      axes.text(value + 0.01, place, f'{value:.0%}', va='center', fontsize=8)

  return draw


def matrix(
    shares: np.ndarray,
    names: Sequence[str] | None,
    *,
    classes: int,
    xlabel: str,
    ylabel: str,
) -> Draw:
  """Returns a function that draws a matrix of shares from 0 to 1.

  Args:
    shares: [rows, columns].
    names: names of rows and columns; None also leaves out the numbers, for
      large matrices.
    classes: rows and columns of the whole matrix, of which `shares` may be
      blocks.
    xlabel: label of the columns.
    ylabel: label of the rows.
  """

  def draw(axes, theme):
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list('', theme.shades)
    # The square root makes rare values visible.
    end = classes - 0.5
    axes.imshow(
        np.sqrt(shares), cmap=shades, vmin=0, vmax=1,
        extent=(-0.5, end, end, -0.5),
    )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(False)
    axes.tick_params(length=0)
    if names is None:
      return
    places, short = range(len(names)), [_short(name) for name in names]
    axes.set_xticks(places, short, rotation=45, ha='right', fontsize=8)
    axes.set_yticks(places, short, fontsize=8)
    for row, column in np.argwhere(shares >= 0.005):
      share = shares[row, column]
      light = theme.shades[0]
      axes.text(
          column, row, f'{100 * share:.0f}', ha='center', va='center',
          fontsize=8, color=light if share > 0.25 else theme.ink,
      )

  return draw
