"""A run: the loop over training steps, evaluation, checkpoints, restarts.

A workdir holds config.json, environment.json, inputs.npz, metrics.jsonl,
tensorboard/, checkpoints/ and, after the end, results.json. The same command
on the same workdir continues where it was.
"""

import dataclasses
import math
import pathlib
import signal
from typing import Any

import jax
import ml_collections
import numpy as np

from alexnet import (
  checkpoints,
  definitions,
  durations,
  environment,
  evaluation,
  inputs,
  layer_statistics,
  metrics,
  observer,
  optimizer,
  partitioning,
  pretrained,
  train_step,
)
from alexnet import views as views_lib
from alexnet import workdir as workdir_lib
from alexnet.errors import CheckpointError, ConfigError, NonFiniteLossError
from alexnet.evaluation import Predictions
from alexnet.models import create_model
from input_pipeline import datasets
from input_pipeline.pipeline import Pipeline


@dataclasses.dataclass
class Progress:
  """What a run knows besides its arrays; saved in each checkpoint.

  Attributes:
    step: updates made.
    data: identity of the training and the evaluation set.
    seconds: spent in training steps.
    evaluated_step: of the last evaluation.
    plateau: the plateau rule's state.
    loss, top1, steps: sums since the last line of the log, and their number.
    train_error: of the last line of the log.
    pretrained: `Pretrained.record` of the run it has started from, if any.
  """

  step: int = 0
  data: str = ''
  seconds: float = 0.0
  evaluated_step: int = 0
  plateau: optimizer.Plateau = dataclasses.field(
      default_factory=optimizer.Plateau
  )
  loss: float = 0.0
  top1: float = 0.0
  steps: int = 0
  train_error: float = 1.0
  pretrained: dict[str, Any] | None = None

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> 'Progress':
    """Reads what `dataclasses.asdict` gave."""
    plateau = optimizer.Plateau(**values['plateau'])
    return cls(**{**values, 'plateau': plateau})


class Run:
  """One run in its workdir: opened, or continued, then trained or evaluated."""

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      workdir: pathlib.Path,
      console: metrics.Console,
      *,
      training: bool = True,
  ):
    """Opens the data, builds the network and restores the newest checkpoint.

    Args:
      config: as from configs/alexnet.py.
      workdir: folder of the run, made if need be.
      console: for messages.
      training: whether the run is to go on; otherwise nothing is written.

    Raises:
      UserError, DataError: something the user can mend; says what to do.
    """
    # What is filled in below is not to show in the caller's.
    config = config.copy_and_resolve_references()
    self._console = console
    self.workdir = workdir
    definitions.read_files(config)
    self.mesh = partitioning.create_mesh(config)
    train, evaluation = datasets.create_sources(config.dataset, config.seed)
    if config.model.num_classes is None:
      config.model.num_classes = len(train.class_names)
    elif config.model.num_classes < len(train.class_names):
      raise ConfigError(
          f'model.num_classes is {config.model.num_classes}, but {train.name} '
          f'has {len(train.class_names)} classes: '
          + ('leave the field unset' if config.model.name != definitions.NAME
             else f'give the last layer of {config.layers} as many outputs')
      )
    self.config = config
    workdir_lib.check_config(workdir, config)
    self.model = create_model(config.model)
    self._rules = definitions.rules(config)
    self._optimizer = optimizer.create_optimizer(config.optimizer, self._rules)
    self._steps_per_epoch = len(train) / config.batch_size
    self._plan(len(train))
    shapes = jax.eval_shape(self._create_state, jax.random.key(0))
    self._layers = optimizer.layer_names(shapes.params)
    optimizer.check_schedule(config.schedule, self._layers, self._rules)
    optimizer.check_rate_factors(
        config.optimizer.layer_rate_factors, self._layers
    )
    pretrained.check(config.pretrained)
    self._pretrained = None
    fresh = training and checkpoints.newest_step(workdir) is None
    if fresh and config.pretrained.workdir is not None:
      self._pretrained = pretrained.Pretrained(
          config.pretrained, shapes.params
      )
    self.parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    if training:
      self._announce(train, evaluation)
    part, parts = partitioning.part_of_process(
        self.mesh.devices, jax.process_index()
    )
    self.pipeline = Pipeline(
        config, train, evaluation, process=part, processes=parts
    )
    if training:
      self._make_workdir()
    self._checkpoints = checkpoints.Checkpoints(
        workdir, config.keep_checkpoints
    )
    if training:
      self._checkpoints.set_aside_unfinished()
    self._stop_signal: int | None = None
    self.state, self.progress = self._start_or_restore(shapes)
    if training:
      # Now it is known that the data is that of the checkpoint.
      inputs.save(workdir, inputs.of_pipeline(self.pipeline))
    self._clock = metrics.Clock(self.progress.seconds)
    self.views = views = views_lib.Views(
        self.pipeline.mean_image,
        config.augmentation.mean_crop,
        mirror=config.augmentation.flip,
        crop=config.augmentation.crop_size,
    )
    kinds = (('centre', views.centre), ('ten', views.ten))
    steps = lambda make: {
        name: make(
            model=self.model,
            mesh=self.mesh,
            params=shapes.params,
            images=images,
        )
        for name, images in kinds
    }
    self._eval_steps = steps(train_step.make_eval_step)
    self._predict_steps = steps(train_step.make_predict_step)
    self._observer = observer.Observer(
        config,
        workdir,
        model=self.model,
        mesh=self.mesh,
        params=shapes.params,
        views=views,
        pipeline=self.pipeline,
        predict_step=self._predict_steps['centre'],
    )
    self._train_step = train_step.make_train_step(
        model=self.model,
        optimizer=self._optimizer,
        mesh=self.mesh,
        state=shapes,
        images=views.training,
        seed=config.seed,
        accumulation=config.accumulation,
    )

  # --- Opening ---

  def _create_state(self, key):
    return train_step.create_state(
        self.model, self._optimizer, key, self.config.augmentation.crop_size
    )

  def _plan(self, examples):
    def steps(field):
      return durations.to_steps(
          field,
          self.config[field],
          batch_size=self.config.batch_size,
          examples=examples,
      )

    self.total_steps = steps('duration')
    if self.total_steps is None:
      raise ConfigError("duration is 'never': wanted when the run is to end")
    self._evaluate_every = steps('evaluate_every')
    self._checkpoint_every = steps('checkpoint_every')
    self._log_every = steps('log_every')
    goal = self.config.until_train_error
    if goal is not None and (not 0 <= goal < 1 or self._log_every is None):
      raise ConfigError(
          f'until_train_error is {goal} and log_every is '
          f"'{self.config.log_every}': wanted an error from 0 up to, but not "
          'including, 1, and lines of the log to have it'
      )
    until = self.config.augmentation.lighting_until_epoch
    self._lighting_steps = (
        None if until is None else math.ceil(until * self._steps_per_epoch)
    )
    if self.config.schedule.name == 'plateau' and self._evaluate_every is None:
      raise ConfigError(
          "schedule.name is 'plateau', which reads the validation error, but "
          "evaluate_every is 'never': set --config.evaluate_every='1 epochs'"
      )

  def _make_workdir(self):
    try:
      self.workdir.mkdir(parents=True, exist_ok=True)
      workdir_lib.save_config(self.workdir, self.config)
      environment.write(self.workdir / environment.FILE)
    except OSError as error:
      raise CheckpointError(
          f'cannot write to workdir {self.workdir} ({error.strerror}): set '
          '--workdir to a folder on a disk with room'
      ) from error

  def _start_or_restore(self, shapes):
    step = self._checkpoints.latest_step()
    if step is None:
      state = partitioning.initialize(
          self._create_state, self.mesh, self.config.seed
      )
      progress = Progress(data=self._data_identity())
      if self._pretrained:
        params = self._pretrained.load(state.params, self.mesh)
        state = dataclasses.replace(state, params=params)
        progress.pretrained = self._pretrained.record()
      return state, progress
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        partitioning.shardings(shapes, self.mesh),
    )
    state, progress = self._checkpoints.restore(step, target)
    progress = Progress.from_dict(progress)
    if progress.data != self._data_identity():
      raise CheckpointError(
          f'{self.workdir} was trained on other files than those of '
          f'{self.pipeline.train.name} and {self.pipeline.evaluation.name} '
          'now: bring them back as they were, or use another --workdir'
      )
    return state, progress

  def _data_identity(self):
    sets = (self.pipeline.train, self.pipeline.evaluation)
    return '-'.join(one.identity() for one in sets)

  # --- Training ---

  def train(self) -> dict[str, Any] | None:
    """Trains to the end, evaluating and saving on the way.

    Returns:
      The results, also written to results.json; None if a signal stopped the
      run, which is then saved.
    """
    if self.progress.step > self.total_steps:
      raise ConfigError(
          f'{self.workdir} is at step {self.progress.step} already, but '
          f'duration is {self.total_steps} steps: set a longer '
          '--config.duration, or use another --workdir'
      )
    if self.progress.step:
      self._console.print(f'continuing from step {self.progress.step:,}')
    if self.progress.pretrained:
      line = pretrained.describe(self.progress.pretrained)
      self._console.print(f'started  with {line}')
    results = workdir_lib.load_results(self.workdir)
    if results and results['step'] == self.progress.step and self._at_end():
      self._console.print('this run is finished already')
      self._show_results(results)
      return results
    writer = metrics.Writer(
        self.workdir, self.progress.step, self._kinds_recorded()
    )
    handlers = {
        number: signal.signal(number, self._on_signal)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
      if self._pretrained:
        self._save()  # The other run may change, or go.
      results = self._loop(writer)
    except (evaluation.Interrupted, _Stopped):
      self._save()
      self._console.print(
          f'stopped by {signal.Signals(self._stop_signal).name}; saved step '
          f'{self.progress.step} of {self.total_steps} in {self.workdir}. Run '
          'the same command again to continue'
      )
      return None
    finally:
      for number, handler in handlers.items():
        signal.signal(number, handler)
      writer.close()
      self._checkpoints.close()
    workdir_lib.write_json(self.workdir / workdir_lib.RESULTS, results)
    self._show_results(results)
    return results

  def _kinds_recorded(self):
    """Kinds of records that the checkpoint's own step has for good."""
    step, kinds = self.progress.step, ['train']
    if self.progress.evaluated_step == step:
      kinds += ['eval_centre', layer_statistics.KIND]
    if step < self.total_steps:
      kinds.append('eval_ten')  # Of a shorter duration before.
    return tuple(kinds)

  def _on_signal(self, number, frame):
    del frame
    self._stop_signal = number
    # A second signal is not held up by a step that takes long.
    signal.signal(number, signal.SIG_DFL)

  def _loop(self, writer):
    progress = self.progress
    batches = partitioning.put_ahead(
        self.pipeline.training_batches(
            progress.step, lighting_steps=self._lighting_steps
        ),
        self.mesh,
    )
    pending = None
    while True:
      step = progress.step
      last = step == self.total_steps
      log_due = last or _is_due(step, self._log_every)
      evaluation_due = last or _is_due(step, self._evaluate_every)
      save_due = last or _is_due(step, self._checkpoint_every)
      # Metrics of a step are read while the next one runs, unless something
      # has to know them now.
      if pending and (
          log_due or evaluation_due or save_due or self._stop_signal
      ):
        self._read(pending)
        pending = None
      if log_due and progress.steps:
        self._log(writer)
      if self._stop_signal:
        raise _Stopped
      at_end = self._at_end()
      evaluation_due |= at_end
      save_due |= at_end
      if evaluation_due and progress.evaluated_step < step:
        with self._clock.paused():
          self._evaluate_and_record(writer)
      if save_due:
        with self._clock.paused():
          self._save()
      if at_end:
        return self._finish(writer)
      self.state, result = self._train_step(
          self.state, next(batches), self._rates(np.float32)
      )
      progress.step += 1
      if pending:
        self._read(pending)
      pending = result

  def _at_end(self):
    goal, progress = self.config.until_train_error, self.progress
    reached = goal is not None and progress.train_error <= goal
    return reached or progress.step == self.total_steps

  def _rates(self, scalar=float):
    rates = optimizer.rates_at(
        self.config,
        self._layers,
        step=self.progress.step,
        total_steps=self.total_steps,
        steps_per_epoch=self._steps_per_epoch,
        plateau=self.progress.plateau,
        rules=self._rules,
    )
    return jax.tree.map(scalar, rates)

  def _displayed_rate(self):
    return self._rates()[self.model.head]['kernel']

  def _read(self, result):
    """Waits for a step and adds its metrics up."""
    values = {name: float(value) for name, value in result.items()}
    if not math.isfinite(values['loss']):
      raise NonFiniteLossError(
          f'the loss is {values["loss"]} near step {self.progress.step}: '
          f'training has diverged. Lower {self._rates_are_in()}, and start in '
          'a new workdir'
      )
    self._clock.tick()
    self.progress.loss += values['loss']
    self.progress.top1 += values['top1']
    self.progress.steps += 1

  def _rates_are_in(self):
    if self.config.schedule.name == 'definition':
      return 'epsW and epsB in the parameter file'
    return '--config.schedule.learning_rate'

  def _log(self, writer):
    progress, steps = self.progress, self.progress.steps
    step_seconds = self._clock.lap()
    values = {
        'epoch': progress.step / self._steps_per_epoch,
        'loss': progress.loss / steps,
        'top1': progress.top1 / steps,
        'learning_rate': self._displayed_rate(),
        'images_per_second': (
            self.config.batch_size / step_seconds if step_seconds else None
        ),
    }
    progress.train_error = 1 - values['top1']
    progress.loss = progress.top1 = 0.0
    progress.steps = 0
    writer.write('train', progress.step, values)
    rate = values['images_per_second']
    eta = self._clock.remaining(self.total_steps - progress.step)
    self._console.progress(
        f'step {progress.step}/{self.total_steps} '
        f'{progress.step / self.total_steps:4.0%}  '
        f'epoch {values["epoch"]:.2f}  loss {values["loss"]:.4f}  '
        f'top-1 {values["top1"]:6.2%}  lr {values["learning_rate"]:.3g}  '
        f'{f"{rate:.1f}" if rate else "--"} img/s  '
        f'ETA {metrics.format_duration(eta)}'
    )

  def _evaluate_and_record(self, writer):
    result = self.evaluate('centre')
    step = self.progress.step
    writer.write('eval_centre', step, result)
    line = evaluation.format_result('centre', result)
    self._console.print(f'step {step}: {line}')
    self._observer.observe(writer, step, self.state, self._rates())
    self.progress.evaluated_step = step
    if self.config.schedule.name == 'plateau' and self.progress.plateau.observe(
        1 - result['top1'], self.config.schedule
    ):
      self._console.print(
          f'the validation error has stopped improving: learning rate '
          f'{self._displayed_rate():.3g}'
      )

  def _finish(self, writer):
    results = {
        'step': self.progress.step,
        'train_seconds': self.progress.seconds,
        'centre': self._centre_result(),
    }
    if self.progress.pretrained:
      results['pretrained'] = self.progress.pretrained
    if self.config.ten_views:
      results['ten'] = self.evaluate('ten')
      writer.write('eval_ten', self.progress.step, results['ten'])
    return results

  def _centre_result(self):
    # From the file, which has it even if the run was killed after it.
    records = metrics.read_records(self.workdir / 'metrics.jsonl')
    for record in reversed(records):
      key = record.pop('kind'), record.pop('step')
      if key == ('eval_centre', self.progress.step):
        return record
    return self.evaluate('centre')

  def _save(self):
    if self._checkpoints.latest_step() == self.progress.step:
      return  # This is where the session has started.
    self.progress.seconds = self._clock.seconds
    self._checkpoints.save(
        self.progress.step, self.state, dataclasses.asdict(self.progress)
    )

  # --- Evaluating ---

  def evaluate(self, views: str) -> dict[str, float]:
    """Evaluates the parameters as they are, see `evaluation.evaluate`."""
    return evaluation.evaluate(
        self._eval_steps[views],
        self.state.params,
        self.pipeline,
        mesh=self.mesh,
        batch_size=self.config.evaluation_batch_size,
        views=views,
        console=self._console,
        stop=lambda: self._stop_signal is not None,
    )

  def predict(self, views: str) -> Predictions:
    """What the parameters as they are say of each image of the set."""
    return evaluation.predict(
        self._predict_steps[views],
        self.state.params,
        self.pipeline,
        mesh=self.mesh,
        batch_size=self.config.evaluation_batch_size,
        views=views,
        console=self._console,
    )

  # --- Telling ---

  def _announce(self, train, evaluation):
    config, mesh = self.config, dict(self.mesh.shape)
    devices = self.mesh.devices.flatten()
    every = self._evaluate_every
    lines = {
        'model': (
            f'{config.model.name}, {self.parameters:,} parameters, '
            f'{config.model.towers} tower(s), {config.model.dtype}'
        ),
        'dataset': (
            f'{config.dataset.name}: {len(train):,} training and '
            f'{len(evaluation):,} evaluation images, '
            f'{len(train.class_names):,} classes; {train.name}'
        ),
        'mesh': (
            ', '.join(f'{name}={size}' for name, size in mesh.items())
            + f' on {len(devices)} {devices[0].device_kind} device(s)'
        ),
        'steps': (
            f'{self.total_steps:,} of {config.batch_size} images '
            f'({self.total_steps / self._steps_per_epoch:.1f} epochs), '
            f'evaluation {f"every {every:,}" if every else "at the end"}'
        ),
        'workdir': str(self.workdir),
    }
    for name, text in lines.items():
      self._console.print(f'{name:8s} {text}')
    if warning := environment.idle_accelerator_warning():
      self._console.print(f'warning: {warning}')

  def _show_results(self, results):
    self._console.print(
        f'finished {results["step"]:,} steps in '
        f'{metrics.format_duration(results["train_seconds"])} of training'
    )
    for views in evaluation.VIEWS:
      if views in results:
        self._console.print(evaluation.format_result(views, results[views]))
    self._console.print(
        f'metrics.jsonl, tensorboard, checkpoints and results.json are in '
        f'{self.workdir}'
    )


class _Stopped(Exception):
  """A signal asked the loop to stop."""


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str
) -> dict[str, Any] | None:
  """Trains a run to its end, or continues it; see `Run.train`."""
  return Run(config, pathlib.Path(workdir), metrics.Console()).train()


def config_of_run(
    workdir: pathlib.Path, overrides: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """The config to open a run by that has a checkpoint, to look at it.

  Args:
    workdir: of the run.
    overrides: {dotted field: value} for what this machine has elsewhere.

  Raises:
    CheckpointError: no run or no checkpoint there.
  """
  config = workdir_lib.load_config(workdir)
  # The devices of the machine that the run was made on say nothing here.
  with config.ignore_type():
    config.mesh.data = config.mesh.tower = None
    config.update_from_flattened_dict(overrides or {})
  if not checkpoints.newest_step(workdir):
    raise CheckpointError(
        f'{workdir} has no checkpoint yet: train the run first'
    )
  return config


def open_run(
    workdir: pathlib.Path,
    console: metrics.Console,
    overrides: dict[str, Any] | None = None,
) -> Run:
  """Opens a run as by `config_of_run`, for messages on `console`.

  It writes nothing, and raises what `config_of_run` and `Run` do.
  """
  config = config_of_run(workdir, overrides)
  return Run(config, workdir, console, training=False)


def _is_due(step, every):
  return every is not None and step > 0 and step % every == 0

