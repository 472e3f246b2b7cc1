"""Short binary codes of features, by an autoencoder (paper §7).

  coder = hashing.train(features, bits=128)
  index = coder.encode(features)          # [images, 16] uint8

The paper proposes to train one on the features, so that similar images have
codes that differ in few bits. The code is that of Krizhevsky and Hinton, "Using
very deep autoencoders for content-based image retrieval" (2011): logistic
units that are rounded on the way forward, while the gradient ignores it.

What the autoencoder reads is the first principal components of the features:
they hold nearly all of the distances, and training on all 4,096 dimensions
would take many times as long.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from alexnet.analysis.features import blocks, nearest, store
from alexnet.analysis.features.store import FeaturesError
from input_pipeline.files import atomic, untrusted

BITS = (32, 64, 128, 256)
# Vectors that components and autoencoder are fitted to.
SAMPLE = 20_000
COMPONENTS = 256
HIDDEN = 512
STEPS = 2_000
BATCH = 256
LEARNING_RATE = 1e-3
BALANCE = 2.5


@dataclasses.dataclass(frozen=True)
class Components:
  """Principal components of vectors.

  Attributes:
    mean: [dimensions] float32.
    directions: [components, dimensions] float32, orthonormal, the one of the
      greatest variance first.
    deviations: [components] float32, standard deviations along them.
  """

  mean: np.ndarray
  directions: np.ndarray
  deviations: np.ndarray

  def first(self, count: int) -> 'Components':
    """The components with the largest variances."""
    return Components(
        self.mean, self.directions[:count], self.deviations[:count]
    )

  def project(
      self, vectors: np.ndarray, count: int | None = None
  ) -> np.ndarray:
    """[vectors, dimensions] on the first `count`: [vectors, count] float32."""
    directions = self.directions[:count]
    # The mean afterwards, so that the vectors need no copy.
    offset = directions @ self.mean
    out = np.empty((len(vectors), len(directions)), np.float32)
    for start, block in blocks.each(vectors):
      out[start : start + len(block)] = block @ directions.T - offset
    return out


def fit_components(
    vectors: np.ndarray, count: int = COMPONENTS, seed: int = 0
) -> Components:
  """The first `count` principal components of vectors, or all if fewer.

  Of a sample of SAMPLE if there are more, [vectors, dimensions] float32 or
  float16; the seed is that of the sample and of the randomized algorithm.
  """
  from sklearn import decomposition  # Slow to import.

  some = blocks.sample(vectors, SAMPLE, seed)
  count = min(count, *some.shape)
  # Exact where that is no work.
  solver = 'full' if max(some.shape) <= 1000 else 'randomized'
  fit = decomposition.PCA(count, svd_solver=solver, random_state=seed).fit(some)
  found = fit.mean_, fit.components_, np.sqrt(fit.explained_variance_)
  return Components(*(array.astype(np.float32) for array in found))


@dataclasses.dataclass(frozen=True)
class Coder:
  """Encodes vectors in bits: bit i tells whether output i is positive.

  Attributes:
    components: what is read of a vector.
    kernel: [components, bits] float32.
    bias: [bits] float32.
  """

  components: Components
  kernel: np.ndarray
  bias: np.ndarray

  @property
  def bits(self) -> int:
    """Length of the codes."""
    return len(self.bias)

  def encode(self, vectors: np.ndarray) -> np.ndarray:
    """Codes [vectors, bits / 8] uint8 of [vectors, dimensions] floats."""
    matrix, offset = self._from_vectors
    return np.concatenate([
        nearest.pack(block @ matrix + offset > 0)
        for _, block in blocks.each(vectors)
    ])

  @functools.cached_property
  def _from_vectors(self):
    """Merges components and kernel: [dimensions, bits], and an offset."""
    matrix = self.components.directions.T @ self.kernel
    return matrix, self.bias - self.components.mean @ matrix


def train(
    vectors: np.ndarray,
    bits: int,
    *,
    components: Components | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> Coder:
  """Trains an autoencoder on vectors, or on a sample of many vectors.

  The loss is the squared error of the decoded components, which are divided by
  the standard deviation of the first one, plus BALANCE times the mean squared
  mean of the bits, -1 and 1, in a batch: a bit that is always 1 says nothing.

  Args:
    vectors: [vectors, dimensions] float32 or float16.
    bits: of a code, divisible by 16.
    components: of the vectors, if they have been fitted already.
    seed: of sample, weights and order.
    steps: of Adam, of BATCH vectors each; None: STEPS.

  Raises:
    FeaturesError: bits cannot be stored.
  """
  _check_bits(bits)
  if components is None:
    components = fit_components(vectors, seed=seed)
  inputs = components.project(blocks.sample(vectors, SAMPLE, seed))
  scale = max(components.deviations[0], 1e-12)
  steps = STEPS if steps is None else steps
  layer = _fit(inputs / scale, bits, seed, steps)['encoder']
  return Coder(components, layer['kernel'] / scale, layer['bias'])


def rotated(components: Components, bits: int, seed: int = 0) -> Coder:
  """Codes without training: signs of randomly rotated principal components.

  Raises:
    FeaturesError: bits cannot be stored, or there are too few components.
  """
  _check_bits(bits)
  count = len(components.directions)
  if bits > count:
    raise FeaturesError(f'{bits} bits of {count} components: wanted fewer')
  noise = np.random.default_rng(seed).standard_normal((bits, bits))
  kernel = np.zeros((count, bits), np.float32)
  kernel[:bits] = np.linalg.qr(noise)[0]
  return Coder(components, kernel, np.zeros(bits, np.float32))


def _check_bits(bits):
  if bits < 16 or bits % 16:
    raise FeaturesError(f'a code of {bits} bits: wanted a multiple of 16')


def _fit(inputs, bits, seed, steps):
  model = Autoencoder(inputs.shape[1], bits, HIDDEN)
  order = np.random.default_rng(seed)
  params = model.init(jax.random.key(seed), inputs[:1])['params']
  optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
  state = optimizer.init(params)

  def loss(params, batch):
    decoded, code = model.apply({'params': params}, batch)
    error = jnp.mean(jnp.sum((decoded - batch) ** 2, axis=1))
    return error + BALANCE * jnp.mean(jnp.mean(code, axis=0) ** 2)

  @jax.jit
  def step(params, state, batch):
    gradients = jax.grad(loss)(params, batch)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  for _ in range(steps):
    batch = inputs[order.integers(0, len(inputs), BATCH)]
    params, state = step(params, state, batch)
  return jax.device_get(params)


@dataclasses.dataclass(frozen=True)
class CodeIndex:
  """A coder, and the codes [images, bits / 8] uint8 of a set of features."""

  coder: Coder
  codes: np.ndarray

  @functools.cached_property
  def _hamming(self):
    return nearest.Hamming(self.codes)

  def search(
      self, queries: np.ndarray, count: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Nearest codes of vectors [queries, dimensions], as `nearest.Hamming`."""
    return self._hamming.search(self.coder.encode(queries), count)


def open_index(found: store.FeatureSet, bits: int) -> CodeIndex:
  """Opens the codes of a set; trains and saves them on first use.

  Raises:
    FeaturesError: what is kept is damaged, or bits cannot be stored.
  """
  path = found.path / store.code_file(bits)
  if path.exists():
    index = _load(path)
    if (
        len(index.codes) != len(found)
        or index.coder.bits != bits
        or len(index.coder.components.mean) != found.vectors.shape[1]
    ):
      raise _unreadable(path, 'it is of other features')
    return index
  coder = train(found.vectors, bits)
  index = CodeIndex(coder, coder.encode(found.vectors))
  if found.path.is_dir():
    save(index, found)
  return index


def save(index: CodeIndex, found: store.FeatureSet) -> None:
  """Writes codes into the folder of their set."""
  coder = index.coder
  path = found.path / store.code_file(coder.bits)
  with atomic.opened(path, path.parent) as file:
    np.savez(
        file, **vars(coder.components), kernel=coder.kernel, bias=coder.bias,
        codes=index.codes,
    )


def _load(path):
  try:
    arrays = untrusted.load_arrays(path)
    (count, bits), (dimensions,) = (
        arrays[name].shape for name in ('kernel', 'mean')
    )
    shapes = {
        'mean': (dimensions,), 'directions': (count, dimensions),
        'deviations': (count,), 'kernel': (count, bits), 'bias': (bits,),
    }
    mean, directions, deviations, kernel, bias = (
        untrusted.check_array(name, arrays[name], 'f', shape)
        for name, shape in shapes.items()
    )
    codes = untrusted.check_array(
        'codes', arrays['codes'], 'u', (None, bits // 8)
    )
  except Exception as error:  # zipfile and NumPy raise many kinds.
    raise _unreadable(path, f'{type(error).__name__}: {error}') from error
  components = Components(mean, directions, deviations)
  return CodeIndex(Coder(components, kernel, bias), codes)


def _unreadable(path, why):
  return FeaturesError(
      f'cannot use {path} ({why}): remove it to train the autoencoder again'
  )


class Autoencoder(nn.Module):
  """Encodes by one layer, decodes by two with `hidden` units between."""

  dimensions: int
  bits: int
  hidden: int

  @nn.compact
  def __call__(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes and decodes.

    Args:
      vectors: [vectors, dimensions] float32.

    Returns:
      (the vectors as decoded, their codes of -1 and 1 [vectors, bits]). A bit
      is 1 where what the layer 'encoder' makes of the vector is positive.
    """
    units = nn.sigmoid(nn.Dense(self.bits, name='encoder')(vectors))
    # Straight through: the value is rounded, the gradient is the unit's own.
    code = 2 * (units + lax.stop_gradient(jnp.round(units) - units)) - 1
    hidden = nn.relu(nn.Dense(self.hidden, name='hidden')(code))
    return nn.Dense(self.dimensions, name='decoder')(hidden), code
