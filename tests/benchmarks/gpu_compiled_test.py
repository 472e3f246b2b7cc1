"""What is read in a compiled program, and what may not be in it."""

import dataclasses
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

from benchmarks.communication import compiled_step
from benchmarks.gpu_compiled import __main__ as command
from benchmarks.gpu_compiled import devices, hlo, measures, programs, rules

ROOT = pathlib.Path(__file__).parents[2]
CASE = programs.Case('training', 'paper', 'float32', 1, 1, 'H100')

# Of a module's entry: 2 kernels, of which one writes two arrays.
SMALL = '''HloModule small, is_scheduled=true

%inner (p: f32[8]) -> f32[8] {
  ROOT %far = f32[800000]{0} negate(%p)
}

ENTRY %main (a: f32[2,3], b: bf16[4]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = bf16[4]{0} parameter(1)
  %both = (f32[2,3]{1,0}, s8[5]{0}) fusion(%a, %b), kind=kLoop, calls=%inner, \
metadata={op_name="jit(step)/one"}
  %first = f32[2,3]{1,0} get-tuple-element(%both), index=0
  ROOT %last = f32[2,3]{1,0} custom-call(%first), \
custom_call_target="__cublas$gemm", metadata={op_name="jit(step)/two"}
}
'''
_CONVOLUTION = (
    '  %conv.{n} = f32[1]{{0}} custom-call(), dim_labels=b01f_o01i->b01f,'
    '{group} '
    'custom_call_target="__cudnn$convForward"'
)
_GATHER = (
    '  %g = (f32[1,128,13,13,128]{4,3,2,1,0}, f32[2,128,13,13,128]{4,3,2,1,0}) '
    'all-gather-start(%x), replica_groups={{0,1}}, dimensions={0}, '
    'metadata={op_name="jit(step)/jvp(AlexNet)/conv3/all_gather"}'
)
_SCATTER = (
    '  %s = ((f32[2,128,500]{2,1,0}), f32[1,128,500]{2,1,0}) '
    'reduce-scatter-start(%x), replica_groups={{0,1}}, to_apply=%add, '
    'metadata={op_name="jit(step)/transpose(jvp(AlexNet))/reduce_scatter"}'
)
_REDUCE = (
    '  %r = f32[4096]{0} all-reduce-start(%x), replica_groups={{0,1}}, '
    'to_apply=%add'
)


def module(*lines):
  """A step that is as it should be, and further lines of its entry."""
  convolutions = [
      _CONVOLUTION.format(
          n=n, group=' feature_group_count=2,' if n < 9 else ''
      )
      for n in range(14)
  ]
  loss = (
      '  %loss = f32[128,1000]{1,0} scatter(%z, %i, %u), to_apply=%add, '
      'metadata={op_name="jit(step)/take_along_axis"}'
  )
  return '\n'.join([
      'HloModule step, input_output_alias={ {0}: (0, {}, may-alias) }', '',
      'ENTRY %main () -> f32[1] {', *convolutions, loss, *lines, '}',
  ])


def faults(*lines, case=CASE, lowered='', text=None):
  text = text or module(*lines)
  kernels = hlo.kernels(text)
  collectives = [one for one, _ in measures.sends(kernels, case.tower)]
  program = programs.Program(lowered, text, 0, 1, 4096)
  return rules.faults(case, program, kernels, collectives)


class KernelsTest(absltest.TestCase):

  def test_bytes_by_hand(self):
    first, second = hlo.kernels(SMALL)
    # Reads 6 floats and 4 halves, writes 6 floats and 5 bytes.
    self.assertEqual(first.size, 24 + 8 + 24 + 5)
    self.assertEqual((first.target, first.where), ('kLoop', 'jit(step)/one'))
    self.assertEqual(second.size, 24 + 24)
    self.assertEqual(second.target, '__cublas$gemm')

  def test_collectives_that_start(self):
    """Of a gather and a reduce-scatter the result counts, not the operand."""
    text = module(_GATHER, _CONVOLUTION.format(n=20, group=''), _SCATTER)
    (gather, after), (scatter, last) = measures.sends(hlo.kernels(text), 2)
    self.assertEqual((gather.layer, gather.shapes), (
        'conv3', ((2, 128, 13, 13, 128),)
    ))
    self.assertEqual(gather.size, 4 * 2 * 128 * 13 * 13 * 128)
    self.assertEqual(scatter.size, 2 * 4 * 128 * 500)
    self.assertEqual((after, last), (1, 0))

  def test_sums_that_start(self):
    """In newer releases the operand comes first there, too."""
    newer = _REDUCE.replace('f32[4096]{0}', '(f32[4096]{0}, f32[4096]{0})')
    for line in _REDUCE, newer:
      x = '  %x = f32[4096]{0} negate(%y)'
      _, kernel = hlo.kernels(f'\nENTRY %main () -> f32[1] {{\n{x}\n{line}')
      self.assertEqual(kernel.size, 2 * 4 * 4096)
      (reduce,) = compiled_step.read_collectives(line, 1)
      self.assertEqual((reduce.size, reduce.axis), (4 * 4096, 'data'))

  def test_without_start(self):
    line = _GATHER.replace('all-gather-start', 'all-gather').replace(
        '(f32[1,128,13,13,128]{4,3,2,1,0}, ', '('
    )
    (gather,) = compiled_step.read_collectives(line, 2)
    self.assertEqual(gather.size, 4 * 2 * 128 * 13 * 13 * 128)


class RulesTest(parameterized.TestCase):

  def test_nothing_wrong(self):
    self.assertEqual(faults(), [])

  @parameterized.named_parameters(
      ('callback', '  %c = f32[1]{0} custom-call(), '
       'custom_call_target="xla_ffi_python_gpu_callback"', 'no library'),
      ('onednn', '  %c = f32[1]{0} custom-call(), '
       'custom_call_target="__onednn$matmul"', 'no library'),
      ('host', '  %o = token[] outfeed(%x, %t)', 'waits for the host'),
      ('float64', '  %d = f64[3]{0} negate(%x)', 'float64'),
      ('scatter', '  %s = f32[128,55,55,96]{3,2,1,0} scatter(%z, %i, %u), '
       'metadata={op_name="jit(step)/pool"}', 'scatter to f32.128,55.*pool'),
      ('window', '  %s = f32[128,55,55,96]{3,2,1,0} select-and-scatter(%z, %u)',
       'select-and-scatter'),
      ('convolution', '  %c = f32[1]{0} convolution(%a, %b), '
       'dim_labels=b01f_o01i->b01f', 'not by cuDNN'),
      ('order', _CONVOLUTION.format(n=20, group='').replace(
          'b01f_o01i->b01f', 'bf01_oi01->bf01'), 'bf01_oi01'),
      ('too many', _CONVOLUTION.format(n=20, group=''), '15 convolutions'),
      ('bytes', '  %b = f32[2000000000]{0} negate(%x)', 'MiB, expected'),
  )
  def test_planted(self, line, message):
    self.assertRegex('\n'.join(faults(line)), message)

  def test_what_towers_send(self):
    case = dataclasses.replace(CASE, tower=2)
    text = module(_GATHER, _GATHER, _SCATTER)
    text = text.replace('feature_group_count=2,', '')
    self.assertCountEqual(faults(case=case, text=text), [
        '2 x all-gather of conv3, expected 1',
        *(f'0 x all-gather of {layer}, expected 1'
          for layer in ('fc6', 'fc7', 'fc8', 'logits')),
        *(f'0 x reduce-scatter of {layer}, expected 1'
          for layer in ('conv3', 'fc6', 'fc7', 'fc8')),
    ])

  def test_a_form_of_cpus(self):
    (fault,) = faults(lowered='stablehlo.custom_call @LayoutConstraint(%0)')
    self.assertIn('form for CPUs', fault)

  def test_a_state_that_is_copied(self):
    text = module().replace('{0}: (0, {}, may-alias)', '')
    (fault,) = faults(text=text)
    self.assertIn('0 arrays are donated, expected the 1', fault)

  def test_groups_that_are_split(self):
    (fault,) = faults(text=module().replace('feature_group_count=2,', ''))
    self.assertIn('0 convolutions are of two groups, expected 9', fault)

  def test_gradients_are_summed_once(self):
    case = dataclasses.replace(CASE, data=2)
    # 4,096 bytes of parameters.
    self.assertEqual(faults(_REDUCE.replace('4096', '1024'), case=case), [])
    for lines in (), (_REDUCE,):
      (fault,) = faults(*lines, case=case)
      self.assertRegex(fault, 'bytes are sent between replicas, expected 4,096')

  def test_predictions_go_to_every_device(self):
    case = dataclasses.replace(CASE, program='prediction', data=2)
    sent = lambda *lines: [
        fault for fault in faults(*lines, case=case) if 'sent' in fault
    ]
    results = (
        '  %p = (f32[128,1000]{1,0}, f32[256,1000]{1,0}) all-gather-start(%x), '
        'replica_groups={{0,1}}, dimensions={0}'
    )
    self.assertEmpty(sent(results))
    for lines in (), (results, results):
      (fault,) = sent(*lines)
      self.assertIn('sent between replicas, expected 1,024,000', fault)


class CommandTest(absltest.TestCase):

  def test_environment(self):
    folder = pathlib.Path('/compiler')
    found = command.environment(folder)
    self.assertEqual(found['JAX_PLATFORMS'], 'cpu')
    self.assertTrue(found['PYTHONPATH'].startswith('/compiler'))
    self.assertIn(
        '--xla_gpu_cuda_data_dir=/compiler/nvidia/cuda_nvcc',
        found['XLA_FLAGS'],
    )

  def test_names_agree(self):
    """The command does not import JAX, which the worker does."""
    self.assertEqual(command.CHOICES['programs'], programs.PROGRAMS)
    self.assertEqual(command.CHOICES['recipes'], tuple(programs.RECIPES))
    self.assertEqual(command.CHOICES['dtypes'], programs.DTYPES)
    self.assertEqual(command.CHOICES['devices'], devices.NAMES)

  def test_row(self):
    result = {
        'name': 'one', 'kernels': 3, 'bytes': 5 * 2**20, 'temporaries': 2**20,
        'collectives': [
            {'bytes': 2**20, 'axis': 'data', 'convolutions_after': 2},
            {'bytes': 2**20, 'axis': 'data', 'convolutions_after': 0},
            {'bytes': 2**20, 'axis': 'tower', 'convolutions_after': 1},
        ],
    }
    self.assertEqual(
        command.row(result, None), ('one', '3', '5', '1', '3', '1')
    )
    both = command.row(result, {**result, 'kernels': 9})
    self.assertEqual(both[1:3], ('9 to 3', '5 to 5'))

  def test_an_unknown_device(self):
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.gpu_compiled', '--devices=K20'],
        cwd=ROOT, capture_output=True, text=True,
    )
    self.assertEqual(done.returncode, 1)
    self.assertIn('K20: expected some of H100, A100', done.stderr + done.stdout)


if __name__ == '__main__':
  absltest.main()
