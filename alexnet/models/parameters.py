"""Parameters by path, the way configs name them.

A path is the names that lead to a parameter: 'conv1/kernel', or
'block1/norm/scale' of a network with blocks. A pattern names the parameters at
and below it: 'conv1', 'block1/norm'. In it, as in a shell's file names, `*`
stands for any characters, '/' included, `?` for one, and [ab] for one of these:
'block*/norm', '*/bias', '*'.
"""

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from flax import traverse_util

# (pattern, factor); of those that match a path, the last one counts.
Factors = Iterable[tuple[str, float]]
BIASES = '*/bias'


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of nested dictionaries by path, in their order."""
  return traverse_util.flatten_dict(tree, sep='/')


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
  """The same nested dictionaries, with function(path, leaf) for each leaf."""
  return traverse_util.unflatten_dict(
      {path: function(path, leaf) for path, leaf in by_path(tree).items()},
      sep='/',
  )


def matches(pattern: str, path: str) -> bool:
  """Whether a parameter is at or below what a pattern names."""
  return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(
      path, f'{pattern}/*'
  )


def last_match(factors: Factors, path: str) -> tuple[int, float] | None:
  """(index, factor) of the last pattern that matches a path, if any does."""
  found = None
  for index, (pattern, factor) in enumerate(factors):
    if matches(pattern, path):
      found = index, factor
  return found
