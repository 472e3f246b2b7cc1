"""PyTorch's step, eager or compiled, for `benchmarks.train_step`.

Written for speed: channels last, the fused SGD, and all cores of a CPU.
`torch.optim.SGD` multiplies by the rate last, which is equivalent at a constant
rate. bfloat16 is autocast with float32 parameters.
"""

import contextlib
import os
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from benchmarks.step import network

# 'library': functional.local_response_norm; 'band': response normalization by
# a 1 x 1 convolution with a band matrix. The faster one competes.
VARIANTS = ('library', 'band')


def _use_all_cores():
  # PyTorch's default omits cores that it takes for hyperthreads.
  torch.set_num_threads(os.cpu_count())


def _to_torch(array):
  order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
  tensor = torch.tensor(np.ascontiguousarray(array.transpose(order)))
  if array.ndim == 4:
    tensor = tensor.to(memory_format=torch.channels_last)
  return tensor


def _to_numpy(tensor):
  order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[tensor.ndim]
  return tensor.detach().numpy().transpose(order)


def _map(function, params):
  return {
      layer: {kind: function(value) for kind, value in kinds.items()}
      for layer, kinds in params.items()
  }


class _Network:

  def __init__(self, case, variant, device='cpu'):
    _use_all_cores()
    self._case = case
    self._library = variant == 'library'
    self._dtype = getattr(torch, case.dtype)
    self._device = device
    to_device = lambda array: _to_torch(array).to(device)
    self.params = _map(to_device, network.parameters(case))
    images, labels = network.batch(case)
    # This permuted view is in channels-last order.
    self.images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    self.labels = torch.from_numpy(labels).long().to(device)
    shapes = network.kernel_shapes(case)
    self._bands = {
        name: _band(shapes[name][-1], self._dtype).to(device)
        for name in ('conv1', 'conv2')
    }

  def arithmetic(self):
    """Context for a training pass."""
    if self._dtype == torch.float32:
      return contextlib.nullcontext()
    return torch.autocast(self._device, self._dtype)

  def logits(self, params, images, *, training):
    relu = functional.relu
    weights = lambda name: (params[name]['kernel'], params[name]['bias'])

    def conv(x, name, padding, groups):
      y = functional.conv2d(x, *weights(name), padding=padding, groups=groups)
      return relu(y)

    x = functional.pad(images, (0, 3, 0, 3))
    x = functional.conv2d(x, *weights('conv1'), stride=4)
    x = relu(_pool(self._normalize(x, 'conv1')))
    x = self._normalize(conv(x, 'conv2', 2, 2), 'conv2')
    x = conv(_pool(_normalize_pixels(x)), 'conv3', 1, 1)
    x = conv(x, 'conv4', 1, 2)
    x = _pool(conv(x, 'conv5', 1, 2))
    x = x.permute(0, 2, 3, 1).flatten(1)  # Our order, without a copy.
    keep = 1 - self._case.dropout
    for name in ('fc6', 'fc7'):
      x = relu(functional.linear(x, *weights(name)))
      if training:
        x = functional.dropout(x, 1 - keep)
      x = x * keep  # In training too: the paper's dropout has no factor there.
    return functional.linear(x, *weights('fc8')).float()

  def _normalize(self, x, layer):
    return _normalize(x, None if self._library else self._bands[layer])


def _band(channels, dtype):
  band = torch.from_numpy(2e-5 * network.band(channels))
  return band[:, :, None, None].to(dtype)


def _normalize(x, band):
  """Response normalization of two towers; the library's without a band."""
  if band is None:
    parts = [
        functional.local_response_norm(part, 5, alpha=1e-4, beta=0.75, k=2.0)
        for part in x.chunk(2, dim=1)
    ]
    return torch.cat(parts, dim=1)
  d = 2 + functional.conv2d(x * x, band)
  return x * torch.rsqrt(d * d.sqrt())


def _normalize_pixels(x):
  """Mean of squares over 5 x 5 pixels, with zeros outside."""
  d = 1 + 1e-3 * functional.avg_pool2d(x * x, 5, 1, 2)
  return x * torch.rsqrt(d * d.sqrt())


def _pool(x):
  return functional.max_pool2d(x, 3, 2)


def _training(case, variant, compiled, device='cpu'):
  net = _Network(case, variant, device)
  leaves = [p for kinds in net.params.values() for p in kinds.values()]
  for leaf in leaves:
    leaf.requires_grad_()
  kernels, biases = (
      [kinds[kind] for kinds in net.params.values()]
      for kind in ('kernel', 'bias')
  )
  rule = torch.optim.SGD(
      [
          {'params': kernels, 'weight_decay': 0.0005},
          {'params': biases, 'lr': 2 * case.rate},
      ],
      lr=case.rate,
      momentum=0.9,
      fused=True,
  )

  def loss_of(images, labels):
    with net.arithmetic():
      logits = net.logits(net.params, images, training=True)
    return functional.cross_entropy(logits, labels)

  if compiled:
    loss_of = torch.compile(loss_of)

  def step():
    rule.zero_grad()
    loss = loss_of(net.images, net.labels)
    loss.backward()
    rule.step()
    return loss.detach()

  return step, net


def training_step(
    case: network.Case, *, variant: str, compiled: bool, device: str
) -> Callable[[], torch.Tensor]:
  """Returns a function that starts one update and returns its loss."""
  return _training(case, variant, compiled, device)[0]


def training(
    case: network.Case, *, variant: str, compiled: bool
) -> Callable[[], None]:
  """Returns a function that makes one update and waits for it."""
  step, _ = _training(case, variant, compiled)
  return lambda: float(step())


def inference(
    case: network.Case, *, variant: str, compiled: bool
) -> Callable[[], None]:
  """Returns a function that predicts one batch."""
  net = _Network(case, variant)
  dtype = getattr(torch, case.dtype)
  # Converted once, not in every step.
  params = _map(lambda p: p.to(dtype), net.params)
  net.params = None

  def predict(images):
    logits = net.logits(params, images.to(dtype), training=False)
    return functional.softmax(logits, dim=-1)

  if compiled:
    predict = torch.compile(predict)

  def step():
    with torch.inference_mode():
      predict(net.images)

  return step


def updates(
    case: network.Case, *, variant: str, compiled: bool
) -> tuple[list[float], network.Parameters]:
  """Losses of the first updates, and the parameters after them."""
  step, net = _training(case, variant, compiled)
  losses = [float(step()) for _ in range(network.CHECKED_UPDATES)]
  return losses, _map(_to_numpy, net.params)


def _function(layer, library, dtype):
  """Function of (input, kernel if there is one)."""
  if layer.kind == 'dense':
    return functional.linear
  if layer.kind == 'lrn':
    band = None if library else _band(layer.input_shape[-1], dtype)
    return lambda x: _normalize(x, band)
  if layer.kind == 'spatial_norm':
    return _normalize_pixels
  if layer.kind == 'pool':
    return _pool
  before, after = layer.padding

  def convolution(x, kernel):
    padding = before
    if before != after:
      x, padding = functional.pad(x, layer.padding * 2), 0
    return functional.conv2d(
        x, kernel, stride=layer.stride, padding=padding, groups=layer.groups
    )

  return convolution


def _part(layer, part, case, library):
  dtype = getattr(torch, case.dtype)
  function = _function(layer, library, dtype)
  x, *kernel = layer.arrays()
  x = torch.from_numpy(x).to(dtype)
  if x.ndim == 4:
    x = x.permute(0, 3, 1, 2)  # Channels last.
  arrays = [x, *(_to_torch(k).to(dtype) for k in kernel)]
  if part == 'forward':

    def forward():
      with torch.inference_mode():
        function(*arrays)

    return forward
  wanted = arrays[0 if part == 'input gradient' else 1].requires_grad_()
  y = function(*arrays)
  g = torch.ones_like(y)
  return lambda: torch.autograd.grad(y, wanted, g, retain_graph=True)


def layers(
    case: network.Case, *, variant: str, compiled: bool
) -> dict[str, tuple[Callable[[], None], int]]:
  """{'LAYER PART': (a function that computes it, its operations)}, eager."""
  del compiled
  _use_all_cores()
  items = {}
  for name, layer in network.layers(case).items():
    for part in layer.parts():
      run = _part(layer, part, case, variant == 'library')
      items[f'{name} {part}'] = run, layer.operations
  return items


def product(dtype: str, size: int) -> Callable[[], None]:
  """Returns a function that multiplies two square matrices of this size."""
  _use_all_cores()
  one, other = (
      torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2)
  )
  out = torch.empty_like(one)
  return lambda: torch.mm(one, other, out=out)
