"""Formats paragraphs, lists and tables for a terminal or as Markdown."""

import dataclasses
import pathlib
import statistics
import textwrap
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text below a row of headings."""

  headings: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]

  def to_text(self) -> list[str]:
    """Formats aligned columns."""
    rows = [self.headings, *self.rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        '  '.join(map(str.ljust, row, widths)).rstrip() for row in rows
    ]

  def to_markdown(self) -> list[str]:
    """Formats a Markdown table."""
    rule = ('---',) * len(self.headings)
    return [
        '| ' + ' | '.join(cell.replace('|', '\\|') for cell in row) + ' |'
        for row in (self.headings, rule, *self.rows)
    ]


@dataclasses.dataclass(frozen=True)
class Bullets:
  """A list."""

  items: tuple[str, ...]


Item = str | Table | Bullets
# A title, and the paragraphs, lists and tables below it.
Section = tuple[str, list[Item]]


def mean_and_deviation(
    values: Sequence[float], form: str, nothing: str = '--'
) -> str:
  """Formats 'mean ± standard deviation', without the latter for one value."""
  if not values:
    return nothing
  mean = format(statistics.mean(values), form)
  if len(values) == 1:
    return mean
  return f'{mean} ± {format(statistics.stdev(values), form)}'


def to_text(sections: list[Section], width: int = 80) -> str:
  """Formats a page for a terminal; tables may be wider."""
  lines = []
  for title, items in sections:
    lines += [title, '-' * len(title), '']
    for item in items:
      if isinstance(item, Table):
        lines += item.to_text()
      elif isinstance(item, Bullets):
        for text in item.items:
          lines += textwrap.wrap(
              text, width, initial_indent='* ', subsequent_indent='  '
          )
      else:
        lines += textwrap.wrap(item, width)
      lines.append('')
  return '\n'.join(lines).rstrip() + '\n'


def to_markdown(sections: list[Section]) -> str:
  """Formats a page as Markdown."""
  lines = []
  for title, items in sections:
    lines += [f'## {title}', '']
    for item in items:
      if isinstance(item, Table):
        lines += item.to_markdown()
      elif isinstance(item, Bullets):
        lines += [f'* {text}' for text in item.items]
      else:
        lines.append(item)
      lines.append('')
  return '\n'.join(lines).rstrip() + '\n'


def show(sections: list[Section], output: pathlib.Path | None) -> None:
  """Prints a page, and writes it as Markdown to a file if given."""
  print(to_text(sections), end='')
  if output:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(to_markdown(sections), encoding='utf-8')
