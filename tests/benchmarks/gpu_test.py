"""That the command for GPUs runs on a CPU, and what it makes of its numbers.

How fast anything is is not tested.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from benchmarks import feeding, input_pipeline, train_step
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import measure, results
from benchmarks.step import network

ROOT = pathlib.Path(__file__).parents[2]
TINY = network.Case(batch_size=2, width=0.0625, classes=10)
MACHINE = {
    'backend': 'gpu', 'device_kind': 'NVIDIA H100 80GB HBM3',
    'packages': {'jax': '0.10.2'},
    'python': '3.11.7',
}
STEP = {
    'seconds_per_step': {'median': 0.01, 'lowest': 0.008, 'highest': 0.02},
    'operations': 989e9, 'bytes_accessed': 6.7e9, 'compile_seconds': 21.04,
    'program_bytes': 2.5e9, 'peak_bytes': 3.25e9,
}
# With these no case can have what a step does not need.
NOT_NEEDED = (
    'PIL', 'array_record', 'filelock', 'jinja2', 'matplotlib', 'psutil',
    'simplejpeg', 'sklearn', 'tensorboardX', 'tensorflow',
    'tensorflow_datasets', 'torch', 'tqdm',
)
_BARE = '''
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
from benchmarks.gpu import __main__, measure
print(json.dumps([
    measure.machine(), measure.ours(json.loads(sys.argv[2]), None, 0.0)
]))
'''


class Clock:
  """Seconds that pass only when a case says so."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def run(cases, answers, budget=1e9):
  """Records of cases that take and give what `answers` say, one a case."""
  clock, records, answers = Clock(), [], iter(answers)

  def ask(function, arguments, *, limit, on_cpu=False):
    del function, arguments, limit, on_cpu
    seconds, answer = next(answers)
    clock.now += seconds
    if isinstance(answer, Exception):
      raise answer
    return answer

  gpu.measure(
      cases, MACHINE, budget=budget, seconds=1.0, write=records.append,
      ask=ask, clock=clock,
  )
  return records


def ours(name, seconds, case=TINY):
  return gpu.Planned(name, 'ours', case, seconds)


class PlanTest(absltest.TestCase):

  def test_default_fits_the_budget(self):
    """With the seconds that JAX takes to start."""
    cases = gpu.planned(False)
    self.assertLessEqual(sum(c.seconds for c in cases) + 10, gpu.BUDGET)
    self.assertLess(gpu.BUDGET, 360)

  def test_cases(self):
    named = lambda cases: [
        (c.name, c.case.mode, c.case.dtype, c.case.batch_size) for c in cases
    ]
    default, everything = named(gpu.planned(False)), named(gpu.planned(True))
    for wanted in (
        ('float32', 'training', 'float32', 8),
        ('bfloat16', 'training', 'bfloat16', 8),
        ('bfloat16', 'training', 'bfloat16', 128),
        ('bfloat16', 'training', 'bfloat16', 1024),
        ('TF32', 'training', 'float32', 128),
        ('bfloat16', 'inference', 'bfloat16', 1024),
        ('torch.compile bfloat16, band LRN', 'training', 'bfloat16', 128),
    ):
      self.assertIn(wanted, default)
    self.assertEqual(everything[: len(default)], default)
    self.assertLen(set(everything), len(everything))
    self.assertContainsSubset(
        [('PyTorch bfloat16, band LRN', 'training', 'bfloat16', 128),
         ('bfloat16, fed', 'training', 'bfloat16', 128)],
        everything[len(default):],
    )


class MeasureTest(parameterized.TestCase):

  def test_budget(self):
    """Begun while its estimate fits; what is smaller still may."""
    cases = [ours('a', 40), ours('b', 60), ours('c', 50), ours('d', 10)]
    answers = [(45.0, STEP), (9.0, STEP)]
    a, b, c, d = run(cases, answers, budget=90)
    self.assertEqual(a['took'], 45)
    for row, seconds in ((b, 60), (c, 50)):
      self.assertEqual(
          row['error'],
          f'not begun: it takes about {seconds} s, and of --budget 45 s are '
          'left',
      )
      self.assertNotIn('took', row)
    self.assertEqual(d['took'], 9)

  def test_a_failure_is_a_line(self):
    no_memory = train_step.CompetitorError('RESOURCE_EXHAUSTED: 9 GB')
    cases = [ours('a', 1), ours('b', 1)]
    a, b = run(cases, [(2.0, no_memory), (3.0, STEP)])
    self.assertEqual(a['error'], 'RESOURCE_EXHAUSTED: 9 GB')
    self.assertEqual((a['took'], a['case'], a['batch_size']), (2, 'a', 2))
    self.assertNotIn('images_per_second', a)
    # Two images in 0.01 s.
    self.assertEqual(b['images_per_second'], 200)

  def test_a_comparison_that_fails_does_not_agree(self):
    case = next(one for one in gpu.planned(False) if one.call == 'compare')
    error = train_step.CompetitorError('CUDA_ERROR')
    (row,) = run([case], [(2.0, error)])
    self.assertEqual((row['error'], row['agrees']), ('CUDA_ERROR', False))
    (row,) = run([case], [], budget=0)  # Not begun.
    self.assertNotIn('agrees', row)

  @pytest.mark.full
  def test_feeding(self):
    """Of everything a little, without stand-ins."""
    found = measure.feeding(dataclasses.asdict(TINY), None, 16, 0.1)
    rates = found['input_images_per_second']
    self.assertCountEqual(rates, ['prepared_jpeg', 'prepared_raw'])
    for rate in rates.values():
      self.assertGreater(rate, 0)
    for share in found['busy'].values():
      self.assertBetween(share, 0.01, 100)

  def test_feeding_by_hand(self):
    """Medians of what benchmarks_test measures, and their ratios."""
    rates = {
        'prepared_jpeg': [(100.0, 50.0), (300.0, 70.0), (200.0, 60.0)],
        'prepared_raw': [(900.0, 5.0), (700.0, 7.0), (800.0, 6.0)],
    }
    taken = {
        'constant': [1.0, 3.0, 2.0], 'prepared_jpeg': [5.0, 4.0, 3.0],
        'prepared_raw': [2.5, 2.5, 9.0],
    }
    with (
        mock.patch.object(input_pipeline, 'prepare', autospec=True) as prepare,
        mock.patch.object(
            input_pipeline, 'measure', autospec=True, return_value=rates
        ) as reading,
        mock.patch.object(
            feeding, 'measure', autospec=True, return_value=taken
        ) as training,
    ):
      found = measure.feeding(dataclasses.asdict(TINY), 'photos', 16, 0.1)
    self.assertEqual(found, {
        'input_images_per_second': {
            'prepared_jpeg': 200, 'prepared_raw': 800
        },
        'seconds_per_step': {
            'constant': 2, 'prepared_jpeg': 4, 'prepared_raw': 2.5
        },
        'busy': {'prepared_jpeg': 0.5, 'prepared_raw': 0.8},
    })
    self.assertEqual(prepare.call_args.args[0], 'photos')
    self.assertEqual(reading.call_args.args[:2], (
        ((input_pipeline.prepared_jpeg, 0), (input_pipeline.prepared_raw, 0)),
        'photos',
    ))
    work = prepare.call_args.args[1]
    self.assertEqual(training.call_args.args[:2], (work, TINY.batch_size))
    self.assertEqual(
        training.call_args.kwargs, dict(dtype='float32', width=TINY.width)
    )

  def test_no_longer_than_the_budget(self):
    limits = []
    ask = lambda *_, limit: limits.append(limit) or STEP
    gpu.measure(
        [ours('a', 30)], MACHINE, budget=50, seconds=1.0,
        write=lambda record: None, ask=ask, clock=Clock(),
    )
    self.assertEqual(limits, [50])

  def test_shares_by_hand(self):
    """989e9 operations in 0.01 s are a tenth of 989e12 a second."""
    (row,) = run([ours('a', 1, dataclasses.replace(TINY, dtype='bfloat16'))],
                 [(1.0, STEP)])
    self.assertAlmostEqual(row['peak_share'], 0.1)
    self.assertAlmostEqual(row['bandwidth_share'], 0.2)
    (row,) = run([ours('a', 1)], [(1.0, STEP)])
    self.assertAlmostEqual(row['peak_share'], 0.2)

  @parameterized.parameters(
      ('NVIDIA A100-SXM4-40GB', 312e12, 1555e9),
      ('NVIDIA A100-SXM4-80GB', 312e12, 2039e9),
      ('NVIDIA A100-PCIE-40GB', 312e12, 1555e9),
      ('NVIDIA A100 80GB PCIe', 312e12, 1935e9),
      ('NVIDIA H100 80GB HBM3', 989e12, 3350e9),
      ('NVIDIA H100 PCIe', 756e12, 2000e9),
      ('NVIDIA H100 NVL', 835e12, 3900e9),
      ('NVIDIA H200', 989e12, 4800e9),
      ('NVIDIA H200 NVL', 835e12, 4800e9),
  )
  def test_devices(self, kind, peak, bandwidth):
    """The data sheets' bfloat16, dense: a second of it is all of it."""
    step = {
        'seconds_per_step': {'median': 1.0}, 'operations': peak,
        'bytes_accessed': bandwidth,
    }
    shares = results.shares(kind, 'bfloat16', step)
    self.assertAlmostEqual(shares['peak_share'], 1)
    self.assertAlmostEqual(shares['bandwidth_share'], 1)
    shares = results.shares(kind, 'float32', step)
    self.assertAlmostEqual(shares['peak_share'], 2)

  @parameterized.parameters(
      'NVIDIA H100 80GB HBM3 MIG 1g.10gb', 'NVIDIA GeForce RTX 4090', 'cpu'
  )
  def test_unknown_devices_have_no_shares(self, kind):
    self.assertEqual(results.shares(kind, 'bfloat16', STEP), {})

  def test_bytes_that_nobody_counts(self):
    step = {**STEP, 'bytes_accessed': None}
    shares = results.shares('NVIDIA H200', 'bfloat16', step)
    self.assertCountEqual(shares, ['peak_share'])

  def test_turns(self):
    """Steps are started one after the other, and waited for once a turn."""
    now, calls = [0.0], []

    def start():
      calls.append('start')
      now[0] += 0.25 if len(calls) > 1 else 8.0
      return len(calls)

    def wait(step):
      self.assertEqual(step, len(calls))
      calls.append('wait')

    with mock.patch.object(measure.time, 'perf_counter', lambda: now[0]):
      found = measure.turns(start, wait, 5.25)
    self.assertEqual(found['steps_per_turn'], 3)
    self.assertEqual(
        calls,
        ['start', 'wait'] * measure.WARM_UP
        + ['start', 'start', 'start', 'wait'] * measure.TURNS,
    )
    self.assertEqual(found['first_step_seconds'], 8)
    self.assertEqual(
        found['seconds_per_step'],
        {'median': 0.25, 'lowest': 0.25, 'highest': 0.25},
    )


class CompareTest(parameterized.TestCase):

  def compare(self, change):
    """What comes of arrays of which the device's are changed."""
    case = dataclasses.replace(TINY, rate=1e-4)
    initial = network.parameters(case)
    arrays = {
        f'{layer}/{kind}': array + 1
        for layer, kinds in initial.items() for kind, array in kinds.items()
    }
    arrays |= {'losses': np.array([2.0, 2.0]), 'logits': np.ones((2, 8))}

    def ask(function, arguments, *, limit, on_cpu):
      self.assertEqual(function, 'outputs')
      self.assertGreater(limit, 0)
      changed = {} if on_cpu else change(arrays)
      np.savez(arguments['file'], **(arrays | changed))

    bounds = dict(logits=0.1, loss=0.01, update=0.5)
    planned = gpu.Planned('it', 'compare', case, 1, {}, bounds)
    return gpu.compare(planned, 60, ask)

  def test_equal(self):
    found = self.compare(lambda arrays: {})
    self.assertEqual(
        found['differences'], {'logits': 0, 'loss': 0, 'update': 0}
    )
    self.assertTrue(found['agrees'])

  def test_each_difference_by_hand(self):
    """One of 16 logits by 2 of a norm of 4; 2.02 for 2; 1.25 for 1."""
    logits = np.ones((2, 8))
    logits[1, 3] = 3
    for change, differences, layer in (
        ({'logits': logits}, (0.5, 0, 0), None),
        ({'losses': np.array([2.0, 2.04])}, (0, 0.02, 0), None),
        ('conv2/bias', (0, 0, 0.25), 'conv2/bias'),
        ('fc8/kernel', (0, 0, 0.25), 'fc8/kernel'),
    ):
      found = self.compare(
          lambda arrays, change=change: change if isinstance(change, dict)
          else {change: arrays[change] + 0.25}
      )
      self.assertSequenceAlmostEqual(
          found['differences'].values(), differences, 5
      )
      if layer:
        self.assertEqual(found['layer'], layer)
      self.assertEqual(found['agrees'], layer is not None)

  @parameterized.parameters('logits', 'losses', 'conv3/kernel')
  def test_no_number_does_not_agree(self, name):
    found = self.compare(lambda arrays: {name: np.nan * arrays[name]})
    self.assertFalse(found['agrees'])
    # JSON has no such thing.
    self.assertIn(None, found['differences'].values())
    json.loads(json.dumps(found, allow_nan=False))


class TableTest(absltest.TestCase):

  def test_cells(self):
    records = [
        {'case': 'machine', **MACHINE},
        {'case': 'bfloat16', **dataclasses.asdict(TINY),
         'differences': {'logits': 1.5e-3, 'loss': 2e-4, 'update': None},
         'bounds': {'logits': 0.1, 'loss': 0.1, 'update': 0.3},
         'layer': 'conv2/bias', 'agrees': False},
        {'case': 'bfloat16', **dataclasses.asdict(TINY), **STEP,
         'images_per_second': 12_800.0, 'peak_share': 0.1234,
         'bandwidth_share': 0.5},
        {'case': 'torch.compile', **dataclasses.asdict(TINY),
         'error': "No module named 'torch'"},
        {'case': 'fed', **dataclasses.asdict(TINY),
         'input_images_per_second': {'prepared_raw': 22_000.0},
         'seconds_per_step': {'constant': 1.0, 'prepared_raw': 1.25},
         'busy': {'prepared_raw': 0.8}},
    ]
    text = results.table(MACHINE, records)
    for line in (
        'One NVIDIA H100 80GB HBM3; shares of H100 SXM (TF32, dense), NVLink 4'
        '; DGX H100: NDR InfiniBand for each; jax 0.10.2, Python 3.11.7.',
        '| bfloat16 | 1.5e-03 of 1e-01 | 2.0e-04 of 1e-01 | no number of 3e-01 '
        'in conv2/bias | NO |',
        '| training, bfloat16, batch 2 | 12,800 | 10.00 (8.00 to 20.00) | 21.0 '
        '| 3.25, 2.50 | 12.3% | 50.0% |',
        '| prepared_raw | 22,000 | 80.0% |',
        "* training, torch.compile, batch 2: No module named 'torch'",
    ):
      self.assertIn(line, text.splitlines())

  def test_unknown(self):
    machine = {**MACHINE, 'device_kind': 'NVIDIA B200'}
    step = {'case': 'x', **dataclasses.asdict(TINY), **STEP,
            'images_per_second': 5.0, 'peak_bytes': None}
    text = results.table(machine, [step])
    self.assertIn('no peak is known of it', text)
    self.assertIn('| -, 2.50 | - | - |', text)


class ProcessTest(absltest.TestCase):
  """With processes of its own, on a CPU."""

  def call(self, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
    )

  def test_with_few_packages(self):
    case = json.dumps(dataclasses.asdict(TINY))
    result = self.call('-c', _BARE, json.dumps(NOT_NEEDED), case)
    self.assertEqual(result.returncode, 0, result.stderr)
    machine, step = json.loads(result.stdout.splitlines()[-1])
    self.assertEqual(machine['backend'], 'cpu')
    self.assertEqual(step['operations'], network.operations(TINY))
    self.assertGreater(step['bytes_accessed'], 1e6)
    self.assertGreater(step['program_bytes'], 1e6)
    self.assertIsNone(step['peak_bytes'])

  def test_same_network_in_two_processes(self):
    records = []
    cases = [
        gpu.Planned(
            'float32', 'compare', dataclasses.replace(TINY, rate=1e-4), 1,
            {'precision': 'highest'}, gpu.BOUNDS['float32'],
        ),
        dataclasses.replace(
            ours('of nobody', 1), arguments={'precision': 'nonsense'}
        ),
    ]
    machine = {'backend': 'cpu', 'device_kind': 'cpu'}
    gpu.measure(
        cases, machine, budget=1e9, seconds=0.0, write=records.append
    )
    same, failed = records
    self.assertTrue(same['agrees'], same)
    self.assertIn('nonsense', failed['error'])

  def test_command(self):
    """Lines of JSON, also to the file, and the table; no budget, no case."""
    file = pathlib.Path(self.create_tempdir().full_path) / 'results.jsonl'
    result = self.call(
        '-m', 'benchmarks.gpu', '--reduced', '--budget=1', f'--json={file}'
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    machine, *rows = map(json.loads, file.read_text().splitlines())
    self.assertEqual(machine['case'], 'machine')
    self.assertLen(rows, len(gpu.planned(False)))
    for row in rows:
      self.assertIn('not begun', row['error'])
    self.assertIn(file.read_text(), result.stdout)
    self.assertIn('* training, TF32, batch 4: not begun', result.stdout)

  def test_no_gpu(self):
    result = self.call('-m', 'benchmarks.gpu')
    self.assertEqual(result.returncode, 1)
    self.assertIn('JAX has no GPU here', result.stderr)


if __name__ == '__main__':
  absltest.main()
