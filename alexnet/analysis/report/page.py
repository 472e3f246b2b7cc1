"""Parts and rendering of an HTML page without external files.

Texts, tables and lists are defined in `tables.py`, pictures in `charts.py`,
and the other parts here. The template is `page.html`.
"""

import functools
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alexnet.analysis.tables import Bullets, Table
from alexnet.visualization.charts import Picture

_TEMPLATE = pathlib.Path(__file__).parent / 'page.html'


class Heading(NamedTuple):
  """A title inside a section."""

  text: str


class Facts(NamedTuple):
  """Numbers at the top of the page, (label, value)."""

  items: tuple[tuple[str, str], ...]


class Figures(NamedTuple):
  """Pictures, side by side if there is room."""

  pictures: tuple[Picture, ...]


class Tile(NamedTuple):
  """A small image with a line of text below."""

  image: str  # Data URL.
  text: str
  mark: str = ''  # Its frame: 'right', 'wrong' or ''.


class Card(NamedTuple):
  """An image with bars: (name, share from 0 to 1, whether it is true)."""

  tile: Tile
  bars: tuple[tuple[str, float, bool], ...]


class Cards(NamedTuple):
  """Cards side by side."""

  cards: tuple[Card, ...]


class Strips(NamedTuple):
  """Rows of tiles, (text, tiles); the first tile may be set apart."""

  strips: tuple[tuple[str, tuple[Tile, ...]], ...]
  first_apart: bool = False


class Code(NamedTuple):
  """Preformatted lines."""

  lines: tuple[str, ...]


class Missing(NamedTuple):
  """The reason why something is missing."""

  text: str


class Details(NamedTuple):
  """Parts that can be folded away."""

  summary: str
  blocks: 'tuple[Block, ...]'


Block = (
    str | Table | Bullets | Heading | Facts | Figures | Cards | Strips | Code
    | Missing | Details
)


class Section(NamedTuple):
  """A title with the parts below it."""

  title: str
  blocks: Sequence[Block]

  @property
  def anchor(self) -> str:
    """The section's fragment identifier."""
    return re.sub('[^a-z0-9]+', '-', self.title.lower()).strip('-')


def render(
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    files: Iterable[str] = (),
) -> str:
  """Renders the page, which refers to no external resource.

  `files` are the names of the pictures written beside it, noted in the page.
  """
  return _template().render(
      title=title, subtitle=subtitle, sections=sections, files=' '.join(files)
  )


@functools.cache
def _template():
  import jinja2  # Slow to import, and not needed by --help.

  environment = jinja2.Environment(
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True,
  )
  environment.filters['kind'] = lambda block: type(block).__name__
  return environment.from_string(_TEMPLATE.read_text(encoding='utf-8'))


def pictures(sections: Sequence[Section | Details]) -> list[Picture]:
  """Lists all pictures of a page, in order."""
  found = []
  for section in sections:
    for block in section.blocks:
      if isinstance(block, Figures):
        found += block.pictures
      elif isinstance(block, Details):
        found += pictures([block])
  return found
