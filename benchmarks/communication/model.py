"""A prediction of how fast a step is on many accelerators. Nothing is measured.

  step = arithmetic + what the towers or layers exchange + gradients

one after the other, as the compiled step has it; figures in docs/scaling.md.
"""

import dataclasses
import math
from collections.abc import Mapping

SCHEMES = {
    'data': 'data parallel',
    'towers': 'two towers x data',
    'weird': 'one weird trick, in a node',
    'weird_all': 'one weird trick, over all',
}
_FLOAT = 4  # Bytes of a float32.
# A step reads and writes each parameter's bytes so often: forward, input
# gradient, its gradient written; then the update reads gradient, velocity and
# parameter and writes the latter two.
_PARAMETER_PASSES = 8


@dataclasses.dataclass(frozen=True)
class Machine:
  """Accelerators in nodes, by what their makers publish.

  Attributes:
    flops: peak float operations a second.
    fraction: of `flops` that a training step reaches.
    memory: bytes a second.
    link: bytes a second that an accelerator sends to others of its node.
    network: bytes a second that it sends out of the node, its share of it.
    per_node: accelerators in a node.
    link_share: of `link` and `network` that a collective reaches.
    link_latency, network_latency: seconds of one message.
    source: of the figures.
  """

  flops: float
  memory: float
  link: float
  network: float
  per_node: int
  source: str
  fraction: float = 0.3
  link_share: float = 0.8
  link_latency: float = 3e-6
  network_latency: float = 6e-6


MACHINES: Mapping[str, Machine] = {
    'gtx580': Machine(
        1.581e12, 192.4e9, 8e9, 2e9, 2,
        'GeForce GTX 580 (FP32), PCIe 2.0 x16; QDR InfiniBand, one for two',
    ),
    'k20': Machine(
        3.52e12, 208e9, 8e9, 0.5e9, 8,
        'Tesla K20 (FP32), PCIe 2.0 x16; QDR InfiniBand, one for eight',
        # 326 images a second: Krizhevsky 2014, Table 1, 90 epochs in 98.05 h.
        fraction=0.4,
    ),
    'v100': Machine(
        15.7e12, 900e9, 150e9, 6.25e9, 8,
        'V100 SXM2 (FP32), NVLink 2; DGX-1: four EDR InfiniBand for eight',
    ),
    'v100_pcie': Machine(
        14e12, 900e9, 15.75e9, 3.125e9, 4,
        'V100 PCIe (FP32), PCIe 3.0 x16; EDR InfiniBand, one for four',
    ),
    'a100': Machine(
        156e12, 2039e9, 300e9, 25e9, 8,
        'A100 SXM 80 GB (TF32), NVLink 3; DGX A100: HDR InfiniBand for each',
    ),
    'a100_pcie': Machine(
        156e12, 1935e9, 31.5e9, 6.25e9, 4,
        'A100 PCIe 80 GB (TF32), PCIe 4.0 x16; HDR InfiniBand, one for four',
    ),
    'h100': Machine(
        494.5e12, 3350e9, 450e9, 50e9, 8,
        'H100 SXM (TF32, dense), NVLink 4; DGX H100: NDR InfiniBand for each',
    ),
    'h100_pcie': Machine(
        378e12, 2000e9, 63e9, 12.5e9, 4,
        'H100 PCIe (TF32, dense), PCIe 5.0 x16; NDR InfiniBand, one for four',
    ),
    'h200': Machine(
        494.5e12, 4800e9, 450e9, 50e9, 8,
        'H200 SXM (TF32, dense), NVLink 4; DGX H200: NDR InfiniBand for each',
    ),
}


@dataclasses.dataclass(frozen=True)
class Network:
  """What a training step of AlexNet comes to.

  Attributes:
    convolution_flops, dense_flops: of one image.
    convolution_parameters, dense_parameters: their numbers.
    between_towers: values of one image that two towers gather: the inputs of
      conv3, fc6, fc7 and fc8, and the logits, of both towers together.
    between_dense: the inputs of fc6, fc7 and fc8, and the logits.
  """

  convolution_flops: float
  dense_flops: float
  convolution_parameters: int
  dense_parameters: int
  between_towers: int
  between_dense: int

  @property
  def parameters(self) -> int:
    """All of them."""
    return self.convolution_parameters + self.dense_parameters


# configs/alexnet_2012.py with 1,000 classes. tests/benchmarks/scaling_test.py
# holds these against the model's shapes.
ALEXNET = Network(
    convolution_flops=3_783_878_784,
    dense_flops=351_731_712,
    convolution_parameters=2_334_080,
    dense_parameters=58_631_144,
    between_towers=43_264 + 9_216 + 4_096 + 4_096 + 1_000,
    between_dense=9_216 + 4_096 + 4_096 + 1_000,
)


@dataclasses.dataclass(frozen=True)
class Step:
  """Seconds of one step.

  Attributes:
    images: of the step, on all accelerators.
    arithmetic: convolutions, products, the update.
    exchange: what a layer waits for: other towers' or shards' features.
    gradients: their reduction, which nothing waits for but the update.
    backward: of `arithmetic`, of the convolutions: what the gradients of the
      dense layers, 96 % of all, can be reduced beside.
  """

  images: float
  arithmetic: float
  exchange: float
  gradients: float
  backward: float

  def seconds(self, overlap: bool = False) -> float:
    """All of it; with `overlap`, gradients are reduced beside `backward`."""
    hidden = min(self.gradients, self.backward) if overlap else 0.0
    return self.arithmetic + self.exchange + self.gradients - hidden


def step(
    machine: Machine,
    scheme: str,
    accelerators: int,
    images: float,
    network: Network = ALEXNET,
) -> Step:
  """Predicts a step.

  Args:
    machine: what it runs on.
    scheme: a key of SCHEMES. 'weird' shares the dense layers among the
      accelerators of a node, 'weird_all' among all.
    accelerators: their number.
    images: of the step, on all accelerators.
    network: what is trained.
  """
  # Accelerators that share a network, or its dense layers.
  shared = {
      'data': 1,
      'towers': min(2, accelerators),
      'weird': min(machine.per_node, accelerators),
      'weird_all': accelerators,
  }[scheme]
  towers = shared if scheme == 'towers' else 1
  each = images / accelerators
  convolutions = network.convolution_parameters / towers
  dense = network.dense_parameters / shared
  flops = network.convolution_flops + network.dense_flops
  rate = machine.fraction * machine.flops
  arithmetic = each * flops / rate
  arithmetic += (
      _PARAMETER_PASSES * _FLOAT * (convolutions + dense) / machine.memory
  )
  exchanged = (
      network.between_towers if scheme == 'towers' else network.between_dense
  )
  # Of the images of all that share, gathered and, as gradients, scattered.
  exchange = 0.0
  if shared > 1:
    size = _FLOAT * exchanged * each * shared
    exchange = 2 * _gather_seconds(machine, size, shared)
    # One message a layer, not one in all: five, or four.
    layers = 5 if scheme == 'towers' else 4
    exchange += 2 * (layers - 1) * _gather_seconds(machine, 0, shared)
  if towers > 1:
    gradients = all_reduce_seconds(
        machine, _FLOAT * (convolutions + dense), accelerators, apart=towers
    )
  else:
    gradients = all_reduce_seconds(
        machine, _FLOAT * convolutions, accelerators
    ) + all_reduce_seconds(machine, _FLOAT * dense, accelerators, apart=shared)
  if scheme == 'data':  # One reduction of all.
    gradients = all_reduce_seconds(
        machine, _FLOAT * network.parameters, accelerators
    )
  return Step(
      images=images,
      arithmetic=arithmetic,
      exchange=exchange,
      gradients=gradients,
      backward=each * network.convolution_flops * 2 / 3 / rate,
  )


def efficiency(
    machine: Machine,
    scheme: str,
    accelerators: int,
    images: float,
    *,
    overlap: bool = False,
    batch: int = 128,
) -> float:
  """Images a second of each accelerator, as a share of one alone.

  Args:
    machine: what it runs on.
    scheme: as for `step`.
    accelerators: their number.
    images: of the step, on all accelerators.
    overlap: whether gradients are reduced beside the backward pass.
    batch: of the one alone.
  """
  one = batch / step(machine, 'data', 1, batch).seconds()
  many = images / step(machine, scheme, accelerators, images).seconds(overlap)
  return many / accelerators / one


def all_reduce_seconds(
    machine: Machine, size: float, accelerators: int, apart: int = 1
) -> float:
  """Rings: reduce-scatter in the node, all-reduce between nodes, all-gather.

  In one node that is 2 (n - 1) / n * size / link, and 2 (n - 1) messages.

  Args:
    machine: what it runs on.
    size: bytes that each has.
    accelerators: in all.
    apart: every apart-th takes part: neighbours hold other parameters.
  """
  inside = max(1, min(machine.per_node, accelerators) // apart)
  outside = math.ceil(accelerators / apart / inside)
  return 2 * (
      _ring(size, inside, machine.link * machine.link_share)
      + (inside - 1) * machine.link_latency
      + _ring(size / inside, outside, machine.network * machine.link_share)
      + (outside - 1) * machine.network_latency
  )


def _gather_seconds(machine, size, accelerators):
  """An all-gather, or the reduce-scatter that is its transpose."""
  inside = min(machine.per_node, accelerators)
  outside = math.ceil(accelerators / inside)
  return (
      _ring(size / inside, outside, machine.network * machine.link_share)
      + (outside - 1) * machine.network_latency
      + _ring(size, inside, machine.link * machine.link_share)
      + (inside - 1) * machine.link_latency
  )


def _ring(size, devices, speed):
  return (devices - 1) / devices * size / speed
