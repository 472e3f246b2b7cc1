"""What the step sends, on a narrow network; and the prediction from it."""

import collections
import dataclasses
import functools

from absl.testing import absltest, parameterized

from alexnet.config.errors import ConfigError
from benchmarks import scaling
from benchmarks.communication import compiled_step, model
from tests import testing

REPLICA = 4
# One replica's images and half of the features of tests/testing.py: the inputs
# of conv3, fc6, fc7 and fc8, and half of the ten logits.
GATHERED = {
    'conv3': (REPLICA, 13, 13, 6),
    'fc6': (REPLICA, 6, 6, 6),
    'fc7': (REPLICA, 16),
    'fc8': (REPLICA, 16),
    'logits': (REPLICA, 5),
}
SIZES = {  # Of both towers: 2 * 4 bytes * values of one.
    'conv3': 32448, 'fc6': 6912, 'fc7': 512, 'fc8': 512, 'logits': 160,
}
# Of half of the output features: kernels, biases.
GRADIENTS = [
    (11, 11, 3, 4), (5, 5, 4, 6), (3, 3, 12, 8), (3, 3, 8, 8), (3, 3, 8, 6),
    (432, 16), (32, 16), (32, 5), (4,), (6,), (8,), (8,), (6,), (16,), (16,),
    (5,),
]
PARAMETERS = 23_154  # Of both towers.


@functools.cache
def report(data, tower, accumulation=1):
  config = testing.narrow_config('imagenet2012')
  config.model.num_classes = 10
  config.mesh.data, config.mesh.tower = data, tower
  config.batch_size = config.evaluation_batch_size = REPLICA * data
  config.accumulation = accumulation
  return compiled_step.compile_step(config)


def tower_traffic(report):
  return [
      (one.kind, one.layer, one.backward, one.shapes, one.size, one.devices)
      for one in report.collectives
      if one.axis == 'tower' and one.layer != 'loss'
  ]


def reduced_gradients(report):
  """Shapes that are summed over the data axis alone, without sides of one.

  With one tower XLA puts loss and top-1 into the same operation.
  """
  return sorted(
      tuple(side for side in shape if side > 1)
      for one in report.collectives
      if one.axis == 'data'
      for shape in one.shapes
      if shape
  )


class CollectivesTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  def test_between_towers(self, data):
    """Four gathers and that of the logits, their gradients, and no more."""
    gathers = [
        ('all-gather', layer, False, ((2, *shape),), SIZES[layer], 2)
        for layer, shape in GATHERED.items()
    ]
    scatters = [
        ('reduce-scatter', layer, True, ((1, *shape),), SIZES[layer], 2)
        for layer, shape in reversed(GATHERED.items())
    ]
    self.assertEqual(tower_traffic(report(data, 2)), gathers + scatters)

  def test_between_replicas(self):
    """Each gradient once: of all parameters, or of a tower's."""
    self.assertEqual(reduced_gradients(report(1, 2)), [])
    self.assertEqual(reduced_gradients(report(2, 2)), sorted(GRADIENTS))
    whole = [(*rest, 2 * last) for *rest, last in GRADIENTS]
    self.assertEqual(reduced_gradients(report(2, 1)), sorted(whole))
    for tower in (1, 2):
      size = sum(
          one.size for one in report(2, tower).collectives
          if one.axis.startswith('data')
      )
      self.assertEqual(size, 4 * PARAMETERS // tower + 8)  # Loss and top-1.
      self.assertEqual(size, report(2, tower).parameters + 8)

  @parameterized.parameters(
      (1, 2, {'tower': 12}), (2, 2, {'data+tower': 8, 'tower': 4})
  )
  def test_everything_else_is_the_loss(self, data, tower, sizes):
    """Loss and top-1 of all parts, and the gradient's norm over the towers."""
    known = [
        one for one in report(data, tower).collectives if one.layer == 'loss'
    ]
    by_axis = collections.Counter()
    for one in known:
      by_axis[one.axis] += one.size
    self.assertEqual(by_axis, sizes)
    others = [
        one.kind for one in report(data, tower).collectives
        if one.axis == 'data'
    ]
    self.assertEqual(set(others), {'all-reduce'} if data > 1 else set())
    self.assertLen(
        report(data, tower).collectives, 10 + len(known) + len(others)
    )

  def test_accumulation_reduces_gradients_once(self):
    """Not in its loop, where the text would have them twice, and run N - 1."""
    self.assertEqual(
        reduced_gradients(report(2, 2, accumulation=2)), sorted(GRADIENTS)
    )

  def test_one_device_sends_nothing(self):
    self.assertEqual(report(1, 1).collectives, ())

  def test_of_each_device(self):
    one, two, four = report(1, 1), report(1, 2), report(2, 2)
    self.assertEqual(one.parameters, 4 * PARAMETERS)
    self.assertEqual(two.parameters, 2 * PARAMETERS)
    # The images are 4 * 224 * 224 * 3 floats on each, the labels 4 integers.
    self.assertAlmostEqual(
        two.arguments, 4 * PARAMETERS + 4 * 4 * (150_528 + 1), delta=200
    )
    self.assertEqual(two.arguments, four.arguments)
    self.assertEqual(one.analytic_flops, 2 * two.analytic_flops)
    # The sums over replicas: of a parameter each, of the loss and top-1; and a
    # replica's numbers of its examples, for the keys of two dropouts: 8 sums,
    # and a dozen operations for the first of them.
    sums = four.flops - two.flops
    least = PARAMETERS / 2 + 2
    self.assertBetween(sums, least, least + 8 + 15)
    self.assertBetween(one.flops / one.analytic_flops, 0.7, 1.5)


class ReadCollectivesTest(parameterized.TestCase):
  """Lines of HLO as XLA writes them, of a mesh of 2 x 2."""

  @parameterized.parameters(
      ('{{0,1},{2,3}}', 'tower'),
      ('{{0,2},{1,3}}', 'data'),
      ('{{0,1,2,3}}', 'data+tower'),
      ('[2,2]<=[4]', 'tower'),
      ('[2,2]<=[2,2]T(1,0)', 'data'),
      ('[1,4]<=[4]', 'data+tower'),
  )
  def test_axis(self, groups, axis):
    line = (
        '  %a = f32[2,8]{1,0} all-gather(%x), channel_id=1, replica_groups='
        f'{groups}, dimensions={{0}}, use_global_device_ids=true, '
        'metadata={op_name="jit(step)/jvp(AlexNet)/conv3/all_gather"}'
    )
    (one,) = compiled_step.read_collectives(line, 2)
    self.assertEqual((one.axis, one.layer, one.size), (axis, 'conv3', 64))

  def test_tuple(self):
    line = (
        '  %r = (f32[1,4]{1,0}, /*index=1*/bf16[3,4]{1,0:T(8)}) all-reduce('
        '%x, %y), replica_groups={{0,2},{1,3}}, to_apply=%add, '
        'metadata={op_name="jit(step)/transpose(jvp(AlexNet))/(fc6/psum:fc7)"}'
    )
    (one,) = compiled_step.read_collectives(line, 2)
    self.assertEqual(one.shapes, ((1, 4), (3, 4)))
    self.assertEqual((one.size, one.sent), (16 + 24, 40))
    self.assertEqual((one.layer, one.backward), ('gradients', True))

  def test_alone(self):
    line = '  %r = f32[4]{0} all-reduce(%x), replica_groups={{0},{1}}'
    self.assertEqual(compiled_step.read_collectives(line, 2), ())

  def test_message(self):
    line = '  %r = f32[4]{0} all-reduce(%x), replica_groups=new'
    with self.assertRaisesRegex(ValueError, 'cannot read the replica_groups'):
      compiled_step.read_collectives(line, 2)


# Round numbers: 1 GB/s in a node of four, 0.1 GB/s out of it.
MACHINE = model.Machine(
    flops=1e12, fraction=0.5, memory=1e15, link=1e9, network=1e8, per_node=4,
    link_share=1.0, link_latency=0.0, network_latency=0.0, source='none',
)


class ModelTest(parameterized.TestCase):

  def test_network(self):
    """The constants are the model's, and facts of the paper's network."""
    config = scaling.mesh_config(1, 1, 128)
    flops = compiled_step.step_flops(config)
    dense = sum(flops[name] for name in ('fc6', 'fc7', 'fc8'))
    network = model.ALEXNET
    self.assertEqual(dense, network.dense_flops)
    self.assertEqual(sum(flops.values()) - dense, network.convolution_flops)
    self.assertEqual(network.parameters, 60_965_224)
    # 724.4 M multiply-adds three times, less 105.4 M for the images' gradient.
    self.assertAlmostEqual(
        sum(flops.values()) / 2e6, 3 * 724.4 - 105.4, delta=0.2
    )

  def test_towers_exchange_what_the_compiled_step_sends(self):
    compiled = report(1, 2)
    sent = sum(o.sent for o in compiled.collectives if o.layer != 'loss')
    network = dataclasses.replace(
        model.ALEXNET,
        between_towers=13 * 13 * 12 + 6 * 6 * 12 + 32 + 32 + 10,
    )
    step = model.step(MACHINE, 'towers', 2, REPLICA, network)
    self.assertAlmostEqual(step.exchange * MACHINE.link, sent)

  @parameterized.parameters(
      (1, 1, 0.0),
      # 2 * 3/4 of a second in the node.
      (4, 1, 1.5),
      # The same, and 2 * 1/2 of a quarter of the bytes at a tenth the speed.
      (8, 1, 1.5 + 2.5),
      (2, 2, 0.0),
      # Two of the node, then two nodes with half of the bytes each.
      (8, 2, 1.0 + 5.0),
      # One of each node.
      (8, 4, 10.0),
  )
  def test_all_reduce(self, accelerators, apart, seconds):
    self.assertAlmostEqual(
        model.all_reduce_seconds(MACHINE, 1e9, accelerators, apart),
        seconds,
    )

  def test_latency(self):
    """2 * (4 - 1) messages in the node, 2 * (2 - 1) out of it."""
    machine = dataclasses.replace(
        MACHINE, link_latency=1.0, network_latency=10.0
    )
    self.assertAlmostEqual(
        model.all_reduce_seconds(machine, 0, 8), 6 + 20
    )

  def test_weird_trick_by_hand(self):
    """Four accelerators of a node, 128 images each.

    Gathered: 128 * 4 images * (9216 + 4096 + 4096 + 1000) values * 4 bytes =
    37,699,584; three quarters of it, twice: 0.0565 s. Gradients of the
    convolutions: 2 * 3/4 * 4 * 2,334,080 bytes: 0.0140 s.
    """
    step = model.step(MACHINE, 'weird', 4, 512)
    self.assertAlmostEqual(step.exchange, 0.056549376)
    self.assertAlmostEqual(step.gradients, 0.01400448)
    # 128 * 4.1356 G operations at 0.5 T a second.
    self.assertAlmostEqual(step.arithmetic, 1.0587, places=3)

  def test_gradients_hide_behind_backward_at_most(self):
    step = model.step(MACHINE, 'data', 4, 512)
    self.assertAlmostEqual(step.gradients, 0.365791344)
    # Two thirds of 128 * 3.7839 G at 0.5 T: 0.646 s, more than the gradients.
    self.assertAlmostEqual(
        step.seconds() - step.seconds(overlap=True), step.gradients
    )
    slow = dataclasses.replace(MACHINE, link=1e8)
    step = model.step(slow, 'data', 4, 512)
    self.assertAlmostEqual(
        step.seconds() - step.seconds(overlap=True), 0.6457819, places=6
    )

  def test_nothing_to_send_is_efficient(self):
    fast = dataclasses.replace(MACHINE, link=1e30, network=1e30)
    for scheme in ('data', 'weird'):
      self.assertAlmostEqual(
          model.efficiency(fast, scheme, 512, 512 * 128), 1, places=3
      )

  @parameterized.parameters('2', '2x', '0x1', '2x2x2', 'axb')
  def test_mesh_message(self, mesh):
    with self.assertRaisesRegex(ConfigError, '--meshes is .*4x2'):
      scaling.parse_meshes([mesh])


if __name__ == '__main__':
  absltest.main()
