"""The workdir of a tiny network that has only been initialized."""

import pathlib

import jax
import numpy as np

from alexnet.checkpointing import input_spec, manager, workdir
from alexnet.inference import loading, predictor
from alexnet.models import create_model
from tests import tiny


def write(
    directory: pathlib.Path, images: pathlib.Path, classes: int, step: int = 2
) -> predictor.TrainedNetwork:
  """Writes a run on a folder of images, and loads its network."""
  config = tiny.get_config()
  config.dataset.train_dir = str(images)
  config.model.num_classes = classes
  directory.mkdir()
  workdir.save_config(directory, config)
  names = tuple(f'class{label}' for label in range(classes))
  mean = np.full((256, 256, 3), 120, np.float32)
  input_spec.save(
      directory, input_spec.Inputs(names, mean, 'keep', np.ones(3), np.eye(3))
  )
  init = jax.jit(create_model(config.model).init)
  shape = (1, 224, 224, 3)
  params = init(jax.random.key(0), np.zeros(shape, np.float32))['params']
  store = manager.Checkpoints(directory, 1)
  store.save(step, {'params': params}, {})
  store.close()
  return loading.load(directory)
