"""How a run ends early, and what it says before it goes on otherwise."""

import json
import os
import re
import shlex
import signal
import threading

from absl.testing import absltest, parameterized

from alexnet.checkpointing import workdir
from tests import faulty


class SignalsTest(faulty.RunTestCase):

  def kill_at_three(self, name, **fields):
    kill = lambda: os.kill(os.getpid(), getattr(signal, name))
    return self.open(
        console=faulty.AtSteps(self.said, {3: kill}),
        checkpoint_every='never', **fields,
    )

  def set_handler(self, name, handler):
    number = getattr(signal, name)
    self.addCleanup(signal.signal, number, signal.signal(number, handler))

  @parameterized.parameters(
      'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU', 'SIGALRM',
      'SIGVTALRM', 'SIGPWR', 'SIGIO',
  )
  def test_is_saved(self, name):
    self.set_handler(name, signal.SIG_DFL)
    self.assertIsNone(self.kill_at_three(name).train())
    self.assertRegex(
        self.said.getvalue(), rf'stopped by {name}; saved step [34] of 8 '
    )
    self.assertIn(self.open().progress.step, (3, 4))
    self.assertIs(signal.getsignal(getattr(signal, name)), signal.SIG_DFL)

  def test_ignored(self):
    """As SIGHUP is under nohup."""
    self.set_handler('SIGHUP', signal.SIG_IGN)
    self.assertEqual(self.kill_at_three('SIGHUP').train()['step'], 8)

  def test_taken_by_somebody_else(self):
    got = []
    self.set_handler('SIGUSR2', lambda *_: got.append(1))
    self.assertEqual(self.kill_at_three('SIGUSR2').train()['step'], 8)
    self.assertEqual(got, [1])

  def test_in_another_thread(self):
    before = signal.getsignal(signal.SIGTERM)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(self.open().train())
    )
    thread.start()
    thread.join()
    self.assertEqual(results[0]['step'], 8)
    self.assertIs(signal.getsignal(signal.SIGTERM), before)


class OtherwiseTest(faulty.RunTestCase):

  def warnings(self):
    return re.findall('warning: .*', self.said.getvalue())

  def test_a_longer_geometric_schedule(self):
    fields = dict(
        schedule__name='geometric', schedule__learning_rate=0.0004,
        schedule__geometric__factors=(1.0, 0.5, 0.25, 0.125),
    )
    self.open(duration='4 steps', **fields).train()
    self.assertEqual(self.warnings(), [])
    self.open(**fields).train()
    # Four stages of one step, and of two.
    (warning,) = self.warnings()
    self.assertIn('duration was 4 steps, is 8 steps', warning)
    self.assertIn(
        'at step 4 the learning rate was 5e-05, is 0.0002 (fc8/kernel)', warning
    )
    # What it advises instead.
    advised = dict(
        word.removeprefix('--config.').split('=')
        for word in shlex.split(warning) if word.startswith('--config.')
    )
    self.assertEqual(advised.pop('schedule.learning_rate'), '5e-05')
    run = self.open(
        self.root / 'other', duration='1 steps', schedule__learning_rate=5e-5,
        **{name.replace('.', '__'): text for name, text in advised.items()},
    )
    self.assertEqual(run._displayed_rate(), 5e-5)
    self.assertEqual(run.progress.pretrained['workdir'], str(self.workdir))

  @parameterized.parameters('constant', 'steps')
  def test_a_schedule_that_stays(self, name):
    self.open(duration='2 steps', schedule__name=name).train()
    self.open(duration='4 steps', schedule__name=name).train()
    self.assertEqual(self.warnings(), [])

  @parameterized.parameters(
      ('jax_settings', {'jax_enable_x64': True},
       'jax_settings.jax_enable_x64 was True, is False'),
      ('xla_flags', ['--xla_cpu_enable_fast_math=true'],
       r"xla_flags was \['--xla_cpu_enable_fast_math=true'\], is \["),
  )
  def test_other_settings_of_jax(self, group, before, expected):
    self.open(duration='1 steps').train()
    path = self.workdir / workdir.ENVIRONMENT
    sessions = json.loads(path.read_text())
    last = sessions['sessions'][-1]
    last[group] = last[group] | before if group == 'jax_settings' else before
    path.write_text(json.dumps(sessions))
    self.open(duration='2 steps').close()
    (warning,) = self.warnings()
    self.assertRegex(warning, expected)
    # Of an older run, which does not tell of them.
    del last[group]
    path.write_text(json.dumps(sessions))
    self.open(duration='2 steps').close()
    self.assertLen(self.warnings(), 1)


if __name__ == '__main__':
  absltest.main()
