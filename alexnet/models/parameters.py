"""Parameters by path, as configs name them.

A path joins the names that lead to a parameter: 'conv1/kernel', or
'block1/norm/scale' in a network with blocks. A pattern selects the parameters
at and below it: 'conv1', 'block1/norm'. As in a shell, `*` matches any
characters ('/' included), `?` matches one, and [ab] one of those listed:
'block*/norm', '*/bias', '*'.
"""

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from flax import traverse_util

# (pattern, factor); the last one that matches a path applies.
Factors = Iterable[tuple[str, float]]
BIASES = '*/bias'


def by_path(tree: Any) -> dict[str, Any]:
  """Returns {path: leaf} of nested dictionaries, in their order."""
  return traverse_util.flatten_dict(tree, sep='/')


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
  """Replaces each leaf of nested dictionaries by function(path, leaf)."""
  return traverse_util.unflatten_dict(
      {path: function(path, leaf) for path, leaf in by_path(tree).items()},
      sep='/',
  )


def matches(pattern: str, path: str) -> bool:
  """Returns whether a pattern selects the parameter at a path."""
  return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(
      path, f'{pattern}/*'
  )


def last_match(factors: Factors, path: str) -> tuple[int, float] | None:
  """Returns (index, factor) of the last pattern that matches, or None."""
  found = None
  for index, (pattern, factor) in enumerate(factors):
    if matches(pattern, path):
      found = index, factor
  return found
