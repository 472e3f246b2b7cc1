"""AlexNet once more, in NumPy: its input, its gradients and its updates.

Written from the paper and from what is known of run #145, not from `alexnet/`,
and in another way, so that a misunderstanding would have to be made twice: the
towers are two arrays, windows are matrices of ones or views of the padded
image, all numbers are float64, and the derivatives are the chain rule by hand
(which `oracle_test.py` checks by differences).

Parameters are {layer: {'kernel', 'bias'}} in the shapes of the whole network;
the first half of a last axis is the first tower's. Every function of the
network returns its value and its pullback, from a gradient of the value to
those of the arguments.
"""

import dataclasses

import numpy as np

WINDOWS = np.lib.stride_tricks.sliding_window_view

# Of ImageNet's colours, 0..255, a component a column (released statistics).
DEVIATIONS = np.array([19.7208, 37.0939, 121.7801])
EIGENVECTORS = np.array([
    [0.4180, -0.7126, -0.5635],
    [-0.8170, -0.0235, -0.5762],
    [0.3973, 0.7012, -0.5920],
])


@dataclasses.dataclass(frozen=True)
class Network:
  """What of the network differs between descriptions; defaults: the paper."""

  conv1_border: tuple[int, int] = (1, 2)
  conv1_order: str = 'relu lrn pool'
  conv2_border: tuple[int, int] = (2, 2)
  conv2_order: str = 'relu lrn pool'
  conv5_border: tuple[int, int] = (1, 1)
  conv5_order: str = 'relu pool'
  # Of the plain sum of squares of five channels.
  lrn_alpha: float = 1e-4
  pool: int = 3
  # What a unit that is kept is multiplied by, in training and in testing.
  kept: float = 1.0
  tested: float = 0.5


PAPER = Network()
RUN_145 = Network(
    conv1_border=(0, 3),
    conv1_order='lrn pool relu',
    conv2_order='relu lrn spatial pool',
    conv5_order='pool relu',
    lrn_alpha=1e-4 / 5,
)

# Standard deviation of the kernels and value of the biases at the start.
INITIAL_PAPER = {
    'conv1': (0.01, 0), 'conv2': (0.01, 1), 'conv3': (0.01, 0),
    'conv4': (0.01, 1), 'conv5': (0.01, 1), 'fc6': (0.01, 1),
    'fc7': (0.01, 1), 'fc8': (0.01, 0),
}
INITIAL_145 = {
    **INITIAL_PAPER, 'conv3': (0.03, 0), 'conv4': (0.03, 1), 'conv5': (0.03, 1)
}


# --- Operations on one tower's array -----------------------------------------


def convolution(x, kernel, bias, stride, border):
  """[batch, height, width, in] and [size, size, in, out]."""
  size, pad = len(kernel), ((0, 0), border, border, (0, 0))
  x = np.pad(x, pad)
  # [batch, row, column, in, row in the kernel, column in the kernel]
  seen = WINDOWS(x, (size, size), (1, 2))[:, ::stride, ::stride]
  y = np.tensordot(seen, kernel, ((4, 5, 3), (0, 1, 2))) + bias

  def pullback(g):
    dx = np.zeros_like(x)
    for i, j in np.ndindex(size, size):
      rows = slice(i, i + stride * (g.shape[1] - 1) + 1, stride)
      columns = slice(j, j + stride * (g.shape[2] - 1) + 1, stride)
      dx[:, rows, columns] += g @ kernel[i, j].T
    low, high = border[0], x.shape[1] - border[1]
    dkernel = np.tensordot(seen, g, ((0, 1, 2), (0, 1, 2)))
    dkernel = dkernel.transpose(1, 2, 0, 3)
    return dx[:, low:high, low:high], dkernel, g.sum((0, 1, 2))

  return y, pullback


def dense(x, kernel, bias):
  rows = x.reshape(len(x), -1)

  def pullback(g):
    return (g @ kernel.T).reshape(x.shape), rows.T @ g, g.sum(0)

  return rows @ kernel + bias, pullback


def relu(x):
  return np.maximum(x, 0), lambda g: g * (x > 0)


def max_pool(x, window, stride=2):
  """Windows counted by ceiling; what hangs over the edge is empty."""
  out = -((window - x.shape[1]) // stride) + 1
  reach = stride * (out - 1) + window
  fill = (0, reach - x.shape[1])
  padded = np.pad(x, ((0, 0), fill, fill, (0, 0)), constant_values=-np.inf)
  seen = WINDOWS(padded, (window, window), (1, 2))[:, ::stride, ::stride]
  seen = seen.reshape(*seen.shape[:4], -1)
  largest = seen.argmax(-1)

  def pullback(g):
    dx = np.zeros(padded.shape)
    for place in range(window**2):
      i, j = divmod(place, window)
      dx[:, i : reach - window + i + 1 : stride,
         j : reach - window + j + 1 : stride] += g * (largest == place)
    return dx[:, : x.shape[1], : x.shape[2]]

  return seen.max(-1), pullback


def near(count, size=5):
  """[count, count]: 1 where two places are in one window of an odd size."""
  places = np.arange(count)
  return 1.0 * (abs(places[:, None] - places) <= size // 2)


def normalize(x, constant, alpha, window_sum):
  """Is x / (constant + alpha * window_sum(x^2))^0.75, by symmetric windows."""
  d = constant + alpha * window_sum(x**2)

  def pullback(g):
    # Of y_i by x_j: [i = j] d_i^-0.75 - 0.75 x_i d_i^-1.75 2 alpha x_j [near].
    return g / d**0.75 - 1.5 * alpha * x * window_sum(g * x / d**1.75)

  return x / d**0.75, pullback


def lrn(x, alpha):
  """Over five channels of this tower."""
  return normalize(x, 2.0, alpha, lambda s: s @ near(x.shape[3]))


def spatial(x):
  """Over five by five pixels of the same map."""
  rows, columns = near(x.shape[1]), near(x.shape[2])
  window_sum = lambda s: np.einsum(
      'ih,bhwc,wj->bijc', rows, s, columns, optimize=True
  )
  return normalize(x, 1.0, 1e-3 / 25, window_sum)


# --- The network -------------------------------------------------------------


class _Run:
  """The two towers on their way up, and what is needed for the way down."""

  def __init__(self, params, images):
    self.params = params
    self.towers = [images, images]
    self.pullbacks = []
    self.gradients = {name: {} for name in params}

  def layer(self, name, operation, reads):
    """A layer with parameters; operation: (x, kernel, bias) to (y, back)."""
    inputs = self.towers
    if reads == 'both':
      inputs = [np.concatenate(self.towers, -1)] * 2
    kernels, biases = (
        np.split(self.params[name][kind], 2, -1) for kind in ('kernel', 'bias')
    )
    self.towers, backs = zip(*map(operation, inputs, kernels, biases))

    def down(gradients):
      dx, dkernel, dbias = zip(*(b(g) for b, g in zip(backs, gradients)))
      self.gradients[name]['kernel'] = np.concatenate(dkernel, -1)
      self.gradients[name]['bias'] = np.concatenate(dbias)
      return np.split(dx[0] + dx[1], 2, -1) if reads == 'both' else dx

    self.pullbacks.append(down)

  def each(self, operation, *arguments):
    """An operation on either tower; arguments: one for each of the two."""
    self.towers, backs = zip(*map(operation, self.towers, *arguments))
    self.pullbacks.append(lambda gs: [b(g) for b, g in zip(backs, gs)])

  def down(self, gradients):
    for pullback in reversed(self.pullbacks):
      gradients = pullback(gradients)
    return self.gradients


def forward(network, params, images, masks=None):
  """The network of Figure 2.

  Args:
    network: which.
    params: arrays of any float.
    images: [batch, 224, 224, 3], less the mean.
    masks: of the units of fc6 and of fc7 that are kept, [batch, features] each;
      None in testing.

  Returns:
    Logits [batch, classes], and the function from their gradient to those of
    all parameters.
  """
  wide = {
      name: {kind: np.float64(array) for kind, array in kinds.items()}
      for name, kinds in params.items()
  }
  run = _Run(wide, np.float64(images))
  operations = {
      'relu': relu,
      'lrn': lambda x: lrn(x, network.lrn_alpha),
      'spatial': spatial,
      'pool': lambda x: max_pool(x, network.pool),
  }
  for name, stride, border, reads, order in (
      ('conv1', 4, network.conv1_border, 'image', network.conv1_order),
      ('conv2', 1, network.conv2_border, 'own', network.conv2_order),
      ('conv3', 1, (1, 1), 'both', 'relu'),
      ('conv4', 1, (1, 1), 'own', 'relu'),
      ('conv5', 1, network.conv5_border, 'own', network.conv5_order),
  ):
    run.layer(
        name,
        lambda x, kernel, bias, stride=stride, border=border: convolution(
            x, kernel, bias, stride, border
        ),
        reads,
    )
    for operation in order.split():
      run.each(operations[operation])
  for index, name in enumerate(('fc6', 'fc7')):
    run.layer(name, dense, 'both')
    run.each(relu)
    factors = [network.tested] * 2
    if masks is not None:
      factors = [m * network.kept for m in np.split(masks[index], 2, -1)]
    run.each(lambda x, f: (x * f, lambda g: g * f), factors)
  run.layer('fc8', dense, 'both')
  return (
      np.concatenate(run.towers, -1), lambda g: run.down(np.split(g, 2, -1))
  )


def loss_and_gradients(network, params, images, labels, masks=None):
  """Mean cross-entropy of softmax, and its gradient by every parameter."""
  logits, pullback = forward(network, params, images, masks)
  true = np.eye(logits.shape[1])[labels]
  logits = logits - logits.max(1, keepdims=True)
  log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  loss = -(true * log_softmax).sum(1).mean()
  return loss, pullback((np.exp(log_softmax) - true) / len(labels))


# --- Updates -----------------------------------------------------------------


def update(params, velocity, gradients, rates, decays):
  """In place: v <- 0.9 v - decay * rate * w - rate * g; w <- w + v.

  A rate of 0 freezes w and v. `rates` has a number for each kernel and bias,
  `decays` one for all kernels and one for all biases.
  """
  for name, kinds in params.items():
    for kind, w in kinds.items():
      rate = rates[name][kind]
      if rate:
        v = velocity[name][kind]
        g = gradients[name][kind]
        v *= 0.9
        v -= decays[kind] * rate * w + rate * g
        w += v


# --- Input -------------------------------------------------------------------


def lengths(kind):
  """[3] standard deviations of PCA lighting along the components, in levels.

  The paper's eigenvalues are of pixels in 0..1, the code's roots of
  eigenvalues, the standard deviations, of pixels in 0..255.
  """
  if kind == 'eigenvalue':
    return 0.1 * (DEVIATIONS / 255) ** 2 * 255
  return 0.1 * DEVIATIONS


def network_input(
    square, mean, *, mean_crop, top, left, flip, shift, divisor
):
  """[224, 224, 3] from a [256, 256, 3] image and mean image."""
  cut = lambda x, top, left: np.float64(x[top : top + 224, left : left + 224])
  mirror = lambda x: x[:, ::-1] if flip else x
  if mean_crop == 'under':
    x = mirror(cut(square, top, left) - cut(mean, top, left))
  else:
    x = mirror(cut(square, top, left)) - cut(mean, 16, 16)
  return (x + shift) / divisor
