"""A page of HTML that needs no other file: its parts, and how it is written.

Texts, tables and lists are those of `tables.py`, pictures those of
`charts.py`; the rest is here. The template is `page.html`.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Sequence

from alexnet.analysis.tables import Bullets, Table
from alexnet.visualization.charts import Picture

_TEMPLATE = pathlib.Path(__file__).parent / 'page.html'


@dataclasses.dataclass(frozen=True)
class Heading:
  """A title inside a section."""

  text: str


@dataclasses.dataclass(frozen=True)
class Facts:
  """Numbers to see first, (what, value)."""

  items: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Figures:
  """Charts and other pictures, beside each other where there is room."""

  pictures: tuple[Picture, ...]


@dataclasses.dataclass(frozen=True)
class Tile:
  """A small image with a line of text.

  Attributes:
    image: data URL.
    text: below it.
    mark: 'right', 'wrong' or '' for its frame.
  """

  image: str
  text: str
  mark: str = ''


@dataclasses.dataclass(frozen=True)
class Card:
  """An image with bars.

  Attributes:
    tile: the image.
    bars: (name, share from 0 to 1, whether it is the true one).
  """

  tile: Tile
  bars: tuple[tuple[str, float, bool], ...]


@dataclasses.dataclass(frozen=True)
class Cards:
  """Cards beside each other."""

  cards: tuple[Card, ...]


@dataclasses.dataclass(frozen=True)
class Strips:
  """Rows of tiles, (text, tiles); in each the first may stand apart."""

  strips: tuple[tuple[str, tuple[Tile, ...]], ...]
  first_apart: bool = False


@dataclasses.dataclass(frozen=True)
class Code:
  """Lines as they were typed."""

  lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Missing:
  """Why something is not here."""

  text: str


@dataclasses.dataclass(frozen=True)
class Details:
  """Parts that are folded away below a line."""

  summary: str
  blocks: 'tuple[Block, ...]'


Block = (
    str | Table | Bullets | Heading | Facts | Figures | Cards | Strips | Code
    | Missing | Details
)


@dataclasses.dataclass(frozen=True)
class Section:
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
  """Writes the page.

  Args:
    title: of the page.
    subtitle: below it.
    sections: of the page.
    files: names of the pictures that are written beside it, to be noted.

  Returns:
    HTML that refers to nothing outside of itself.
  """
  return _template().render(
      title=title, subtitle=subtitle, sections=sections, files=' '.join(files)
  )


@functools.cache
def _template():
  import jinja2  # Not needed by --help.

  environment = jinja2.Environment(
      autoescape=True,
      undefined=jinja2.StrictUndefined,
      trim_blocks=True,
      lstrip_blocks=True,
  )
  environment.filters['kind'] = lambda block: type(block).__name__
  return environment.from_string(_TEMPLATE.read_text(encoding='utf-8'))


def pictures(sections: Sequence[Section]) -> list[Picture]:
  """All pictures of a page, in their order."""
  found = []

  def search(blocks):
    for block in blocks:
      if isinstance(block, Figures):
        found.extend(block.pictures)
      elif isinstance(block, Details):
        search(block.blocks)

  for section in sections:
    search(section.blocks)
  return found
