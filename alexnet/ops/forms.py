"""Selection of an operation's form: the plain one, or a platform's."""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from alexnet.runtime import compilation

Form = Callable[..., jax.Array]

# The value of a user context is part of the key of JAX's tracing cache.
_plain_only = jax.make_user_context(False)


def plain_forms() -> contextlib.AbstractContextManager[None]:
  """Returns a context in which every operation takes its plain form.

  Use it for `jax.export`, which refuses the custom calls of the CPU's forms and
  cannot compare symbolic batch sizes, or to check whether a special form causes
  a problem. It applies to functions traced inside it, in this thread.
  `jax.jit` traces a function separately inside and outside; functions already
  lowered or compiled do not change.
  """
  return _plain_only(True)


def chosen(
    *arrays: jax.Array, plain: Form, cpu: Form, gpu: Form | None = None
) -> jax.Array:
  """Computes an operation and its gradients in the form of its platform.

  Args:
    *arrays: operands; inside `jax.shard_map` all must vary over the same axes,
      see `collectives.with_equal_varying_axes`.
    plain: function of the arrays, used on all other platforms.
    cpu: form for CPUs; may have custom gradients.
    gpu: form for NVIDIA GPUs, as for `cpu`; None uses the plain form.
  """
  # Parameters of an uncompiled network may be NumPy arrays.
  arrays = tuple(map(jnp.asarray, arrays))
  if _plain_only.value:
    return plain(*arrays)
  forms = {'cpu': cpu, 'default': plain}
  if gpu is not None:
    forms['cuda'] = gpu
  # Tracing the forms of other platforms would take as long again.
  platform = compilation.traced_platform()
  if platform == 'cpu':
    forms = {'default': cpu}
  elif platform is not None:
    del forms['cpu']

  def on_platform(change, *arguments):
    changed = {name: change(form) for name, form in forms.items()}
    if len(changed) == 1:
      return changed['default'](*arguments)
    return lax.platform_dependent(*arguments, **changed)

  @jax.custom_vjp
  def operation(*arrays):
    return on_platform(lambda form: form, *arrays)

  def forward(*arrays):
    return on_platform(_as_differentiated, *arrays), arrays

  def backward(arrays, g):
    return on_platform(_gradients, g, *arrays)

  operation.defvjp(forward, backward)
  return operation(*arrays)


def _as_differentiated(form):
  """Returns the form as the forward pass of its custom gradient."""
  return lambda *arrays: jax.vjp(form, *arrays)[0]


def _gradients(form):
  return lambda g, *arrays: jax.vjp(form, *arrays)[1](g)
