"""Matrix products that are fast in XLA's CPU backend.

Products with a transposed second operand are slow: the gradient of fc6's input
takes seven times as long in float32. bfloat16 products are three to four times
as fast as float32 ones if both operands are stored row-major and the result is
float32.
"""

import jax
import jax.numpy as jnp

from alexnet.ops.cpu.layout import pad_axis, stored


def matrix_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """Multiplies [rows, inputs] and [inputs, features] to float32."""
  # Stored, because XLA fails if a consumer reads the result transposed.
  return stored(jnp.matmul(a, b, preferred_element_type=jnp.float32))


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes x @ kernel with float32 sums, rounded once to x's dtype.

  If no gradients are computed, a bfloat16 product is that of the transposed
  arrays, kernel first: YNNPACK reorders the second operand in each call, which
  for the kernel takes as long as multiplying 32 rows. So the kernel should be
  the transpose of a stored array, see models/inference_params.py.

  Args:
    x: [rows, inputs] bfloat16 or float32.
    kernel: [inputs, features], of x's dtype or float32. A float32 kernel is
      rounded to x's dtype first; its gradient is not rounded.

  Returns:
    [rows, features] of x's dtype.
  """
  if x.dtype != jnp.bfloat16:
    return _product_to_train(x, kernel)
  rows = len(x)
  kernel = stored(kernel.astype(x.dtype).T)
  if rows == 1:
    return _vector_product(kernel, x[0]).astype(x.dtype)[None]
  # Products with fewer than 16 columns take longer than those with 16.
  x = pad_axis(x, 0, 0, -rows % 16)
  return matrix_product(kernel, stored(x.T))[:, :rows].astype(x.dtype).T


def _product_to_train(x, kernel):
  rows = len(x)
  if rows == 1 and x.dtype == jnp.bfloat16:
    # For a vector, XLA would convert the kernel to float32 and store it.
    x = pad_axis(x, 0, 0, 1)
  y = matrix_product(x, stored(kernel.astype(x.dtype)))
  return y[:rows].astype(x.dtype)


def _product_forward(x, kernel):
  return _product_to_train(x, kernel), (x, kernel)


def _product_backward(saved, g):
  x, kernel = saved
  # Transposes g and the result, because the kernel is the largest array.
  gradient = matrix_product(stored(kernel.astype(g.dtype)), stored(g.T)).T
  of_kernel = matrix_product(stored(x.T), g)
  return gradient.astype(g.dtype), of_kernel.astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def _vector_product(kernel, x):
  # Parts of each row are multiplied and added element-wise, in a fifteenth of
  # the time that XLA takes for the same product.
  size = len(x)
  parts = max(n for n in range(1, 17) if size % n == 0)
  kernel = kernel.reshape(-1, parts, size // parts)
  total = 0.0
  for i, part in enumerate(x.reshape(parts, -1)):
    # Converted part by part, because XLA would store a converted kernel.
    total += kernel[:, i].astype(jnp.float32) * part.astype(jnp.float32)
  return stored(total) @ jnp.ones(size // parts)
