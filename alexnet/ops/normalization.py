"""Response normalization: across channels, across pixels, and by contrast."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops import forms
from alexnet.ops.reductions import window_sum


def local_response_normalization(
    x: jax.Array,
    *,
    n: int,
    k: float,
    alpha: float,
    beta: float,
    groups: int = 1,
) -> jax.Array:
  """Divides activations by a power of the sum of squares of their neighbours.

  y[c] = x[c] / (k + alpha * sum(x[j] ** 2)) ** beta, where j runs over the n
  channels around c that exist and lie in the same group (paper §3.3). `alpha`
  multiplies the plain sum; libraries that divide alpha by n (Caffe, torch, ONNX
  and the authors' own code) need alpha * n for the same result.

  Args:
    x: [..., channels], float32 or bfloat16; sums are always float32.
    n: size of the window, in channels. An even window has its extra channel
      before the centre, as in cuda-convnet.
    k: constant of the denominator.
    alpha: factor of the sum of squares.
    beta: exponent.
    groups: number of equal runs of channels that no window crosses; 2 for the
      two towers in one array.

  Returns:
    An array of x's shape and dtype.

  Raises:
    ValueError: groups does not divide the channels, or n < 1.
  """
  channels = x.shape[-1]
  if channels % groups or n < 1:
    raise ValueError(
        f'local_response_normalization got {channels} channels, {groups=}, '
        f'{n=}: groups must divide the channels and n must be at least 1'
    )
  window = (1,) * (x.ndim - 1) + (n,)
  return _divide_by_neighbours(x, window, groups, k, alpha, beta)


def spatial_response_normalization(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float
) -> jax.Array:
  """Response normalization over a size x size window of the same map.

  y = x / (k + alpha / size**2 * sum(x ** 2 in the window)) ** beta; pixels
  outside the image count as zero (run #145, after conv2).

  Args:
    x: [batch, height, width, channels], float32 or bfloat16.
    size: side of the window in pixels.
    k: constant of the denominator.
    alpha: factor of the mean of squares.
    beta: exponent.

  Returns:
    An array of x's shape and dtype.
  """
  return _divide_by_neighbours(
      x, (1, size, size, 1), 1, k, alpha / size**2, beta
  )


def contrast_normalization(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float
) -> jax.Array:
  """Divides by a power of the variance in a size x size window of the map.

  y = x / (k + alpha / size**2 * sum((x - mean(x)) ** 2 in the window)) ** beta,
  where mean(x) is the mean of each pixel's own window; both leave out pixels
  outside the image. The derivative treats the means as constants, as in
  cuda-convnet (cnorm: conv_util.cu, convContrastNorm and its Undo).

  For arguments and result see `spatial_response_normalization`.
  """
  window = (1, size, size, 1)
  wide = x.astype(jnp.float32)
  count = window_sum(jnp.ones((1, *x.shape[1:3], 1), jnp.float32), window)
  difference = wide - lax.stop_gradient(window_sum(wide, window) / count)
  d = k + alpha / size**2 * window_sum(difference**2, window)
  return (wide * _negative_power(d, beta)).astype(x.dtype)


def _negative_power(d, beta):
  # rsqrt and sqrt are single instructions on every platform, pow is not.
  if beta == 0.75:
    return lax.rsqrt(d * jnp.sqrt(d))
  return d**-beta


def _divide_by_neighbours(x, window, groups, k, alpha, beta):
  """Returns x / (k + alpha * sum(x ** 2 in the window)) ** beta."""
  settings = (window, groups, k, alpha, beta)

  def plain(x):
    return _divided(x, *settings)[0]

  def cpu(x):
    return _with_derivative(x, *settings, False)

  def gpu(x):
    # In float32, keeping the sums is cheaper than computing them again.
    return _with_derivative(x, *settings, x.dtype == jnp.bfloat16)

  return forms.chosen(x, plain=plain, cpu=cpu, gpu=gpu)


def _divided(x, window, groups, k, alpha, beta):
  wide = x.astype(jnp.float32)
  d = k + alpha * window_sum(wide * wide, window, groups)
  return (wide * _negative_power(d, beta)).astype(x.dtype), d


# Written out, the derivative needs only one more window sum; automatic
# differentiation keeps four arrays of x's size and takes twice the time.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5, 6))
def _with_derivative(x, window, groups, k, alpha, beta, anew):
  """Does as `_divided`; if `anew`, the derivative recomputes the sums."""
  del anew
  return _divided(x, window, groups, k, alpha, beta)[0]


def _forward(x, window, groups, k, alpha, beta, anew):
  y, d = _divided(x, window, groups, k, alpha, beta)
  return y, (x, None if anew else d)


def _backward(window, groups, k, alpha, beta, anew, saved, g):
  x, d = saved
  if anew:
    # Without a barrier XLA would merge both and keep the sums.
    x = lax.optimization_barrier(x)
    d = _divided(x, window, groups, k, alpha, beta)[1]
  wide, g = x.astype(jnp.float32), g.astype(jnp.float32)
  scale = _negative_power(d, beta)
  through_sum = window_sum(g * wide * scale / d, window, groups, mirrored=True)
  gradient = g * scale - 2 * alpha * beta * wide * through_sum
  return (gradient.astype(x.dtype),)


_with_derivative.defvjp(_forward, _backward)
