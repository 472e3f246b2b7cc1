"""Rounds parameters once, for repeated predictions.

A network that computes in bfloat16 rounds its float32 parameters wherever it
uses them: in training anew in each step, as they change. For predictions the
kernels of the fully connected layers, 96 % of all, are rounded here, once: the
step for one image takes 6.8 ms instead of 13.3 on two CPU cores, and
`TrainedNetwork.predict` 8 instead of 36.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rounded:
  """Parameters with rounded kernels of fully connected layers.

  Attributes:
    arrays: tree of float32 arrays, except those kernels: [features, inputs], of
      the dtype that the network computes in.
  """

  arrays: Any


def rounded(variables: Any, dtype: jnp.dtype) -> Any:
  """Variables for the same predictions: on a CPU to the bit.

  Args:
    variables: {'params': tree of float32, and collections of the model state}.
    dtype: that the network computes in.

  Returns:
    The same with `Rounded` parameters; of float32 the variables themselves.
  """
  if dtype == jnp.float32:
    return variables
  return {**variables, 'params': Rounded(_rounded(variables['params'], dtype))}


@functools.partial(jax.jit, static_argnums=1)
def _rounded(params, dtype):
  return jax.tree.map(
      lambda array: array.T.astype(dtype) if _is_dense(array) else array, params
  )


def for_module(variables: Any) -> Any:
  """The variables that a module takes, inside of what is compiled.

  Args:
    variables: from `rounded`, or as they are.
  """
  if not isinstance(params := variables['params'], Rounded):
    return variables
  params = jax.tree.map(
      lambda array: array.T if _is_dense(array) else array, params.arrays
  )
  return {**variables, 'params': params}


def _is_dense(array):
  # Biases have one axis or three, kernels of convolutions four or more.
  return array.ndim == 2
