"""Parses the text of a module that XLA has optimized for GPUs."""

import dataclasses
import itertools
import math
import re

_BYTES = {
    'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2,
    'f32': 4, 's32': 4, 'u32': 4, 'f64': 8, 's64': 8, 'u64': 8, 'c64': 8,
}
# Operations that run nothing. Collectives are counted by their start.
_NOTHING = (
    'bitcast', 'constant', 'get-tuple-element', 'opt-barrier', 'parameter',
    'tuple',
)
_INSTRUCTION = re.compile(
    r'\s+(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+)'
    r' (?P<operation>[\w\-]+)\((?P<rest>.*)$'
)
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A GPU operation: a kernel, a call of a library, or a collective.

  Attributes:
    size: bytes of operands and results, as if each were read and written once
      without a cache; for comparing programs, not for times.
    operation: name in HLO.
    target: target of a custom call, or kind of a fusion.
    where: place in the program that it comes from.
    line: the whole instruction.
  """

  size: int
  operation: str
  target: str
  where: str
  line: str


def kernels(text: str) -> list[Kernel]:
  """Lists the kernels of a module's entry, in order of their start.

  Args:
    text: HLO of a compiled program.
  """
  shapes, found = {}, []
  for line in text[text.index('\nENTRY'):].split('\n'):
    match = _INSTRUCTION.match(line)
    if not match:
      continue
    shapes[match['name']] = match['shape']
    operation = match['operation']
    if operation in _NOTHING or operation.endswith('-done'):
      continue
    operands = re.findall(r'%([\w.\-]+)', match['rest'].split('), ')[0])
    arrays = _ARRAY.findall(match['shape'])
    if operation.endswith('-start') and len(arrays) == 2 * len(operands):
      arrays = arrays[len(operands):]  # The operands come first.
    for name in operands:
      arrays += _ARRAY.findall(shapes.get(name, ''))
    size = sum(itertools.starmap(_size, arrays))
    found.append(
        Kernel(
            size,
            operation,
            _of(line, r'custom_call_target="([^"]+)"')
            or _of(line, r'kind=(\w+)'),
            _of(line, r'op_name="([^"]*)"'),
            line.strip(),
        )
    )
  return found


def _size(dtype, sides):
  sides = [int(side) for side in sides.split(',') if side]
  return _BYTES.get(dtype, 0) * math.prod(sides)


def _of(line, pattern):
  match = re.search(pattern, line)
  return match[1] if match else ''
