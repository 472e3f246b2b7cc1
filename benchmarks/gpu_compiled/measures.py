"""Measures compiled programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.communication import compiled_step
from benchmarks.communication.compiled_step import Collective
from benchmarks.gpu_compiled import hlo, programs, rules

# Number of kernels named: those that move most bytes.
_LARGEST = 12


def measure(case: programs.Case) -> dict[str, Any]:
  """Compiles and measures a case.

  Returns:
    For JSON: the case's fields and 'name', the number of 'kernels', their
    'bytes', 'temporaries' in bytes, the 'largest' kernels, 'collectives', and
    'faults' (see rules.py).
  """
  program = programs.compile_program(case)
  kernels = hlo.kernels(program.compiled)
  sent = sends(kernels, case.tower)
  collectives = [collective for collective, _ in sent]
  largest = sorted(kernels, key=lambda kernel: -kernel.size)[:_LARGEST]
  return {
      **dataclasses.asdict(case),
      'name': case.name,
      'kernels': len(kernels),
      'bytes': sum(kernel.size for kernel in kernels),
      'temporaries': program.temporaries,
      'largest': [
          {
              'bytes': kernel.size,
              'kind': kernel.target or kernel.operation,
              'where': kernel.where,
          }
          for kernel in largest
      ],
      'collectives': [
          {
              'kind': one.kind, 'axis': one.axis, 'layer': one.layer,
              'bytes': one.size, 'convolutions_after': later,
          }
          for one, later in sent
      ],
      'faults': rules.faults(case, program, kernels, collectives),
  }


def sends(
    kernels: Sequence[hlo.Kernel], tower: int
) -> list[tuple[Collective, int]]:
  """Collectives, each with the number of convolutions that start after it.

  The backward pass ends with the convolutions' gradients.

  Args:
    kernels: kernels in order of their start.
    tower: size of the mesh's last axis.
  """
  found, later = [], 0
  for kernel in reversed(kernels):
    later += rules.is_convolution(kernel)
    for one in compiled_step.read_collectives(kernel.line, tower):
      found.append((one, later))
  return found[::-1]
