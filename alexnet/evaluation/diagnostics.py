"""Measurements and pictures of a network at each evaluation of a run.

They read the state and use separate batches, so they do not affect training.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import logging

from alexnet.checkpointing import input_spec
from alexnet.evaluation import image_summaries, layer_statistics
from alexnet.evaluation.task import Task
from alexnet.metrics.writer import Writer
from alexnet.models.inference_params import rounded
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import multihost, sharding
from alexnet.runtime.gpu import device_memory
from input_pipeline.errors import NO_ROOM
from input_pipeline.sources import Source


class Observer:
  """Measures layers and draws pictures, if the config enables them."""

  def __init__(self, task: Task, workdir: pathlib.Path):
    """Creates the observer; reads and compiles nothing yet.

    Args:
      task: task of the run, with its data open. Of its config,
        layer_statistics_images and log_images are read.
      workdir: folder of the run.
    """
    self._task = task
    self._workdir = workdir
    self._batches = {}
    self._measure = None
    if task.config.layer_statistics_images:
      self._measure = layer_statistics.make_measure(
          model=task.model,
          mesh=task.mesh,
          variables=task.shapes,
          images=task.views.centre,
          deterministic=task.config.deterministic,
      )

  def observe(
      self, writer: Writer, step: int, state: Any, rates: Any
  ) -> None:
    """Writes measurements and pictures of a state.

    Args:
      writer: writer of the run.
      step: number of updates made.
      state: the state after them, a `TrainState`; it is not donated.
      rates: learning rate of each parameter; parameters with 0 are frozen.

    Raises:
      DeviceMemoryError: a device does not have enough memory.
    """
    with device_memory.measuring(
        self._task.config, self._task.mesh
    ).explained():
      self._observe(writer, step, state, rates)

  def _observe(self, writer, step, state, rates):
    if self._measure:
      batch, _ = self._batch(
          self._task.train, self._task.config.layer_statistics_images
      )
      velocity = layer_statistics.velocity_of(state.opt_state, rates)
      result = self._measure(state.variables, velocity, batch)
      values = {name: float(value) for name, value in result.items()}
      writer.write(layer_statistics.KIND, step, values)
    if self._task.config.log_images:
      source = self._task.evaluation
      batch, squares = self._batch(source, image_summaries.IMAGES)
      predict = self._task.predict_steps['centre']
      variables = rounded(state.variables, self._task.model.dtype)
      result = jax.device_get(predict(variables, batch))
      if not multihost.is_first():
        return
      try:
        image_summaries.write(
            self._workdir,
            writer,
            step,
            params=state.params,
            towers=self._task.config.model.towers,
            squares=squares,
            log_probabilities=result['log_probabilities'],
            labels=result['label'],
            class_names=input_spec.output_names(
                source.class_names, self._task.config.model.num_classes
            ),
        )
      except OSError as error:
        if error.errno not in NO_ROOM:
          raise
        logging.warning('no room for the pictures of step %d: %s', step, error)

  def _batch(self, source: Source, count: int):
    """Returns (batch on the mesh, its images on the host).

    The images of a source are the same at each evaluation.
    """
    if source not in self._batches:
      data = self._task.mesh.shape[mesh_lib.DATA]
      count = max(1, min(count, len(source)) // data) * data
      images, labels = self._task.pipeline.sample(source, count)
      part, parts = sharding.part_of_process(
          self._task.mesh.devices, jax.process_index()
      )
      mine = slice(part * count // parts, (part + 1) * count // parts)
      batch = {
          'image': images[mine],
          'label': labels[mine],
          'weight': np.ones_like(labels[mine], np.float32),
      }
      self._batches[source] = batch, images
    batch, images = self._batches[source]
    return sharding.put_batch(batch, self._task.mesh), images
