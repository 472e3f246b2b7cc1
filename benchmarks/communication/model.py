"""Predicts the speed of a step on many accelerators, without measuring.

  step = arithmetic + exchange between towers or layers + gradients

The parts run one after the other, as in the compiled step. The results are in
docs/scaling.md.
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
# Passes over the parameters' bytes in a step: the forward pass, the input
# gradient, and writing the gradient; the update reads gradient, velocity and
# parameter and writes the latter two.
_PARAMETER_PASSES = 8


@dataclasses.dataclass(frozen=True)
class Machine:
  """Accelerators in nodes, with their makers' figures.

  Attributes:
    flops: peak floating-point operations per second.
    fraction: share of `flops` reached by a training step.
    memory: memory bandwidth, bytes per second.
    link: bytes per second from an accelerator to others of its node.
    network: an accelerator's share of the bytes per second out of the node.
    per_node: number of accelerators in a node.
    link_share: share of `link` and `network` reached by a collective.
    link_latency, network_latency: seconds per message.
    source: source of the figures.
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
        # 326 images/s: Krizhevsky 2014, Table 1, 90 epochs in 98.05 h.
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
  """Costs of a training step of AlexNet.

  Attributes:
    convolution_flops, dense_flops: operations per image.
    convolution_parameters, dense_parameters: numbers of parameters.
    between_towers: values per image that two towers gather: the inputs of
      conv3, fc6, fc7 and fc8, and the logits, of both towers together.
    between_dense: values per image of the inputs of fc6, fc7 and fc8, and the
      logits.
  """

  convolution_flops: float
  dense_flops: float
  convolution_parameters: int
  dense_parameters: int
  between_towers: int
  between_dense: int

  @property
  def parameters(self) -> int:
    """Number of all parameters."""
    return self.convolution_parameters + self.dense_parameters


# configs/alexnet_2012.py with 1,000 classes; tests/benchmarks/scaling_test.py
# compares it with the model's shapes.
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
  """Predicted seconds of one step.

  Attributes:
    images: images in the step, on all accelerators.
    arithmetic: convolutions, products and the update.
    exchange: waiting for features of other towers or shards.
    gradients: reduction of gradients, which only the update waits for.
    backward: the convolutions' backward pass, part of `arithmetic`, which can
      overlap the reduction of the dense layers' gradients, 96 % of all.
  """

  images: float
  arithmetic: float
  exchange: float
  gradients: float
  backward: float

  def seconds(self, overlap: bool = False) -> float:
    """Total; `overlap` reduces gradients during `backward`."""
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
    machine: the accelerators.
    scheme: a key of SCHEMES. 'weird' shares the dense layers among the
      accelerators of a node, 'weird_all' among all.
    accelerators: number of accelerators.
    images: images in the step, on all accelerators.
    network: the network to train.
  """
  # Number of accelerators that share a network, or its dense layers.
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
  # Features of the images of all sharers: gathered, and scattered backward.
  exchange = 0.0
  if shared > 1:
    size = _FLOAT * exchanged * each * shared
    exchange = 2 * _gather_seconds(machine, size, shared)
    # One message per layer: five, or four.
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
  if scheme == 'data':  # A single reduction of all gradients.
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
  """Images per second of each accelerator, as a share of a single one's.

  Args:
    machine: the accelerators.
    scheme: see `step`.
    accelerators: number of accelerators.
    images: images in the step, on all accelerators.
    overlap: whether gradients are reduced during the backward pass.
    batch: batch size of the single accelerator.
  """
  one = batch / step(machine, 'data', 1, batch).seconds()
  many = images / step(machine, scheme, accelerators, images).seconds(overlap)
  return many / accelerators / one


def all_reduce_seconds(
    machine: Machine, size: float, accelerators: int, apart: int = 1
) -> float:
  """Seconds of reduce-scatter in nodes, all-reduce between, and all-gather.

  In one node: 2 (n - 1) / n * size / link, and 2 (n - 1) messages.

  Args:
    machine: the accelerators.
    size: bytes on each accelerator.
    accelerators: number of accelerators.
    apart: only every apart-th one takes part, since neighbours hold other
      parameters.
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
  """Seconds of an all-gather, or of a reduce-scatter, its transpose."""
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
