"""Which form of an operation is computed: the plain one, or a platform's."""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Form = Callable[..., jax.Array]

# JAX caches what it has traced for each value of such a context.
_plain_only = jax.make_user_context(False)


def plain_forms() -> contextlib.AbstractContextManager[None]:
  """Within this context every operation takes its plain form, everywhere.

  For `jax.export`, which refuses the custom calls of the CPU's forms and has no
  numbers to compare if the batch size is symbolic, and to see whether one of
  these forms is to blame. It holds for what is traced in it, in this thread. A
  function of `jax.jit` is traced once with it and once without it; what has
  been lowered or compiled stays as it is.
  """
  return _plain_only(True)


def chosen(
    *arrays: jax.Array, plain: Form, cpu: Form, gpu: Form | None = None
) -> jax.Array:
  """Computes an operation by the form of the platform that it runs on.

  So are its gradients, which are those of the form that is computed.

  Args:
    *arrays: operands; inside `jax.shard_map` all vary over the same axes, see
      `collectives.with_equal_varying_axes`.
    plain: a function of the arrays, for all other platforms.
    cpu: another form of it for CPUs, whose gradients may be custom.
    gpu: likewise for NVIDIA's GPUs; None: the plain one.
  """
  # Parameters of a network that is not compiled may be NumPy's.
  arrays = tuple(map(jnp.asarray, arrays))
  if _plain_only.value:
    return plain(*arrays)
  forms = {'cpu': cpu, 'default': plain}
  if gpu is not None:
    forms['cuda'] = gpu

  def on_platform(change, *arguments):
    changed = {name: change(form) for name, form in forms.items()}
    return lax.platform_dependent(*arguments, **changed)

  @jax.custom_vjp
  def operation(*arrays):
    return lax.platform_dependent(*arrays, **forms)

  def forward(*arrays):
    return on_platform(_as_differentiated, *arrays), arrays

  def backward(arrays, g):
    return on_platform(_gradients, g, *arrays)

  operation.defvjp(forward, backward)
  return operation(*arrays)


def _as_differentiated(form):
  """The result as that of a custom gradient's forward pass."""
  return lambda *arrays: jax.vjp(form, *arrays)[0]


def _gradients(form):
  return lambda g, *arrays: jax.vjp(form, *arrays)[1](g)
