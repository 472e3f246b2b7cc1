"""TensorFlow as this project uses it: on the CPU, and quiet.

Other files import it by `from input_pipeline.files.tensorflow_cpu import tf`.
"""

import os

# TensorFlow's C++ log is about itself; what fails also comes as an exception.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Its oneDNN announces itself at every start and is of no use here.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

import tensorflow as tf

# TensorFlow only feeds here: the accelerators' memory is for JAX.
tf.config.set_visible_devices([], 'GPU')

__all__ = ['tf']
