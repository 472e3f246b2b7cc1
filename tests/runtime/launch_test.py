"""Starting several processes: flags, their mistakes, and the examples."""

import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import yaml
from absl.testing import absltest, flagsaver, parameterized

from alexnet.config.errors import ConfigError
from alexnet.runtime import distributed, multihost
from alexnet.runtime import mesh as mesh_lib
from input_pipeline import cli
from tests import commands, testing

ROOT = pathlib.Path(__file__).parents[2]


def flags_of_main():
  """Names of all flags that main.py knows."""
  output = commands.run('main.py', '--helpfull').stdout
  return set(re.findall(r'^  --(?:\[no\])?(\w+):', output, re.MULTILINE))


class FlagsTest(parameterized.TestCase):

  def enter(self, **values):
    with (
        flagsaver.flagsaver(**values),
        mock.patch.object(jax.distributed, 'initialize') as initialize,
        mock.patch.object(jax.distributed, 'shutdown') as shutdown,
        mock.patch.object(jax.config, 'update'),
        distributed.session(),
    ):
      self.assertFalse(shutdown.called)
    self.assertEqual(shutdown.called, initialize.called)
    return initialize.call_args

  def test_one_process_does_nothing(self):
    self.assertIsNone(self.enter())

  def test_jax_finds_the_others(self):
    call = self.enter(distributed=True, peer_timeout=7, start_timeout=8)
    self.assertEqual(
        call.kwargs,
        {'initialization_timeout': 8, 'heartbeat_timeout_seconds': 7},
    )

  @parameterized.parameters(True, False)
  def test_named(self, also):
    call = self.enter(
        distributed=also, coordinator='[::1]:80', num_processes=3, process_id=2
    )
    self.assertEqual(call.kwargs['coordinator_address'], '[::1]:80')
    self.assertEqual(call.kwargs['num_processes'], 3)
    self.assertEqual(call.kwargs['process_id'], 2)
    self.assertEqual(call.kwargs['cluster_detection_method'], 'deactivate')

  @parameterized.parameters(
      (dict(coordinator='a:1'), 'without --num_processes and --process_id'),
      (dict(process_id=0, distributed=True), 'without --coordinator and --num'),
      (
          dict(coordinator='a', num_processes=2, process_id=0),
          'coordinator is a: expected HOST:PORT',
      ),
      (
          dict(coordinator='a:0', num_processes=2, process_id=0),
          'coordinator is a:0: expected',
      ),
      (
          dict(coordinator='a:1', num_processes=2, process_id=2),
          'process_id is 2 and --num_processes is 2: expected .* 0 to 1',
      ),
  )
  def test_refused(self, values, message):
    with self.assertRaisesRegex(ConfigError, message):
      self.enter(**values)

  def main(self, *arguments):
    return commands.run(
        'main.py', '--config=tests/tiny.py', '--workdir=/nowhere/run',
        *arguments,
    )

  def test_nothing_is_found(self):
    hidden = ('SLURM', 'OMPI', 'KUBERNETES', 'TPU', 'JAX_COORD')
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(hidden)
    }
    with mock.patch.dict(os.environ, environment, clear=True):
      result = self.main('--distributed')
    self.assertEqual(result.returncode, 1)
    self.assertRegex(
        result.stderr,
        'error: --distributed, but JAX finds no environment .* elsewhere set '
        '--coordinator=HOST:PORT, --num_processes and --process_id',
    )
    self.assertNotIn('Traceback', result.stderr)

  def test_nobody_answers(self):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))  # Nobody listens there.
      address = f'127.0.0.1:{free.getsockname()[1]}'
      result = self.main(
          f'--coordinator={address}', '--num_processes=2', '--process_id=1',
          '--start_timeout=1',
      )
    self.assertEqual(result.returncode, distributed.LOST)
    self.assertRegex(
        result.stderr.strip().splitlines()[-1],
        f'^error: no connection to process 0 at {address} within 1 s',
    )

  def test_the_port_is_taken(self):
    with socket.socket(socket.AF_INET6) as other:
      other.bind(('::', 0))
      other.listen()
      result = self.main(
          f'--coordinator=localhost:{other.getsockname()[1]}',
          '--num_processes=1', '--process_id=0',
      )
    self.assertEqual(result.returncode, 1)
    self.assertRegex(
        result.stderr,
        'error: cannot listen at the port of --coordinator=localhost:.*in use',
    )


class MeshTest(parameterized.TestCase):

  def make(self, own, data=None, tower=None, platform='cpu', batch=8):
    """The processes of a mesh's devices, for processes with `own` devices."""
    config = testing.narrow_config()
    config.batch_size = config.evaluation_batch_size = batch
    config.mesh.data, config.mesh.tower = data, tower
    devices = [
        mock.Mock(
            process_index=process,
            id=100 * process + index,
            platform=platform,
            device_kind='x',
        )
        for process, count in enumerate(own)
        for index in range(count)
    ]
    with (
        mock.patch.object(multihost, 'place', return_value=(0, len(own))),
        mock.patch.object(jax, 'devices', return_value=devices),
        mock.patch.object(mesh_lib, 'Mesh') as mesh,
    ):
      mesh_lib.create_mesh(config)
    (grid, _), _ = mesh.call_args
    return np.vectorize(lambda device: device.process_index)(grid).tolist()

  @parameterized.parameters(
      ((1, 1), dict(), [[0], [1]]),
      ((4, 4), dict(), [[0], [1]]),  # CPU devices are no reason to use them.
      ((4, 4), dict(data=2, tower=2), [[0, 0], [1, 1]]),
      ((4, 4), dict(data=4, tower=2), [[0, 0], [0, 0], [1, 1], [1, 1]]),
      ((1, 1), dict(platform='gpu'), [[0], [1]]),
      ((2, 2), dict(platform='gpu'), [[0, 0], [1, 1]]),
      ((4, 4), dict(platform='gpu', batch=6), [[0, 0], [1, 1]]),
      ((3, 3, 3), dict(platform='gpu', batch=6), [[0, 0], [1, 1], [2, 2]]),
      ((3, 4), dict(data=6, tower=1, batch=6), [[0]] * 3 + [[1]] * 3),
  )
  def test_towers_stay_in_a_process(self, own, fields, expected):
    self.assertEqual(self.make(own, **fields), expected)

  @parameterized.parameters(
      (
          (1, 1), dict(data=1, tower=2),
          r'\(data=1, tower=2\) cannot be shared by 2 processes: .*multiple of',
      ),
      (
          (1, 1), dict(data=2, tower=2),
          'needs 2 devices in each of 2 processes, found 1 .*in process 0: '
          'start one process on each host',
      ),
      ((4, 3), dict(data=8, tower=1), 'found 3 .*in process 1'),
      ((1, 1), dict(batch=7), 'batch_size 7 cannot be divided'),
  )
  def test_refused(self, own, fields, message):
    with self.assertRaisesRegex(ConfigError, message):
      self.make(own, **fields)


class ProcessesTest(absltest.TestCase):

  def test_alone(self):
    self.assertEqual(multihost.place(), (0, 1))
    self.assertTrue(multihost.is_first())
    self.assertEqual(multihost.of_first({'a': 0.1}), {'a': 0.1})
    with multihost.first_before_others('here'):
      multihost.wait_for_all('there')


class LocalTest(parameterized.TestCase):
  """Of processes that only sleep, in place of main.py."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def start(self, body, count=3, before=''):
    """Runs the launcher; before: code that changes it."""
    script = self.root / 'main.py'
    script.write_text(
        'import os, signal, sys, time\n'
        # A line in one piece, in an unbuffered Python too: they share a pipe.
        'say = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n")'
        '.encode())\n'
        'flags = dict(f[2:].split("=") for f in sys.argv[1:])\n'
        'process = int(flags["process_id"])\n' + body
    )
    code = (
        'import pathlib; from absl import app; from launch import local; '
        f'local._MAIN = pathlib.Path({str(script)!r})\n'
        f'{before}\napp.run(local.main)'
    )
    return subprocess.Popen(
        [sys.executable, '-c', code, f'--processes={count}', '--', '--own=1'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )

  def test_status_of_the_first_to_fail(self):
    process = self.start(
        'time.sleep(process)\nsys.exit([0, 76, 1][process])\n'
    )
    process.communicate()
    self.assertEqual(process.returncode, 76)

  def test_killed(self):
    process = self.start(
        'if process == 1: os.kill(os.getpid(), 9)\n'
    )
    process.communicate()
    self.assertEqual(process.returncode, 128 + 9)

  @parameterized.parameters('SIGTERM', 'SIGUSR1', 'SIGALRM', 'SIGPWR', 'SIGIO')
  def test_signals_and_flags(self, name):
    process = self.start(
        f'signal.signal(signal.{name}, lambda *_: (\n'
        '    say("signal", process), sys.exit(0)))\n'
        'say("flags", sorted(flags.items()))\n'
        'time.sleep(60)\n',
        count=2,
    )
    lines = [process.stdout.readline() for _ in range(2)]
    process.send_signal(getattr(signal, name))
    lines += process.communicate()[0].splitlines()
    self.assertEqual(process.returncode, 0)
    self.assertIn('signal 0', lines)
    self.assertIn('signal 1', lines)
    self.assertRegex(lines[0], r"'coordinator', '127.0.0.1:\d+'")
    self.assertRegex(lines[0], r"'num_processes', '2'.*'own', '1'")

  def test_a_signal_for_one_that_has_just_ended(self):
    """Its status is still to be had."""
    process = self.start(
        'sys.exit(3)\n',
        count=1,
        before=(
            'import os, signal\n'
            'def wait(wait=os.wait):\n'
            '  os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)\n'
            '  os.kill(os.getpid(), signal.SIGTERM)\n'
            '  return wait()\n'
            'os.wait = wait'
        ),
    )
    process.communicate()
    self.assertEqual(process.returncode, 3)

  def test_a_signal_while_they_are_started(self):
    """It reaches all of them, and none is left behind."""
    process = self.start(
        'time.sleep(5)\nsay("left")\n',
        before=(
            'import os, signal\n'
            'class Popen(local.subprocess.Popen):\n'
            '  def __init__(self, command, **options):\n'
            '    super().__init__(command, **options)\n'
            '    if "--process_id=1" in command:\n'
            '      os.kill(os.getpid(), signal.SIGTERM)\n'
            'local.subprocess.Popen = Popen'
        ),
    )
    output, _ = process.communicate()
    self.assertEqual(output, '')
    self.assertEqual(process.returncode, 128 + signal.SIGTERM)


class ExamplesTest(absltest.TestCase):
  """That the files can be read, and that the flags in them exist."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.known = flags_of_main()

  def check_flags(self, words):
    names = {
        word[2:].split('=')[0] for word in words if word.startswith('--')
    }
    self.assertIn('workdir', self.known)
    self.assertLessEqual(names, self.known)
    return names

  def test_slurm(self):
    path = ROOT / 'launch' / 'slurm.sh'
    subprocess.run(['bash', '-n', path], check=True)
    text = path.read_text().replace('\\\n', ' ')
    (command,) = re.findall(r'main\.py (.*)', text)[-1:]
    names = self.check_flags(shlex.split(command))
    self.assertIn('distributed', names)
    self.assertIn(f'"$status" -eq {distributed.LOST}', text)
    usage = re.findall(r'launch/slurm\.sh \\\n#\s+(.*)', path.read_text())
    self.check_flags(usage[0].split())

  def test_kubernetes(self):
    text = (ROOT / 'launch' / 'kubernetes.yaml').read_text()
    service, job = yaml.safe_load_all(text)
    self.assertEqual((service['kind'], job['kind']), ('Service', 'Job'))
    spec = job['spec']
    pod = spec['template']['spec']
    name = job['metadata']['name']
    self.assertEqual(service['spec']['clusterIP'], 'None')
    self.assertEqual(service['spec']['selector'], {'job-name': name})
    self.assertEqual(pod['subdomain'], service['metadata']['name'])
    *_, command = pod['containers'][0]['command']
    words = shlex.split(command)
    names = self.check_flags(words)
    self.assertLessEqual({'coordinator', 'num_processes', 'process_id'}, names)
    given = dict(word[2:].split('=') for word in words if '=' in word)
    self.assertEqual(
        given['coordinator'].split(':')[0],
        f'{name}-0.{service["metadata"]["name"]}',
    )
    count = int(given['num_processes'])
    self.assertEqual(spec['completions'], count)
    self.assertEqual(spec['parallelism'], count)
    self.assertEqual(spec['completionMode'], 'Indexed')
    # Kubernetes refuses the policy with any other one.
    self.assertEqual(pod['restartPolicy'], 'Never')
    rule = spec['podFailurePolicy']['rules'][0]
    self.assertEqual(rule['action'], 'Ignore')
    self.assertEqual(
        rule['onExitCodes'],
        {'containerName': pod['containers'][0]['name'], 'operator': 'In',
         'values': [cli.STOPPED, distributed.LOST]},
    )
    mounts = {mount['name'] for mount in pod['containers'][0]['volumeMounts']}
    self.assertEqual(mounts, {volume['name'] for volume in pod['volumes']})


if __name__ == '__main__':
  absltest.main()
