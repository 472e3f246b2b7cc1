"""Traces of runs, read as Perfetto reads them."""

import collections
import gzip
import io
import json
import os
import pathlib
import signal

import jax
from absl.testing import absltest, parameterized

from alexnet.config.errors import ConfigError
from alexnet.metrics import profiling, writer
from alexnet.metrics.console import Console
from alexnet.training import trainer
from tests import commands, faulty


def events(workdir: pathlib.Path):
  """{folder of a trace: its events that take time}."""
  found = {}
  for path in (workdir / 'tensorboard').rglob('*.trace.json.gz'):
    text = json.loads(gzip.decompress(path.read_bytes()))
    found[path.parent.name] = [
        event for event in text['traceEvents'] if event.get('ph') == 'X'
    ]
  return found


def steps(trace):
  """Numbers of the steps of a trace, in the order of time."""
  marked = [event for event in trace if event['name'] == profiling.NAME]
  return [
      int(event['args']['step_num'])
      for event in sorted(marked, key=lambda event: event['ts'])
  ]


class ProfilingTest(faulty.RunTestCase):

  def traced(self, first, stop, console=None, **fields):
    return trainer.create(
        self.config(**fields), self.workdir, console or Console(self.said),
        profile_steps=range(first, stop),
    )

  def numbers(self, workdir):
    """All records but what the clock says."""
    return [
        {k: v for k, v in record.items() if k != 'images_per_second'}
        for record in writer.read_records(workdir / writer.FILE)
    ]

  def test_the_flag(self):
    # Without the flag's message there is another one: no images are given.
    done = commands.run(
        'main.py', '--config=tests/tiny.py', f'--workdir={self.workdir}',
        '--profile_steps=5:2',
    )
    self.assertEqual(done.returncode, 1)
    self.assertRegex(
        done.stderr, "(?m)^error: --profile_steps is '5:2': expected"
    )

  def test_some_steps_and_no_other(self):
    run = self.traced(3, 6)
    run.train()
    traces = events(self.workdir)
    self.assertEqual([*traces], ['steps_3_to_6'])
    (trace,) = traces.values()
    self.assertEqual(steps(trace), [3, 4, 5])
    # The compiled step was called inside of what is marked, and nowhere else.
    marked = [event for event in trace if event['name'] == profiling.NAME]
    calls = [e for e in trace if e['name'] == 'PjitFunction(step)']
    inside = lambda e, m: m['ts'] <= e['ts'] <= m['ts'] + m['dur']
    for one in marked:
      self.assertTrue(any(inside(call, one) for call in calls))
    for call in calls:
      self.assertTrue(any(inside(call, one) for one in marked))
    # And each of its convolutions ran once a step.
    names = collections.Counter(
        e['name'] for e in trace if e['name'].startswith('conv_general_dilated')
    )
    self.assertEqual({*names.values()}, {3}, names)
    self.assertIn('the trace is in', self.said.getvalue())
    # Nothing else is another.
    other = self.undisturbed()
    self.assert_same_end(run, other)
    self.assertEqual(
        self.numbers(self.workdir), self.numbers(self.root / 'undisturbed')
    )

  def test_a_signal_comes_between(self):
    stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
    console = faulty.AtSteps(io.StringIO(), {4: stop})
    self.assertIsNone(self.traced(3, 7, console).train())
    (name, trace), = events(self.workdir).items()
    self.assertEqual(name, 'steps_3_to_7')
    before = steps(trace)
    self.assertEqual(before, [*range(3, 3 + len(before))])
    self.assertBetween(len(before), 1, 3)
    # Continued behind its first step: the rest.
    run = self.traced(3, 7)
    run.train()
    traces = events(self.workdir)
    rest = [trace for folder, trace in traces.items() if folder != name]
    self.assertEqual(before + steps(*rest), [3, 4, 5, 6])
    self.assert_same_end(run, self.undisturbed())

  def test_steps_that_the_run_does_not_make(self):
    with self.assertRaisesRegex(
        ConfigError, '--profile_steps is 6:9, but the run has 8 steps'
    ):
      self.traced(6, 9).train()
    self.open(duration='4 steps').train()
    self.traced(2, 4).train()
    self.assertIn('at step 4 already: nothing is traced', self.said.getvalue())
    self.assertEmpty(events(self.workdir))

  def test_a_trace_that_cannot_be_written(self):
    def fail():
      original()
      raise RuntimeError('no room')

    original = jax.profiler.stop_trace
    self.enter_context(
        absltest.mock.patch.object(jax.profiler, 'stop_trace', fail)
    )
    self.assertIsNotNone(self.traced(1, 2).train())
    self.assertIn('trace cannot be written (no room)', self.said.getvalue())


class ParseTest(parameterized.TestCase):

  def test_steps(self):
    self.assertEqual(profiling.parse('10:12'), range(10, 12))
    self.assertEmpty(profiling.parse(None))

  @parameterized.parameters('', '10', '3:3', '5:3', '-1:3', '1:2:3', 'a:b')
  def test_others(self, text):
    with self.assertRaisesRegex(ConfigError, f"is '{text}': expected two"):
      profiling.parse(text)


if __name__ == '__main__':
  absltest.main()
