"""Outputs and gradients beside TensorFlow's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape).astype(np.float32)


def output_and_gradients(function, g, *inputs):
  y, pullback = jax.vjp(function, *inputs)
  return y, pullback(jnp.asarray(g, y.dtype))


def exactly(function, g, *inputs):
  """Output and gradients by TensorFlow, in float64."""
  inputs = [tf.constant(np.asarray(x, np.float64)) for x in inputs]
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    y = function(*inputs)
  g = tf.constant(np.asarray(g, np.float64))
  return y.numpy(), [x.numpy() for x in tape.gradient(y, inputs, g)]
