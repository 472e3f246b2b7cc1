"""Network, data and devices of a config, for training and evaluation."""

from typing import Any

import jax
import ml_collections

from alexnet import models
from alexnet.config import validation
from alexnet.config.errors import ConfigError
from alexnet.evaluation import eval_steps, evaluator
from alexnet.evaluation.evaluator import Predictions
from alexnet.inference.views import Views
from alexnet.metrics.console import Console, Silence
from alexnet.models.inference_params import rounded
from alexnet.runtime import compilation, multihost, preemption, sharding
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime.gpu import device_memory
from input_pipeline import datasets
from input_pipeline.pipeline import Pipeline


class Task:
  """A checked config with its network, data and devices.

  Attributes:
    config: the whole config, completed from the data and other files.
    console: console for messages; silent except in the first process.
    mesh: the mesh, with axes (data, tower).
    train: the training set.
    evaluation: the evaluation set.
    model: the network.
    rules: training rules of the parameters of a network from a definition file;
      None for other networks.
    shapes: shapes of the variables, see `models.variable_shapes`.
    parameters: number of parameters of the network.
    pipeline: the data; only after `open_data`.
    views: functions from batches to the network's input; only after
      `open_data`.
    eval_steps: {views: compiled evaluation of a batch}; only after `open_data`.
    predict_steps: {views: compiled prediction of a batch}; only after
      `open_data`.
  """

  pipeline: Pipeline
  views: Views
  eval_steps: dict[str, Any]
  predict_steps: dict[str, Any]

  def __init__(self, config: ml_collections.ConfigDict, console: Console):
    """Checks the config, finds devices and data, and builds the network.

    Args:
      config: the whole config, from configs/ or a workdir; it is not changed.
      console: console for messages.

    Raises:
      UserError: the user can correct something; the message says what to do.
    """
    config = config.copy_and_resolve_references()
    models.check(config)
    validation.resolve_paths(config)
    network = models.network_of(config)
    network.complete(config)
    self.mesh = mesh_lib.create_mesh(config)
    self.console = console if multihost.is_first() else Silence()
    self._own_console = console
    self.train, self.evaluation = datasets.create_sources(
        config.dataset, config.seed
    )
    if config.model.num_classes is None:
      config.model.num_classes = len(self.train.class_names)
    elif config.model.num_classes < len(self.train.class_names):
      raise ConfigError(
          f'model.num_classes is {config.model.num_classes}, but '
          f'{self.train.name} has {len(self.train.class_names)} classes: '
          + (f'give the last layer of {config.layers} as many outputs'
             if network.outputs_are_given else 'leave the field unset')
      )
    self.config = config
    self.model = models.create_model(config.model)
    self.rules = network.parameter_rules(config)
    self.shapes = models.variable_shapes(
        self.model, models.input_shape(config)
    )
    self.parameters = models.number(self.shapes['params'])

  @property
  def compile_options(self) -> dict[str, Any]:
    """XLA options that the training step is compiled with."""
    return compilation.options(
        self.mesh.devices.flat[0], self.model.dtype,
        deterministic=self.config.deterministic,
    )

  @property
  def data_identity(self) -> str:
    """Identities of both sets, see `Source.identity`."""
    return '-'.join(one.identity() for one in (self.train, self.evaluation))

  @property
  def data_names(self) -> str:
    """Names of the sets, for messages."""
    return f'{self.train.name} and {self.evaluation.name}'

  def open_data(self) -> None:
    """Opens the pipeline; computes the statistics of images on first use.

    Raises:
      DataError: a field is invalid, or an image cannot be read.
    """
    config = self.config
    part, parts = sharding.part_of_process(
        self.mesh.devices, jax.process_index()
    )
    # One process computes the statistics, if they are not stored yet.
    with multihost.first_before_others('statistics'):
      self.pipeline = Pipeline(
          config,
          self.train,
          self.evaluation,
          process=part,
          processes=parts,
          # Every process warns, since any of them may hold up the others.
          report=lambda text: self._own_console.print(f'warning: {text}'),
      )
    self.views = Views(
        self.pipeline.mean_image,
        config.augmentation.mean_crop,
        mirror=config.augmentation.flip,
        crop=config.augmentation.crop_size,
        pad=config.augmentation.pad,
    )
    kinds = {'centre': self.views.centre, 'ten': self.views.ten}
    steps = lambda make: {
        name: make(
            model=self.model,
            mesh=self.mesh,
            variables=self.shapes,
            images=images,
            deterministic=config.deterministic,
        )
        for name, images in kinds.items()
    }
    self.eval_steps = steps(eval_steps.make_eval_step)
    self.predict_steps = steps(eval_steps.make_predict_step)

  def warn(self, text: str) -> None:
    """Shows a warning."""
    self.console.print(f'warning: {text}')

  def evaluate(
      self,
      variables: Any,
      views: str,
      *,
      stop: preemption.Stop | None = None,
  ) -> dict[str, float]:
    """Evaluates the network on the evaluation set, see `evaluator.evaluate`.

    Args:
      variables: arrays on the mesh.
      views: 'centre' or 'ten'.
      stop: signal to stop, see `evaluator.evaluate`.

    Raises:
      DeviceMemoryError: a device does not have enough memory.
    """
    with device_memory.evaluation(self.config, self.mesh).explained():
      return evaluator.evaluate(
          self.eval_steps[views],
          rounded(variables, self.model.dtype),
          self.pipeline,
          mesh=self.mesh,
          batch_size=self.config.evaluation_batch_size,
          views=views,
          console=self.console,
          stop=stop,
      )

  def predict(self, variables: Any, views: str) -> Predictions:
    """Predicts the classes of the evaluation set, see `evaluator.predict`.

    Args:
      variables: arrays on the mesh.
      views: 'centre' or 'ten'.

    Raises:
      DeviceMemoryError: a device does not have enough memory.
    """
    with device_memory.evaluation(self.config, self.mesh).explained():
      return evaluator.predict(
          self.predict_steps[views],
          rounded(variables, self.model.dtype),
          self.pipeline,
          mesh=self.mesh,
          batch_size=self.config.evaluation_batch_size,
          views=views,
          console=self.console,
      )
