"""A page of HTML that needs no other file: its parts, and how it is written.

Texts, tables and lists are those of `tables.py`, pictures those of
`charts.py`; the rest is here. The template is `page.html`.
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
  """Numbers to see first, (what, value)."""

  items: tuple[tuple[str, str], ...]


class Figures(NamedTuple):
  """Charts and other pictures, beside each other where there is room."""

  pictures: tuple[Picture, ...]


class Tile(NamedTuple):
  """A small image with a line of text below."""

  image: str  # Data URL.
  text: str
  mark: str = ''  # 'right', 'wrong' or '' for its frame.


class Card(NamedTuple):
  """An image with bars: (name, share from 0 to 1, whether it is the truth)."""

  tile: Tile
  bars: tuple[tuple[str, float, bool], ...]


class Cards(NamedTuple):
  """Cards beside each other."""

  cards: tuple[Card, ...]


class Strips(NamedTuple):
  """Rows of tiles, (text, tiles); in each the first may stand apart."""

  strips: tuple[tuple[str, tuple[Tile, ...]], ...]
  first_apart: bool = False


class Code(NamedTuple):
  """Lines as they were typed."""

  lines: tuple[str, ...]


class Missing(NamedTuple):
  """Why something is not here."""

  text: str


class Details(NamedTuple):
  """Parts that are folded away below a line."""

  summary: str
  blocks: 'tuple[Block, ...]'


Block = (
    str | Table | Bullets | Heading | Facts | Figures | Cards | Strips | Code
    | Missing | Details
)


class Section(NamedTuple):
  """A title, and what is below it."""

  title: str
  blocks: Sequence[Block]

  @property
  def anchor(self) -> str:
    """Its name in addresses."""
    return re.sub('[^a-z0-9]+', '-', self.title.lower()).strip('-')


def render(
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    files: Iterable[str] = (),
) -> str:
  """The page, which refers to nothing outside of itself.

  `files` are the names of the pictures that are written beside it, to be noted.
  """
  return _template().render(
      title=title, subtitle=subtitle, sections=sections, files=' '.join(files)
  )


@functools.cache
def _template():
  import jinja2  # Not needed by --help.

  environment = jinja2.Environment(
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True,
  )
  environment.filters['kind'] = lambda block: type(block).__name__
  return environment.from_string(_TEMPLATE.read_text(encoding='utf-8'))


def pictures(sections: Sequence[Section | Details]) -> list[Picture]:
  """All pictures of a page, in their order."""
  found = []
  for section in sections:
    for block in section.blocks:
      if isinstance(block, Figures):
        found += block.pictures
      elif isinstance(block, Details):
        found += pictures([block])
  return found
