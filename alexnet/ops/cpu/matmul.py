"""Matrix products that are fast in XLA's CPU backend.

Products with a transposed second operand are slow: the gradient of fc6's input
takes seven times as long in float32. In bfloat16 they are three to four times
as fast as in float32 if both operands are stored row-major and the result is
float32.
"""

import jax
import jax.numpy as jnp

from alexnet.ops.cpu.layout import pad_axis, stored


def matrix_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """Multiplies [rows, inputs] and [inputs, features] to float32."""
  # Stored, because XLA fails if it wants the result transposed.
  return stored(jnp.matmul(a, b, preferred_element_type=jnp.float32))


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The product x @ kernel, rounded to x's dtype once; sums are float32.

  Where nobody asks for gradients that in bfloat16 is one of the transposed
  arrays: YNNPACK brings the second of two into an order of its own, each time,
  which for the kernel takes as long as to multiply 32 rows. So the kernel
  should be the transpose of an array that is there, see
  models/inference_params.py.

  Args:
    x: [rows, inputs] bfloat16 or float32.
    kernel: [inputs, features] of x's dtype, or float32, which is rounded first;
      its gradient then is not.

  Returns:
    [rows, features] of x's dtype.
  """
  if x.dtype != jnp.bfloat16:
    return _product_to_train(x, kernel)
  rows = len(x)
  kernel = stored(kernel.astype(x.dtype).T)
  if rows == 1:
    return _vector_product(kernel, x[0]).astype(x.dtype)[None]
  # Fewer than 16 take longer than 16.
  x = pad_axis(x, 0, 0, -rows % 16)
  return matrix_product(kernel, stored(x.T))[:, :rows].astype(x.dtype).T


def _product_to_train(x, kernel):
  rows = len(x)
  if rows == 1 and x.dtype == jnp.bfloat16:
    # Of a vector XLA would convert the kernel to float32, and store that.
    x = pad_axis(x, 0, 0, 1)
  y = matrix_product(x, stored(kernel.astype(x.dtype)))
  return y[:rows].astype(x.dtype)


def _product_forward(x, kernel):
  return _product_to_train(x, kernel), (x, kernel)


def _product_backward(saved, g):
  x, kernel = saved
  # Rather than to transpose the kernel, the largest of the three.
  gradient = matrix_product(stored(kernel.astype(g.dtype)), stored(g.T)).T
  of_kernel = matrix_product(stored(x.T), g)
  return gradient.astype(g.dtype), of_kernel.astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def _vector_product(kernel, x):
  # Parts of each row are multiplied and added element by element: a fifteenth
  # of the time of XLA's, see `product`.
  size = len(x)
  parts = max(n for n in range(1, 17) if size % n == 0)
  kernel = kernel.reshape(-1, parts, size // parts)
  total = 0.0
  for i, part in enumerate(x.reshape(parts, -1)):
    # Converted after they are taken apart: before, XLA would store that too.
    total += kernel[:, i].astype(jnp.float32) * part.astype(jnp.float32)
  return stored(total) @ jnp.ones(size // parts)
