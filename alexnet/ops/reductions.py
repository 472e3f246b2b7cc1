"""Sums over windows, and of squares."""

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.ops import forms
from alexnet.ops.cpu import reductions as cpu_reductions


def window_sum(
    x: jax.Array,
    window: tuple[int, ...],
    groups: int = 1,
    *,
    mirrored: bool = False,
) -> jax.Array:
  """Sums over a window around each element; keeps x's shape.

  Args:
    x: array of any shape.
    window: size along each axis. If it is even, the extra element is before
      the centre.
    groups: number of equal runs of the last axis that no window crosses.
    mirrored: puts the extra element after the centre, as in the gradient.
  """
  padding = [(w // 2, w - 1 - w // 2) for w in window]
  if mirrored:
    padding = [(high, low) for low, high in padding]

  def plain(x):
    shape, sizes, borders = x.shape, window, padding
    if groups > 1:
      x = x.reshape(*shape[:-1], groups, -1)
      sizes = (*window[:-1], 1, window[-1])
      borders = (*padding[:-1], (0, 0), padding[-1])
    # One axis after the other: 10 sums for a window of 5 x 5 pixels, not 25.
    # The initial value is a Python scalar: with a traced one, reduce_window
    # becomes the general reduction, which is slow.
    for axis, size in enumerate(sizes):
      if size > 1:
        along, border = [1] * x.ndim, [(0, 0)] * x.ndim
        along[axis], border[axis] = size, borders[axis]
        x = lax.reduce_window(x, 0.0, lax.add, along, (1,) * x.ndim, border)
    return x.reshape(shape)

  def cpu(x):
    return cpu_reductions.window_sum(x, window, padding, groups)

  return forms.chosen(x, plain=plain, cpu=cpu)


def sum_of_squares(x: jax.Array) -> jax.Array:
  """Sums the squares of all elements, to []."""
  return forms.chosen(
      x,
      plain=lambda x: jnp.sum(jnp.square(x)),
      cpu=cpu_reductions.sum_of_squares,
  )
