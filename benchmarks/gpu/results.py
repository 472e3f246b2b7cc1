"""Results of `benchmarks.gpu`: shares of the device's peak, and tables."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.communication.model import MACHINES, Machine
from benchmarks.step import report

_A100, _H100, _H200 = (MACHINES[name] for name in ('a100', 'h100', 'h200'))
# By JAX's device name; parts of a device (MIG) have other names. `flops` is
# NVIDIA's figure for dense products in TF32; bfloat16 has twice that.
DEVICES: Mapping[str, Machine] = {
    'NVIDIA A100-SXM4-40GB': dataclasses.replace(
        _A100, memory=1555e9, source='A100 SXM 40 GB (TF32)'
    ),
    'NVIDIA A100-SXM4-80GB': _A100,
    'NVIDIA A100-PCIE-40GB': dataclasses.replace(
        _A100, memory=1555e9, source='A100 PCIe 40 GB (TF32)'
    ),
    'NVIDIA A100 80GB PCIe': MACHINES['a100_pcie'],
    'NVIDIA H100 80GB HBM3': _H100,
    'NVIDIA H100 PCIe': MACHINES['h100_pcie'],
    'NVIDIA H100 NVL': dataclasses.replace(
        _H100, flops=417.5e12, memory=3900e9, source='H100 NVL (TF32, dense)'
    ),
    'NVIDIA H200': _H200,
    'NVIDIA H200 NVL': dataclasses.replace(
        _H200, flops=417.5e12, source='H200 NVL (TF32, dense)'
    ),
}


def shares(
    kind: str, dtype: str, measured: Mapping[str, Any]
) -> dict[str, float]:
  """Shares of a device's peak and bandwidth that a step reaches.

  Args:
    kind: JAX's device name.
    dtype: 'float32' (for TF32) or 'bfloat16'.
    measured: result of `measure.ours` or `measure.pytorch`.

  Returns:
    'peak_share', and 'bandwidth_share' if 'bytes_accessed' is known; empty for
    devices that are not in DEVICES.
  """
  machine = DEVICES.get(kind)
  if machine is None:
    return {}
  seconds = measured['seconds_per_step']['median']
  peak = machine.flops * (2 if dtype == 'bfloat16' else 1)
  result = {'peak_share': measured['operations'] / seconds / peak}
  if size := measured.get('bytes_accessed'):
    result['bandwidth_share'] = size / seconds / machine.memory
  return result


def _steps(records):
  lines = [
      '| | images/s | ms a step (lowest to highest) | compiling, s '
      '| memory, GB: peak, program | of the peak | of the bandwidth |',
      '|---' * 7 + '|',
  ]
  giga = lambda size: '-' if size is None else f'{size / 1e9:.2f}'
  percent = lambda share: '-' if share is None else f'{share:.1%}'
  for row in records:
    taken = {k: f'{1e3 * v:.2f}' for k, v in row['seconds_per_step'].items()}
    compiling = row['compile_seconds']
    cells = (
        f'{row["mode"]}, {row["case"]}, batch {row["batch_size"]}',
        report.number(row['images_per_second']),
        f'{taken["median"]} ({taken["lowest"]} to {taken["highest"]})',
        '-' if compiling is None else f'{compiling:.1f}',
        f'{giga(row["peak_bytes"])}, {giga(row.get("program_bytes"))}',
        percent(row.get('peak_share')),
        percent(row.get('bandwidth_share')),
    )
    lines.append('| ' + ' | '.join(cells) + ' |')
  return lines


def _comparisons(records):
  lines = [
      '| beside the CPU | logits | loss | update | agrees |',
      '|---' * 5 + '|',
  ]
  for row in records:
    cells = [row['case']]
    for name, limit in row['bounds'].items():
      place = f' in {row["layer"]}' if name == 'update' else ''
      value = row['differences'][name]
      number = 'no number' if value is None else f'{value:.1e}'
      cells.append(f'{number} of {limit:.0e}{place}')
    cells.append('yes' if row['agrees'] else 'NO')
    lines.append('| ' + ' | '.join(cells) + ' |')
  return lines


def _feeding(records):
  lines = [
      '| fed from | images/s of the input alone | of a step, computing |',
      '|---' * 3 + '|',
  ]
  for row in records:
    for name, rate in row['input_images_per_second'].items():
      busy = f'{row["busy"][name]:.1%}'
      lines.append(f'| {name} | {report.number(rate)} | {busy} |')
  return lines


def table(machine: Mapping[str, Any], records: Iterable[dict]) -> str:
  """Formats all finished cases as Markdown, then the failed ones.

  Args:
    machine: result of `measure.machine`.
    records: the records written as lines of JSON.
  """
  kind = machine['device_kind']
  source = f'shares of {DEVICES[kind].source}' if kind in DEVICES else (
      'no peak is known of it, and so no shares'
  )
  lines = [
      f'One {kind}; {source}; jax {machine["packages"]["jax"]}, Python '
      f'{machine["python"]}.'
  ]
  tables = {
      'differences': _comparisons, 'images_per_second': _steps, 'busy': _feeding
  }
  for field, show in tables.items():
    if found := [row for row in records if field in row]:
      lines += ['', *show(found)]
  failed = [row for row in records if 'error' in row]
  lines += [''] * bool(failed)
  for row in failed:
    lines.append(
        f'* {row["mode"]}, {row["case"]}, batch {row["batch_size"]}: '
        f'{row["error"]}'
    )
  return '\n'.join(lines)
