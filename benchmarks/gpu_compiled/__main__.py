"""Compiles this program for GPUs and checks it, without a GPU.

  make gpu-compiled
  python -m benchmarks.gpu_compiled --baseline=CHECKOUT --json=results.json

XLA's CUDA plugin compiles ahead of time from a device's description, in about
ten seconds per program on two cores. For each program it prints the kernels,
the bytes that they read and write, temporaries and collectives; --baseline adds
another checkout's. Nothing runs, so nothing is timed, and autotuning, which
needs a device, is off.

The exit status is 1 if a program breaks a rule of rules.py, such as a form for
CPUs, a call of the host, a scatter, or more bytes than its bound. The plugin is
in --compiler, where the Makefile's target installs it.
"""

import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from absl import app, flags

from alexnet.analysis.tables import Table
from input_pipeline import cli
from input_pipeline.errors import UserError
from input_pipeline.files import paths

ROOT = pathlib.Path(__file__).parents[2]
COMPILER = '.gpu-compiler'
CHOICES = {
    'programs': ('training', 'evaluation', 'prediction'),
    'recipes': ('paper', '2012'),
    'dtypes': ('float32', 'bfloat16'),
    'meshes': ('1x1', '1x2', '4x2', '8x1'),
    'devices': ('H100', 'A100'),
}
_HEADINGS = ('program', 'kernels', 'MiB', 'temporaries', 'sent', 'early')

Result = dict[str, Any]


def environment(compiler: pathlib.Path) -> dict[str, str]:
  """Environment of a process that compiles with the plugin in a folder."""
  ours = os.environ
  path = [str(compiler), *filter(None, [ours.get('PYTHONPATH')])]
  options = (
      f'{ours.get("XLA_FLAGS", "")} --xla_gpu_autotune_level=0 '
      f'--xla_gpu_cuda_data_dir={compiler / "nvidia" / "cuda_nvcc"}'
  )
  return {
      **ours, 'PYTHONPATH': os.pathsep.join(path), 'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': options.strip(), 'JAX_ENABLE_COMPILATION_CACHE': 'false',
  }


def compiled(
    checkout: pathlib.Path, compiler: pathlib.Path, cases: list[dict[str, Any]]
) -> Iterator[Result]:
  """Yields the result of `measures.measure` for each case.

  Args:
    checkout: folder of the program.
    compiler: folder of the plugin.
    cases: fields of `programs.Case`.

  Raises:
    UserError: a case cannot be compiled; the process has printed why.
  """
  command = (sys.executable, '-m', 'benchmarks.gpu_compiled.worker', checkout)
  with subprocess.Popen(
      command, cwd=ROOT, env=environment(compiler), text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE,
  ) as process:
    process.stdin.write(json.dumps(cases))
    process.stdin.close()
    for line in process.stdout:
      yield json.loads(line)
  if process.returncode:
    raise UserError(
        f'{checkout} could not be compiled (status {process.returncode}), see '
        'above. If JAX has no plugin for CUDA: make gpu-compiled installs it'
    )


def row(result: Result, before: Result | None) -> tuple[str, ...]:
  """Cells of a table row; with a baseline its numbers come first.

  `sent` is the MiB of all collectives; `early` is the MiB of sums over replicas
  that start while convolutions are still to come.
  """
  both = [before, result] if before else [result]
  mib = lambda size: f'{size / 2**20:,.0f}'
  numbers = [
      (
          str(one['kernels']),
          mib(one['bytes']),
          mib(one['temporaries']),
          mib(sum(sent['bytes'] for sent in one['collectives'])),
          mib(sum(
              sent['bytes'] for sent in one['collectives']
              if sent['axis'] == 'data' and sent['convolutions_after']
          )),
      )
      for one in both
  ]
  return (result['name'], *map(' to '.join, zip(*numbers)))


def chosen(values: flags.FlagValues) -> list[dict[str, Any]]:
  """Returns the fields of each case selected by the flags."""
  for name, known in CHOICES.items():
    if others := set(values[name].value) - set(known):
      raise app.UsageError(
          f'--{name} has {", ".join(sorted(others))}: expected some of '
          + ', '.join(known)
      )
  cases = itertools.product(*(values[name].value for name in CHOICES))
  return [
      {
          'program': program, 'recipe': recipe, 'dtype': dtype,
          'data': int(mesh.split('x')[0]), 'tower': int(mesh.split('x')[1]),
          'device': device,
      }
      for program, recipe, dtype, mesh, device in cases
  ]


def main(argv: list[str]) -> int:
  """Entry point."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  cases = chosen(values)
  compiler = values.compiler or ROOT / COMPILER
  checkouts = [path for path in (values.baseline, ROOT) if path]
  streams = [compiled(path, compiler, cases) for path in checkouts]
  results, rows = [], []
  for several in zip(*streams, strict=True):
    before = several[0] if values.baseline else None
    results.append({'now': several[-1], 'before': before})
    rows.append(row(several[-1], before))
    print('  '.join(rows[-1]), flush=True)
    for fault in several[-1]['faults']:
      print(f'error: {several[-1]["name"]}: {fault}', flush=True)
  print('', *Table(_HEADINGS, tuple(rows)).to_markdown(), sep='\n')
  if values.json:
    values.json.write_text(json.dumps(results, indent=2) + '\n')
  return int(any(result['now']['faults'] for result in results))


if __name__ == '__main__':
  for name, known in CHOICES.items():
    flags.DEFINE_list(
        name, list(known), f'Some of {", ".join(known)}. Default: all.'
    )
  paths.define(
      'compiler', f'Folder with the plugin. Default: {COMPILER}, where the '
      'Makefile installs it.'
  )
  paths.define('baseline', 'Checkout of this repository to compare with.')
  paths.define('json', 'Write the results as JSON to this file.')
  cli.run(main)
