"""That the step's benchmark runs, and compares one and the same network.

What it measures is not tested.
"""

import dataclasses
import importlib.util
import json
import pathlib
import sys
import types
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from benchmarks import train_step
from benchmarks.step import network, report
from tests import commands

ROOT = pathlib.Path(__file__).parents[2]
TINY = network.Case(batch_size=2, width=0.0625, classes=10)
PLAN = dict(rounds=2, steps=1, seconds=0.0)


def alone(**competitors):
  return {name: (sys.executable, c) for name, c in competitors.items()}


def one_form(name):
  """The competitor in its first form only: a process less."""
  competitor = train_step.COMPETITORS[name]
  return dataclasses.replace(competitor, variants=competitor.variants[:1])


class NetworkTest(absltest.TestCase):

  def test_is_the_papers(self):
    case = network.Case(batch_size=1)
    shapes = network.kernel_shapes(case).values()
    count = sum(int(np.prod(shape)) + shape[-1] for shape in shapes)
    self.assertEqual(count, 60_965_224)
    # Multiply-adds an image, in millions.
    counts = [round(n / 1e6, 1) for n in network.multiply_adds(case).values()]
    self.assertEqual(
        counts, [105.4, 223.9, 149.5, 112.1, 74.8, 37.7, 16.8, 4.1]
    )
    forward = dataclasses.replace(case, mode='inference')
    self.assertAlmostEqual(network.operations(forward) / 2e6, 724.4, 1)
    # Three times that, without the gradient of the images.
    self.assertAlmostEqual(network.operations(case) / 2e6, 2067.8, 1)

  def test_layers_are_those_of_the_network(self):
    layers = network.layers(network.Case(batch_size=1))
    self.assertEqual(
        list(layers),
        ['conv1', 'lrn1', 'pool1', 'conv2', 'lrn2', 'spatial_norm2', 'pool2',
         'conv3', 'conv4', 'conv5', 'pool5', 'fc6', 'fc7', 'fc8'],
    )
    self.assertEqual(layers['pool1'].input_shape, (1, 55, 55, 96))
    self.assertEqual(layers['conv4'].input_shape, (1, 13, 13, 384))
    self.assertEqual(layers['conv4'].kernel_shape, (3, 3, 192, 384))

  def test_band(self):
    """Channel 3 is in the other tower than channel 4 of eight."""
    band = network.band(8)
    self.assertEqual(band[3].tolist(), [0, 1, 1, 1, 0, 0, 0, 0])
    self.assertEqual(network.band(8, towers=1)[3].sum(), 5)


class CheckTest(parameterized.TestCase):

  @parameterized.parameters('tensorflow', 'pytorch')
  @pytest.mark.full
  def test_peers_are_the_same_network(self, name):
    """In each of their forms."""
    package = {'pytorch': 'torch'}.get(name, name)
    if importlib.util.find_spec(package) is None:
      self.skipTest(f'no {package}: pip install -r requirements-bench.txt')
    competitor = train_step.COMPETITORS[name]
    forms = tuple(v for v in competitor.variants if v != 'xla')
    self.check(dataclasses.replace(competitor, variants=forms))

  def test_tensorflow_is_the_same_network(self):
    self.check(one_form('tensorflow'))

  def check(self, peer):
    case = dataclasses.replace(TINY, dropout=0.0, rate=1e-4)
    said = []
    left_out = train_step.check(
        alone(ours=train_step.COMPETITORS['ours'], peer=peer), case,
        said.append,
    )
    self.assertEqual(left_out, {}, said)
    self.assertLen(said, 1 + len(peer.variants))

  def test_another_network_is_found_out(self):
    """A loss, a parameter, something that is not a number."""
    initial = {'fc8': {'kernel': np.zeros((2, 2))}}
    ours = {'losses': np.ones(2), 'fc8/kernel': np.ones((2, 2))}
    worst, _ = train_step.difference(ours, ours, initial)
    self.assertEqual(worst, 0)
    loss = {**ours, 'losses': np.array([1.0, 1.001])}
    self.assertEqual(train_step.difference(ours, loss, initial)[1], 'loss')
    for value in (1.01, np.nan):
      other = {**ours, 'fc8/kernel': np.full((2, 2), value)}
      worst, place = train_step.difference(ours, other, initial)
      self.assertFalse(worst <= 1)
      self.assertEqual(place, 'fc8/kernel')


class MeasureTest(absltest.TestCase):

  def test_missing_and_failing_peers_are_left_out(self):
    """The rest goes on."""
    said = []
    case = train_step.measure_case(
        dataclasses.replace(TINY, mode='inference'),
        alone(
            absent=train_step.Competitor('step_of_nobody'),
            broken=train_step.Competitor('ours', {'nonsense': 1}),
            ours=train_step.COMPETITORS['ours'],
        ),
        {**PLAN, 'say': said.append},
    )
    self.assertCountEqual(case['competitors'], ['ours'])
    self.assertCountEqual(case['left_out'], ['absent', 'broken'])
    self.assertIn('requirements-bench.txt', case['left_out']['absent'])
    self.assertIn('nonsense', case['left_out']['broken'])
    for reason in case['left_out'].values():
      self.assertIn(reason, '\n'.join(said))
    ours = case['competitors']['ours']
    self.assertGreater(ours['peak_memory'], 1e7)
    self.assertEqual(ours['ours_to_it']['median'], 1)
    self.assertGreater(ours['ceiling_share']['median'], 0)

  def test_layers(self):
    competitors = {n: one_form(n) for n in ('ours', 'tensorflow')}
    plan = {**PLAN, 'rounds': 1, 'say': lambda line: None}
    case = dataclasses.replace(TINY, mode='layers')
    layers = train_step.measure_layers(case, alone(**competitors), plan)
    parts = [
        f'{name} {part}'
        for name, layer in network.layers(TINY).items()
        for part in layer.parts()
    ]
    self.assertEqual(list(layers), parts)
    self.assertLen(parts, 2 + 6 * 2 + 7 * 3)
    for row in layers.values():
      self.assertCountEqual(row, ['ours', 'tensorflow'])
    self.assertIn('gigaflop_per_core_second', layers['conv2 forward']['ours'])


class CommandTest(absltest.TestCase):

  def test_command(self):
    """Keys of the JSON file, and the table between README's markers."""
    directory = pathlib.Path(self.create_tempdir().full_path)
    readme, file = directory / 'README.md', directory / 'results.json'
    text = f'before\n{report.BEGIN}\nold\n{report.END}\nafter\n'
    readme.write_text(text)
    command = [
        '-m', 'benchmarks.train_step', '--nocheck', '--modes=inference',
        '--dtypes=float32', '--batch_sizes=2', '--width=0.0625',
        '--classes=10', '--rounds=1', '--steps=1', '--seconds=0',
        '--frameworks=ours', '--towers', f'--json={file}',
        f'--tables={readme}', f'--python={sys.executable}',
    ]
    result = commands.run(*command)
    self.assertEqual(result.returncode, 0, result.stderr)
    results = json.loads(file.read_text())
    self.assertCountEqual(
        results,
        ['median_images_per_second', 'ceiling_share', 'machine', 'rounds',
         'seconds_a_turn', 'ceilings', 'cases'],
    )
    names = ['ours', 'ours_two_devices']
    self.assertCountEqual(results['median_images_per_second'], names)
    self.assertGreater(results['ceilings']['float32']['xla'], 0)
    self.assertEqual([case['batch_size'] for case in results['cases']], [2])
    for case in results['cases']:
      self.assertCountEqual(case['competitors'], names)
    before, after = report.split_at_markers(readme)
    self.assertEqual((before, after), ('before\n', '\nafter\n'))
    self.assertNotIn('old', readme.read_text())
    self.assertIn('inference, float32, batch 2', readme.read_text())

  def test_a_case_for_each(self):
    """Of all modes, types and batches, in this order; counted, not measured."""
    values = types.SimpleNamespace(
        modes=['training', 'inference'], dtypes=['float32', 'bfloat16'],
        batch_sizes=['1', '32'], width=0.5, classes=7, rounds=3, seconds=2.0,
        layers=False,
    )
    name = lambda case, runs, plan: (case.mode, case.dtype, case.batch_size)
    with (
        mock.patch.object(train_step, 'measure_case', name),
        mock.patch.object(train_step, 'measure_ceilings'),
        mock.patch.object(report, 'headline', return_value={}),
        mock.patch.object(report, 'table'),
    ):
      results, _ = train_step._measure_all(values, {}, {})
    self.assertEqual(results['cases'], [
        (mode, dtype, batch_size) for mode in values.modes
        for dtype in values.dtypes for batch_size in (1, 32)
    ])

  def test_wrong_flags(self):
    for flag, message in (
        ('--modes=trainig', 'trainig'),
        ('--batch_sizes=0', 'numbers from 1'),
        (f'--tables={ROOT / "Makefile"}', report.BEGIN),
    ):
      result = commands.run('-m', 'benchmarks.train_step', flag)
      self.assertNotEqual(result.returncode, 0)
      self.assertIn(message, result.stdout + result.stderr)


if __name__ == '__main__':
  absltest.main()
