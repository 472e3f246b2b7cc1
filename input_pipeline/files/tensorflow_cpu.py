"""Imports TensorFlow for the CPU only, with less logging.

Other files use `from input_pipeline.files.tensorflow_cpu import tf`.
"""

import os

# TensorFlow's C++ log is about itself; errors also arrive as exceptions.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# oneDNN announces itself at every start and is not needed here.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

import tensorflow as tf

# TensorFlow only reads data; the accelerators' memory is for JAX.
tf.config.set_visible_devices([], 'GPU')

__all__ = ['tf']
