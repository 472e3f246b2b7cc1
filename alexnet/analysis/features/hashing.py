"""Short binary codes of features, by an autoencoder (paper §7).

  coder = hashing.train(features, bits=128)
  index = coder.encode(features)          # [images, 16] uint8

The paper proposes to train one on the features, so that similar images have
codes that differ in few bits. The code follows Krizhevsky and Hinton, "Using
very deep autoencoders for content-based image retrieval" (2011): logistic
units, rounded in the forward pass; the gradient ignores the rounding.

The autoencoder reads the first principal components of the features. These
preserve nearly all of the distances, and training on all 4,096 dimensions would
take many times as long.
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
# Most vectors to fit components and autoencoder to.
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
    directions: [components, dimensions] float32, orthonormal, by descending
      variance.
    deviations: [components] float32, standard deviations along them.
  """

  mean: np.ndarray
  directions: np.ndarray
  deviations: np.ndarray

  def first(self, count: int) -> 'Components':
    """Returns the components with the largest variances."""
    return Components(
        self.mean, self.directions[:count], self.deviations[:count]
    )

  def project(
      self, vectors: np.ndarray, count: int | None = None
  ) -> np.ndarray:
    """Projects [vectors, dimensions] to [vectors, count] float32."""
    directions = self.directions[:count]
    # The mean is subtracted afterwards, which avoids copying the vectors.
    offset = directions @ self.mean
    out = np.empty((len(vectors), len(directions)), np.float32)
    for start, block in blocks.each(vectors):
      out[start : start + len(block)] = block @ directions.T - offset
    return out


def fit_components(
    vectors: np.ndarray, count: int = COMPONENTS, seed: int = 0
) -> Components:
  """Fits the first `count` principal components, or all if fewer.

  Uses a sample of SAMPLE vectors [vectors, dimensions], float32 or float16. The
  seed is for the sample and the randomized algorithm.
  """
  from sklearn import decomposition  # Slow to import.

  some = blocks.sample(vectors, SAMPLE, seed)
  count = min(count, *some.shape)
  # The exact solver is fast enough for small problems.
  solver = 'full' if max(some.shape) <= 1000 else 'randomized'
  fit = decomposition.PCA(count, svd_solver=solver, random_state=seed).fit(some)
  found = fit.mean_, fit.components_, np.sqrt(fit.explained_variance_)
  return Components(*(array.astype(np.float32) for array in found))


@dataclasses.dataclass(frozen=True)
class Coder:
  """Encodes vectors in bits: bit i is whether output i is positive.

  Attributes:
    components: components to project vectors to.
    kernel: [components, bits] float32.
    bias: [bits] float32.
  """

  components: Components
  kernel: np.ndarray
  bias: np.ndarray

  @property
  def bits(self) -> int:
    """Number of bits of a code."""
    return len(self.bias)

  def encode(self, vectors: np.ndarray) -> np.ndarray:
    """Encodes [vectors, dimensions] floats as [vectors, bits / 8] uint8."""
    matrix, offset = self._from_vectors
    return np.concatenate([
        nearest.pack(block @ matrix + offset > 0)
        for _, block in blocks.each(vectors)
    ])

  @functools.cached_property
  def _from_vectors(self):
    """Merges components and kernel to [dimensions, bits] and an offset."""
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
  mean of the bits (-1 or 1) in a batch, which penalizes constant bits.

  Args:
    vectors: [vectors, dimensions] float32 or float16.
    bits: length of a code, divisible by 16.
    components: components of the vectors, if already fitted.
    seed: seed of the sample, the weights and the order.
    steps: steps of Adam, with BATCH vectors each; None for STEPS.

  Raises:
    FeaturesError: the number of bits is invalid.
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
  """Makes codes without training: signs of rotated principal components.

  Raises:
    FeaturesError: the number of bits is invalid or exceeds the components.
  """
  _check_bits(bits)
  count = len(components.directions)
  if bits > count:
    raise FeaturesError(f'{bits} bits of {count} components: expected fewer')
  noise = np.random.default_rng(seed).standard_normal((bits, bits))
  kernel = np.zeros((count, bits), np.float32)
  kernel[:bits] = np.linalg.qr(noise)[0]
  return Coder(components, kernel, np.zeros(bits, np.float32))


def _check_bits(bits):
  if bits < 16 or bits % 16:
    raise FeaturesError(f'a code of {bits} bits: expected a multiple of 16')


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
  """A coder, and the codes [images, bits / 8] uint8 of a feature set."""

  coder: Coder
  codes: np.ndarray

  @functools.cached_property
  def _hamming(self):
    return nearest.Hamming(self.codes)

  def search(
      self, queries: np.ndarray, count: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Nearest codes of [queries, dimensions], see `nearest.Hamming.search`."""
    return self._hamming.search(self.coder.encode(queries), count)


def open_index(found: store.FeatureSet, bits: int) -> CodeIndex:
  """Opens a set's codes; on first use trains and saves them.

  Raises:
    FeaturesError: the file is damaged, or the number of bits is invalid.
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
  """Writes codes to the folder of their set."""
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
  """Encodes with one layer; decodes with two, with `hidden` units between."""

  dimensions: int
  bits: int
  hidden: int

  @nn.compact
  def __call__(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes and decodes vectors.

    Args:
      vectors: [vectors, dimensions] float32.

    Returns:
      (decoded vectors, codes of -1 and 1 [vectors, bits]). A bit is 1 if the
      output of the layer 'encoder' is positive.
    """
    units = nn.sigmoid(nn.Dense(self.bits, name='encoder')(vectors))
    # Straight-through: the value is rounded, the gradient is the unit's.
    code = 2 * (units + lax.stop_gradient(jnp.round(units) - units)) - 1
    hidden = nn.relu(nn.Dense(self.hidden, name='hidden')(code))
    return nn.Dense(self.dimensions, name='decoder')(hidden), code
