"""Twenty updates of a narrow network beside the same ones in PyTorch.

PyTorch's network is written from the paper with PyTorch's own operations, each
tower by itself, and the update by its formula: `torch.optim.SGD` multiplies by
the rate last, another rule once the rate drops. It runs in float64, so what is
left is our rounding. Should the two part, its own run in float32 tells how far
rounding alone drives such runs apart.

Equal maxima, whose gradient our pooling shares and PyTorch's gives to one, are
zeros that ReLU has made of negative numbers, and there it ends; the noise has
no others.
"""

import functools

import jax
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.models import create_model
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import optimizer, schedules, train_step
from tests import testing

try:
  import torch
  from torch.nn import functional
except ImportError:
  torch = None

CLASSES = 10
BATCH = 4
STEPS = 20
DROP = 10  # The step from which on the rate of kernels is a tenth.
# Small enough that a rounding rarely decides which pixel is a maximum: at four
# times this rate such a decision parted runs by 1e-3 to 1e-1, and at this one
# it once parted PyTorch's float32 from its float64, by 6e-5.
RATE = 0.0005
# Weight decay, and the factors of the rate and the decay of biases.
DECAY = 0.0005
BIASES = {'paper': (1.0, 1.0), '2012': (2.0, 0.0)}
# Against float64. Seen: 6e-7 of losses near 2, and of the way that a parameter
# has come 1.8e-3 (biases near 1 that hardly moved: PyTorch's float32 has the
# same errors).
LOSS_TOLERANCE = 4e-6
SHARE_OF_MOVEMENT = 5e-3


@functools.cache
def batches():
  """Four that come again and again, so that the loss falls.

  With some seeds a rounding decides which of two pixels is the largest of a
  window, and float32, ours as PyTorch's, parts from float64: of the seeds 3 to
  15 and the two recipes, PyTorch's in 8 of 26 cases, ours in 7.
  """
  rng = np.random.default_rng(12)
  return [testing.random_batch(rng, BATCH, CLASSES) for _ in range(4)]


def rates_at(recipe, step):
  """(rate of kernels, rate of biases), by hand.

  The paper lowers all rates, run #145 those of kernels alone.
  """
  kernel = RATE if step < DROP else RATE / 10
  bias = kernel if recipe == 'paper' else RATE * BIASES[recipe][0]
  return kernel, bias


def config_for(recipe):
  config = testing.narrow_config(recipe=testing.RECIPES[recipe])
  config.model.num_classes = CLASSES
  config.model.fc6.dropout = config.model.fc7.dropout = 0.0
  config.mesh.data = config.mesh.tower = 1
  config.schedule.learning_rate = RATE
  if recipe == 'paper':
    config.schedule.name = 'plateau'
  else:
    config.schedule.name = 'steps'
    config.schedule.steps = ((1.0, 'all', 'kernel', RATE / 10),)
  return config


@functools.cache
def ours(recipe):
  """(losses, initial parameters, parameters) of the step that is run."""
  config = config_for(recipe)
  mesh = mesh_lib.create_mesh(config)
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  state = sharding.initialize(
      lambda key: train_step.create_state(model, rule, key), mesh, 0
  )
  initial = jax.device_get(state.params)
  step = train_step.make_train_step(
      model=model,
      optimizer=rule,
      mesh=mesh,
      state=state,
      images=lambda batch: batch['image'],
      seed=0,
  )
  losses = []
  for number in range(STEPS):
    rates = schedules.rates_at(
        config,
        initial,
        step=number,
        total_steps=STEPS,
        steps_per_epoch=DROP,
        plateau=schedules.Plateau(drops=int(number >= DROP)),
    )
    batch = sharding.put_batch(batches()[number % 4], mesh)
    state, metrics = step(state, batch, jax.tree.map(np.float32, rates))
    losses.append(float(metrics['loss']))
  return np.array(losses), initial, jax.device_get(state.params)


def to_torch(params, dtype):
  """Kernels as [out, in, height, width] or [out, in], biases as they are."""

  def convert(array):
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
    tensor = torch.tensor(array.transpose(order).copy(), dtype=dtype)
    return tensor.requires_grad_()

  return jax.tree.map(convert, params)


def to_numpy(params):
  """The reverse, in float64."""

  def convert(tensor):
    array = tensor.detach().numpy().astype(np.float64)
    order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
    return array.transpose(order)

  return jax.tree.map(convert, params)


def each_tower(operation, x):
  return torch.cat([operation(part) for part in x.chunk(2, dim=1)], dim=1)


def normalize(x, recipe):
  """LRN in a tower; PyTorch divides alpha by the window of five."""
  alpha = 5e-4 if recipe == 'paper' else 1e-4
  return each_tower(
      lambda part: functional.local_response_norm(
          part, 5, alpha=alpha, beta=0.75, k=2.0
      ),
      x,
  )


def spatial(x):
  """Run #145's: the mean of squares over 5 x 5 pixels, zeros outside."""
  mean = functional.avg_pool2d(x**2, 5, 1, 2, count_include_pad=True)
  return x / (1 + 1e-3 * mean) ** 0.75


def pool(x):
  return functional.max_pool2d(x, 3, 2, ceil_mode=True)


def by_torch_logits(params, images, recipe):
  """[batch, 3, 224, 224] to logits."""
  weights = lambda name: (params[name]['kernel'], params[name]['bias'])
  relu = functional.relu
  border = (1, 2) * 2 if recipe == 'paper' else (0, 3) * 2
  x = functional.pad(images, border)
  x = functional.conv2d(x, *weights('conv1'), stride=4)
  if recipe == 'paper':
    x = pool(normalize(relu(x), recipe))
  else:
    x = relu(pool(normalize(x, recipe)))
  conv = lambda x, name, padding, groups: relu(
      functional.conv2d(x, *weights(name), padding=padding, groups=groups)
  )
  x = normalize(conv(x, 'conv2', 2, 2), recipe)
  if recipe == '2012':
    x = spatial(x)
  x = conv(pool(x), 'conv3', 1, 1)
  x = conv(x, 'conv4', 1, 2)
  x = pool(conv(x, 'conv5', 1, 2))
  x = x.permute(0, 2, 3, 1).flatten(1)  # Our order of fc6's inputs.
  x = relu(functional.linear(x, *weights('fc6')))
  x = relu(functional.linear(x, *weights('fc7')))
  return functional.linear(x, *weights('fc8'))


@functools.cache
def by_torch(recipe, double):
  """(losses, parameters) from our initial parameters."""
  dtype = torch.float64 if double else torch.float32
  params = to_torch(ours(recipe)[1], dtype)
  velocity = jax.tree.map(torch.zeros_like, params)
  losses = []
  for number in range(STEPS):
    batch = batches()[number % 4]
    images = torch.tensor(batch['image'].transpose(0, 3, 1, 2).copy())
    labels = torch.tensor(batch['label'], dtype=torch.long)
    logits = by_torch_logits(params, images.to(dtype), recipe)
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    losses.append(float(loss.detach()))
    kernel, bias = rates_at(recipe, number)
    with torch.no_grad():
      for name, kinds in params.items():
        for kind, w in kinds.items():
          rate = kernel if kind == 'kernel' else bias
          decay = DECAY * (1 if kind == 'kernel' else BIASES[recipe][1])
          v = velocity[name][kind]
          v.copy_(0.9 * v - decay * rate * w - rate * w.grad)
          w += v
          w.grad = None
  return np.array(losses), to_numpy(params)


def distances(one, other, initial):
  """Of parameters, as a share of the way they have come since `initial`."""
  share = lambda a, b, start: (
      np.abs(a - b).max() / np.abs(b - start).max()
  )
  tree = jax.tree.map(share, one, other, initial)
  return {
      jax.tree_util.keystr(path): float(value)
      for path, value in jax.tree_util.tree_leaves_with_path(tree)
  }


def report(recipe):
  """How fast the runs part: what a failure says."""
  exact, exact_end = by_torch(recipe, double=True)
  losses, initial, end = ours(recipe)
  single, single_end = by_torch(recipe, double=False)
  lines = ['step, loss in float64, error of ours, of PyTorch in float32:']
  lines += [
      f'{step:3d} {loss:10.6f} {mine - loss:9.1e} {theirs - loss:9.1e}'
      for step, (loss, mine, theirs) in enumerate(zip(exact, losses, single))
  ]
  lines.append('parameters in the end, shares of their movement, likewise:')
  mine = distances(end, exact_end, initial)
  theirs = distances(single_end, exact_end, initial)
  lines += [f'{place} {mine[place]:.1e} {theirs[place]:.1e}' for place in mine]
  return '\n'.join(lines)


@absltest.skipIf(
    torch is None, 'no PyTorch: pip install -r requirements-bench.txt'
)
class TrajectoryTest(parameterized.TestCase):

  @parameterized.parameters('paper', '2012')
  def test_recipe(self, recipe):
    losses, initial, end = ours(recipe)
    exact, exact_end = by_torch(recipe, double=True)
    # Nothing is compared unless something is learned.
    self.assertLess(exact[-4:].mean(), exact[:4].mean() - 0.5)
    error = np.abs(losses - exact).max()
    shares = distances(end, exact_end, initial)
    if error > LOSS_TOLERANCE or max(shares.values()) > SHARE_OF_MOVEMENT:
      self.fail(report(recipe))


if __name__ == '__main__':
  absltest.main()
