"""Rules for programs compiled for GPUs."""

import collections
import math
import re
from collections.abc import Iterator, Sequence

from benchmarks.communication.compiled_step import Collective
from benchmarks.gpu_compiled.hlo import Kernel
from benchmarks.gpu_compiled.programs import CLASSES, Case, Program

# Libraries that XLA calls for GPUs. Functions of the host or of XLA's CPU
# backend have other names.
_LIBRARIES = re.compile(r'__(cudnn|cublas|cub|triton)')
# Operations of a loop over a GPU and its host.
_OF_HOST = ('infeed', 'outfeed', 'send', 'recv')
_CONVOLUTION = re.compile(r' convolution\(|custom_call_target="__cudnn\$conv')
# Numbers of convolutions: forward, and in training the gradients of kernels and
# of inputs other than the images.
_CONVOLUTIONS = {'training': 14, 'evaluation': 5, 'prediction': 5}
_GROUPED = {'training': 9, 'evaluation': 3, 'prediction': 3}
# Layers that read both towers (paper, Figure 2), and the logits.
_GATHERED = ('conv3', 'fc6', 'fc7', 'fc8', 'logits')
# Loss, top-1 and norms, or sums of an evaluation: a few numbers.
_FEW_BYTES = 64
# Most MiB moved by the kernels of a step of 128 images on one device: measured
# with jax 0.10.2, plus about one percent.
_MOST_MIB = {
    ('paper', 'float32', 'H100'): 7_400,
    ('paper', 'bfloat16', 'H100'): 4_850,
    ('2012', 'float32', 'H100'): 8_950,
    ('2012', 'bfloat16', 'H100'): 6_440,
    ('paper', 'float32', 'A100'): 7_400,
    ('paper', 'bfloat16', 'A100'): 4_950,
    ('2012', 'float32', 'A100'): 9_230,
    ('2012', 'bfloat16', 'A100'): 6_800,
}


def faults(
    case: Case,
    program: Program,
    kernels: Sequence[Kernel],
    collectives: Sequence[Collective],
) -> list[str]:
  """Lists the rules that a compiled program breaks."""
  return [
      *_foreign(program),
      *_scatters(case, program.compiled),
      *_not_donated(program),
      *_not_native(case, kernels),
      *_sent(case, program, collectives),
      *_too_many_bytes(case, kernels),
  ]


def _foreign(program) -> Iterator[str]:
  """Operations that do not belong on a GPU."""
  if 'LayoutConstraint' in program.lowered:
    yield 'has an operation in its form for CPUs (ops/cpu)'
  targets = re.findall(r'custom_call_target="([^"]*)"', program.compiled)
  for target in sorted(set(targets)):
    if not _LIBRARIES.match(target):
      yield f'calls {target}, which is no library for GPUs'
  for operation in _OF_HOST:
    if re.search(rf' {operation}(-start)?\(', program.compiled):
      yield f'waits for the host: {operation}'
  if 'f64[' in program.compiled:
    yield 'has numbers of float64'


def _scatters(case, text) -> Iterator[str]:
  """Scatters, except the loss's, which adds one number to each row."""
  loss = f'f32[{case.batch},{CLASSES}]'
  for line in text.splitlines():
    found = re.search(r' = (\S+)\{.* ((?:select-and-)?scatter)\(', line)
    is_loss = found and found.groups() == (loss, 'scatter')
    if found and not (is_loss and case.program == 'training'):
      name = re.search(r'op_name="([^"]*)"', line)
      yield (
          f'has a {found[2]} to {found[1]}, whose additions have no order: '
          + (name[1] if name else 'of no name')
      )


def _not_donated(program) -> Iterator[str]:
  header = program.compiled.split('\n', 1)[0]
  donated = len(re.findall(r'\(\d+, \{\}, (?:may|must)-alias\)', header))
  if donated != program.state:
    yield (
        f'{donated} arrays are donated, expected the {program.state} of a state'
    )


def is_convolution(kernel: Kernel) -> bool:
  """Returns whether a kernel is a convolution or a gradient of one."""
  return bool(_CONVOLUTION.search(kernel.line))


def _not_native(case, kernels) -> Iterator[str]:
  """Convolutions that are not cuDNN's, or in another order or grouping."""
  found = [kernel for kernel in kernels if is_convolution(kernel)]
  wanted = _CONVOLUTIONS[case.program]
  if len(found) != wanted:
    yield f'has {len(found)} convolutions, expected {wanted}'
  labels = [re.search(r'dim_labels=(\w+)', kernel.line)[1] for kernel in found]
  # For float32 on an A100, XLA itself puts the channels first.
  first = (case.device, case.dtype) == ('A100', 'float32')
  others = {x for x in labels if not x.startswith('bf01' if first else 'b01f')}
  if others:
    yield f'convolutions are in the order {", ".join(sorted(others))}'
  for kernel in found:
    if kernel.operation != 'custom-call':
      yield f'a convolution is not by cuDNN: {kernel.where}'
  grouped = sum('feature_group_count=2' in kernel.line for kernel in found)
  wanted = _GROUPED[case.program] if case.tower == 1 else 0
  if grouped != wanted:
    yield f'{grouped} convolutions are of two groups, expected {wanted}'


def _sent(case, program, collectives) -> Iterator[str]:
  """Traffic between towers beyond Figure 2; gradients not sent once."""
  large = [one for one in collectives if one.size > _FEW_BYTES]
  kinds = ['all-gather']
  if case.program == 'training':
    kinds.append('reduce-scatter')
  wanted = collections.Counter(
      (kind, layer) for kind in kinds for layer in _GATHERED
      if case.tower > 1
  )
  if case.program == 'prediction' and case.tower > 1:
    wanted['all-reduce', 'unknown'] = 1  # Makes the results equal.
  got = collections.Counter(
      (one.kind, one.layer) for one in large if one.axis == 'tower'
  )
  for one in (wanted - got) | (got - wanted):
    yield f'{got[one]} x {" of ".join(one)}, expected {wanted[one]}'
  reduced = sum(one.size for one in large if one.axis == 'data')
  wanted, more = 0, _FEW_BYTES
  if case.data > 1 and case.program == 'training':
    wanted = program.parameters
  elif case.data > 1 and case.program == 'prediction':
    # The results for all examples, on every device: log-probabilities, and two
    # or three numbers each.
    examples = case.batch * case.data
    wanted, more = 4 * examples * CLASSES, 12 * examples
  if not math.isclose(reduced, wanted, abs_tol=more):
    yield f'{reduced:,} bytes are sent between replicas, expected {wanted:,}'


def _too_many_bytes(case, kernels) -> Iterator[str]:
  if case.program != 'training' or (case.data, case.tower) != (1, 1):
    return
  most = _MOST_MIB[case.recipe, case.dtype, case.device]
  mib = sum(kernel.size for kernel in kernels) / 2**20
  if mib > most:
    yield f'its kernels move {mib:,.0f} MiB, expected at most {most:,}'
