"""Which form of an operation is computed: the plain one or that of CPUs."""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# JAX caches what it has traced for each value of such a context.
_plain_only = jax.make_user_context(False)


def plain_forms() -> contextlib.AbstractContextManager[None]:
  """Within this context every operation takes its plain form, on CPUs as well.

  For `jax.export`, which refuses the custom calls of the CPU's forms and has no
  numbers to compare if the batch size is symbolic, and to see whether one of
  these forms is to blame. It holds for what is traced in it, in this thread. A
  function of `jax.jit` is traced once with it and once without it; what has
  been lowered or compiled stays as it is.
  """
  return _plain_only(True)


def chosen(
    *arrays: jax.Array,
    plain: Callable[..., jax.Array],
    cpu: Callable[..., jax.Array],
) -> jax.Array:
  """Computes an operation, on CPUs by `cpu` and elsewhere by `plain`.

  So are its gradients, which are those of the form that is computed.

  Args:
    *arrays: operands; inside `jax.shard_map` all vary over the same axes, see
      `collectives.with_equal_varying_axes`.
    plain: a function of the arrays.
    cpu: another form of it, whose gradients may be custom.
  """
  # Without `jax.jit` they may be NumPy's, which XLA cannot be told to store.
  arrays = tuple(map(jnp.asarray, arrays))
  if _plain_only.value:
    return plain(*arrays)

  @jax.custom_vjp
  def operation(*arrays):
    return lax.platform_dependent(*arrays, cpu=cpu, default=plain)

  def forward(*arrays):
    y = lax.platform_dependent(
        *arrays, cpu=_as_differentiated(cpu), default=plain
    )
    return y, arrays

  def backward(arrays, g):
    return lax.platform_dependent(
        g, *arrays, cpu=_gradients(cpu), default=_gradients(plain)
    )

  operation.defvjp(forward, backward)
  return operation(*arrays)


def _as_differentiated(form):
  """The result as that of a custom gradient's forward pass."""
  return lambda *arrays: jax.vjp(form, *arrays)[0]


def _gradients(form):
  return lambda g, *arrays: jax.vjp(form, *arrays)[1](g)
