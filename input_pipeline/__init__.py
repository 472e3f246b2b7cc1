"""Images to batches, by tf.data; knows nothing of JAX."""

import tensorflow as tf

# TensorFlow only feeds here: the accelerators' memory is for JAX.
tf.config.set_visible_devices([], 'GPU')
