"""The table of a folder of definitions: what runs, is refused, or fails."""

import contextlib
import io
import pathlib
import subprocess
import types

from absl.testing import absltest, parameterized

from benchmarks import definitions
from tests import commands
from tests import definitions as texts

_TRACEBACK = '''loss 3
Traceback (most recent call last):
  File "main.py", line 1, in <module>
ValueError: jax.lax.psum can only
'''


class OutcomeTest(parameterized.TestCase):

  @parameterized.parameters(
      (0, 'model    cuda_convnet, 1,234 parameters, 2 tower(s), float32\n',
       'runs', '1,234 parameters, towers: 2'),
      (1, 'model\n\nerror: layers:3: [a] is not\n', 'refused',
       'layers:3: [a] is not'),
      (1, _TRACEBACK, 'FAILS', 'ValueError: jax.lax.psum can only'),
      (0, _TRACEBACK, 'FAILS', 'ValueError: jax.lax.psum can only'),
      (1, '', 'FAILS', 'status 1: no output'),
      (-9, 'error: x\nloss 3\n', 'FAILS', 'status -9: loss 3'),
      (75, 'stopped\n', 'FAILS', 'status 75: stopped'),
      (None, 'loss 3\n', 'FAILS', 'status None: loss 3'),
  )
  def test_of_a_command(self, status, text, kind, note):
    self.assertEqual(definitions.outcome(status, text), (kind, note))


def forked(command, **options):
  """What `subprocess.run` returns, of a process that need import nothing."""
  del options  # The folder is the same, and the output that of a pipe.
  done = commands.run(*command[1:])
  done.stdout += done.stderr
  return done


class FolderTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def write(self, name, sections, parameters=None):
    for kind, one, of_kind in zip(
        ('layers', 'layer-params'), sections, (name, parameters or name)
    ):
      path = self.folder / f'{kind}-{of_kind}.cfg'
      path.write_text(texts.text(one))

  def run_command(self, *, only=None, override=(), output=None):
    out, err = io.StringIO(), io.StringIO()
    values = types.SimpleNamespace(
        folder=self.folder, only=only, work=None,
        output=output or self.folder / 'table.md', override=[
            f'--config.dataset.size={texts.SHAPES_SIDE + 4}',
            f'--config.augmentation.crop_size={texts.SHAPES_SIDE}',
            '--config.augmentation.crop_offsets=5',
            '--config.layer_statistics_images=0', '--config.ten_views=False',
            *override,
        ],
    )
    with (
        absltest.mock.patch.object(subprocess, 'run', forked),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
    ):
      status = definitions.main(values)
    return status, out.getvalue(), err.getvalue()

  def test_an_output_that_cannot_be_written(self):
    """Is told of before hours of training."""
    self.write('126', texts.shape())
    with (
        absltest.mock.patch.object(definitions, 'run_all') as run_all,
        self.assertRaises(FileNotFoundError),
    ):
      self.run_command(output=self.folder / 'none' / 'table.md')
    run_all.assert_not_called()

  def test_table(self):
    """By the real command; #126 has another file's parameters."""
    self.write('126', texts.shape(), '126-2012-full')
    layers, params = texts.shape()
    layers['head']['initWFunc'] = 'initw.makew(fc)'
    self.write('135', (layers, params))
    layers, params = texts.shape()
    layers['head']['type'] = 'treefc'
    self.write('137-tree', (layers, params))
    status, table, _ = self.run_command()
    self.assertEqual(status, 0)
    rows = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in table.splitlines() if line.startswith('|')
    ]
    self.assertEqual([row[:3] for row in rows[2:]], [
        ['126', '126-2012-full', 'runs'],
        ['135', '135', 'runs'],
        ['137-tree', '137-tree', 'refused'],
    ])
    self.assertRegex(rows[2][4], r'^[\d,]+ parameters, towers: 2$')
    self.assertStartsWith(
        rows[3][4], 'with --config.ignore_init_functions=True; '
    )
    # Without the folder, which is another one on each machine.
    self.assertStartsWith(rows[4][4], 'layers-137-tree.cfg:')
    self.assertIn('3 definitions: 2 run (1 of them with', table)
    self.assertEqual((self.folder / 'table.md').read_text(), table)

  def test_a_failure_is_shown_and_told_by_the_status(self):
    self.write('120', texts.shape())
    # A flag that main.py does not have: neither an error of ours nor a run.
    status, table, error = self.run_command(override=['--no_such_flag=1'])
    self.assertEqual(status, 1)
    self.assertIn('| 120 | 120 | FAILS |', table)
    self.assertIn('no_such_flag', error)

  def test_what_the_user_forgets(self):
    status, _, error = self.run_command()
    self.assertEqual(status, 1)
    self.assertIn('has no layers-NAME.cfg', error)
    self.write('120', texts.shape())
    status, _, error = self.run_command(only=['12'])
    self.assertEqual(status, 1)
    self.assertRegex(error, '--only names 12, but .* has 120')


if __name__ == '__main__':
  absltest.main()
