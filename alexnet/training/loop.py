"""A run: the loop over training steps, evaluation, checkpoints, restarts.

A workdir holds config.json, environment.json, inputs.npz, metrics.jsonl,
tensorboard/, checkpoints/ and, after the end, results.json. The same command
on the same workdir continues where it was.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from alexnet import models
from alexnet.checkpointing import input_spec, lock, manager, pretrained
from alexnet.checkpointing import workdir as workdir_lib
from alexnet.config import validation
from alexnet.config.errors import CheckpointError, ConfigError
from alexnet.config.intervals import Timetable, is_due
from alexnet.evaluation import (
  diagnostics,
  eval_steps,
  evaluator,
  layer_statistics,
)
from alexnet.evaluation.evaluator import Predictions
from alexnet.inference import views as views_lib
from alexnet.metrics import clock
from alexnet.metrics.console import (
  Console,
  Silence,
  announce,
  format_result,
  progress_line,
  show_results,
)
from alexnet.metrics.writer import NoWriter, Writer, read_records
from alexnet.models.inference_params import rounded
from alexnet.runtime import heap, mesh, multihost, preemption, sharding
from alexnet.training import bad_steps, optimizer, resume, schedules, train_step
from input_pipeline import datasets
from input_pipeline.pipeline import Pipeline


class Run:
  """One run in its workdir: opened, or continued, then trained or evaluated."""

  def __init__(
      self,
      config: ml_collections.ConfigDict,
      workdir: pathlib.Path,
      console: Console,
      *,
      training: bool = True,
      step: int | str = manager.NEWEST,
  ):
    """Opens the data, builds the network and restores the newest checkpoint.

    Args:
      config: as from configs/alexnet.py.
      workdir: folder of the run, made if need be.
      console: for messages.
      training: whether the run is to go on; otherwise nothing is written.
      step: the checkpoint to look at otherwise; see
        `checkpoints.Checkpoints.find`.

    Raises:
      UserError, DataError: something the user can mend; says what to do.
    """
    # What is filled in below is not to show in the caller's.
    config = config.copy_and_resolve_references()
    self._lock: lock.Lock | None = None
    self.workdir = workdir
    models.check(config)
    network = models.module_of(config)
    network.complete(config)
    self.mesh = mesh.create_mesh(config)
    self._console = console if multihost.is_first() else Silence()
    train, evaluation = datasets.create_sources(config.dataset, config.seed)
    if config.model.num_classes is None:
      config.model.num_classes = len(train.class_names)
    elif config.model.num_classes < len(train.class_names):
      raise ConfigError(
          f'model.num_classes is {config.model.num_classes}, but {train.name} '
          f'has {len(train.class_names)} classes: '
          + (f'give the last layer of {config.layers} as many outputs'
             if network.OUTPUTS_ARE_GIVEN else 'leave the field unset')
      )
    self.config = config
    workdir_lib.check_config(workdir, config)
    self.model = models.create_model(config.model)
    self._rules = network.parameter_rules(config)
    self._optimizer = optimizer.create_optimizer(config.optimizer, self._rules)
    self.timetable = Timetable.of(config, len(train))
    create_state = functools.partial(
        train_step.create_state,
        self.model,
        self._optimizer,
        crop=config.augmentation.crop_size,
    )
    shapes = jax.eval_shape(create_state, jax.random.key(0))
    self._layers = optimizer.layer_names(shapes.params)
    schedules.check_schedule(config.schedule, self._layers, self._rules)
    schedules.check_rate_factors(
        config.optimizer.layer_rate_factors, self._layers
    )
    pretrained.check(config.pretrained)
    bad_steps.check(config.bad_steps)
    self._pretrained = None
    newest = multihost.of_first(manager.newest_step(workdir))
    fresh = training and newest is None
    if fresh and config.pretrained.workdir is not None:
      self._pretrained = pretrained.Pretrained(
          config.pretrained, shapes.params
      )
    self.parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    validation.check_size(self.parameters)
    if training:
      announce(
          self._console,
          config,
          workdir,
          mesh=self.mesh,
          parameters=self.parameters,
          timetable=self.timetable,
          train=train,
          evaluation=evaluation,
      )
    part, parts = sharding.part_of_process(
        self.mesh.devices, jax.process_index()
    )
    # It computes the statistics of the images where nobody has done so yet.
    with multihost.first_before_others('statistics'):
      self.pipeline = Pipeline(
          config,
          train,
          evaluation,
          process=part,
          processes=parts,
          report=lambda text: console.print(f'warning: {text}'),
      )
    if training and multihost.is_first():
      self._make_workdir()
    multihost.wait_for_all('workdir')
    self._recovery = resume.Recovery(
        config,
        workdir,
        self._console,
        timetable=self.timetable,
        mesh=self.mesh,
        create_state=create_state,
        shapes=shapes,
        other=self._pretrained,
        data='-'.join(one.identity() for one in (train, evaluation)),
        names=f'{train.name} and {evaluation.name}',
        training=training,
    )
    self._stop = preemption.Stop(self.mesh)
    self._bad_steps = bad_steps.BadSteps(config, self._console, self.pipeline)
    self.state, self.progress = self._recovery.open(step)
    if training and multihost.is_first():
      # Now it is known that the data is that of the checkpoint.
      input_spec.save(workdir, input_spec.of_pipeline(self.pipeline))
    self._clock = clock.Clock(self.progress.seconds)
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
    self._eval_steps = steps(eval_steps.make_eval_step)
    self._predict_steps = steps(eval_steps.make_predict_step)
    self._observer = diagnostics.Observer(
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
        guarded=config.bad_steps.action == bad_steps.SKIP,
    )

  # --- Opening ---

  def _make_workdir(self):
    try:
      self.workdir.mkdir(parents=True, exist_ok=True)
      self._take_lock()
      workdir_lib.save_config(self.workdir, self.config)
      workdir_lib.save_environment(
          self.workdir / workdir_lib.ENVIRONMENT, self.mesh
      )
    except OSError as error:
      raise CheckpointError(
          f'cannot write to workdir {self.workdir} ({error.strerror}): set '
          '--workdir to a folder on a disk with room'
      ) from error

  def _take_lock(self):
    # The first process writes, and so is the one that others are kept from.
    if jax.process_index() == 0:
      warn = lambda text: self._console.print(f'warning: {text}')
      self._lock = lock.take(self.workdir, warn)

  def rewind(self, step: int) -> None:
    """Goes back to a checkpoint; CheckpointError if it cannot be used."""
    self.state, self.progress = self._recovery.open(step)

  def close(self) -> None:
    """Frees what an opened run holds; `train` does so itself."""
    self._recovery.close()

  # --- Training ---

  def train(self) -> dict[str, Any] | None:
    """Trains to the end, evaluating and saving on the way.

    Returns:
      The results, also written to results.json; None if a signal stopped the
      run, which is then saved.

    Raises:
      WorkdirInUseError: another job has come between.
      BadStepError: training has gone wrong; see `faults`.
      UnsavedError: the end, or where a signal stopped it, cannot be saved.
      DataError: an image cannot be read.
    """
    self._take_lock()
    try:
      return self._train()
    finally:
      self._recovery.close()
      if self._lock:
        self._lock.release()

  def _train(self):
    if self.progress.step > self.timetable.total_steps:
      raise ConfigError(
          f'{self.workdir} is at step {self.progress.step} already, but '
          f'duration is {self.timetable.total_steps} steps: set a longer '
          '--config.duration, or use another --workdir'
      )
    if self.progress.step:
      self._console.print(f'continuing from step {self.progress.step:,}')
    if self.progress.pretrained:
      line = pretrained.describe(self.progress.pretrained)
      self._console.print(f'started  with {line}')
    results = multihost.of_first(workdir_lib.load_results(self.workdir))
    if results and results['step'] == self.progress.step and self._at_end():
      self._console.print('this run is finished already')
      show_results(self._console, self.workdir, results)
      return results
    writer = NoWriter()
    if multihost.is_first():
      writer = Writer(
          self.workdir,
          self.progress.step,
          self._stays_recorded,
          report=lambda text: self._console.print(f'warning: {text}'),
      )
    try:
      with self._stop.listening():
        results = self._until_stopped(writer)
    finally:
      writer.close()
    if results is not None:
      if multihost.is_first():
        workdir_lib.write_json(self.workdir / workdir_lib.RESULTS, results)
      show_results(self._console, self.workdir, results)
    return results

  def _until_stopped(self, writer):
    try:
      if self._pretrained:
        self._save(required=True)  # The other run may change, or go.
      while True:
        try:
          results = self._loop(writer)
          writer.flush()  # The results are not without it.
          return results
        except bad_steps.RollBack as back:
          self._roll_back(writer, back)
    except preemption.Stopped:
      self._console.print(
          f'{self._stop.name}: saving step {self.progress.step}'
      )
      self._save(required=True)
      self._console.print(
          f'stopped by {self._stop.name}; saved step {self.progress.step} of '
          f'{self.timetable.total_steps} in {self.workdir}. Run the same '
          'command again to continue'
      )
      return None

  def _roll_back(self, writer, back):
    """To the newest checkpoint, and on with the data behind a batch."""
    rollbacks = self.progress.rollbacks + 1
    self.state = None  # Its memory is for the other one.
    self._stop.forget_questions()
    with self._clock.paused():
      self.state, progress = self._recovery.newest()
    progress.left_out = back.batch + 1 - progress.step
    progress.rollbacks = rollbacks
    self.progress = progress
    writer.rewind(progress.step, self._stays_recorded)
    writer.write(bad_steps.KIND, progress.step, back.record)
    self._console.print(
        f'back to step {progress.step:,}, and on with batch {back.batch + 1:,}'
    )

  def _stays_recorded(self, record):
    """Whether the checkpoint's own step has a record for good."""
    step, kinds = self.progress.step, ['train']
    if self.progress.evaluated_step == step:
      kinds += ['eval_centre', layer_statistics.KIND]
    if step < self.timetable.total_steps:
      kinds.append('eval_ten')  # Of a shorter duration before.
    # The run went back to this step because of a batch: if that is ahead, it
    # is met again, and recorded again.
    behind = bad_steps.is_behind(record, step + self.progress.left_out)
    return behind or record['kind'] in kinds

  def _loop(self, writer):
    progress, timetable = self.progress, self.timetable
    batches = self.training_batches()
    pending = None
    while True:
      step = progress.step
      last = step == timetable.total_steps
      log_due = last or is_due(step, timetable.log_every)
      evaluation_due = last or is_due(step, timetable.evaluate_every)
      save_due = (
          last
          or is_due(step, timetable.checkpoint_every)
          or self._recovery.retry_due(step)
      )
      # Metrics of a step are read while the next one runs, unless something
      # has to know them now.
      if pending and (
          log_due or evaluation_due or save_due or self._stop
      ):
        self._read(writer, *pending)
        pending = None
      if log_due and progress.steps:
        self._log(writer)
      if self._stop:
        raise preemption.Stopped
      at_end = self._at_end()
      evaluation_due |= at_end
      save_due |= at_end
      if evaluation_due and progress.evaluated_step < step:
        with self._clock.paused():
          save_due |= self._evaluate_and_record(writer)
      if save_due:
        with self._clock.paused():
          self._save(required=at_end)
      if at_end:
        return self._finish(writer)
      if self._stop:
        raise preemption.Stopped  # Before a step more, and a save more.
      limit = self._bad_steps.limit(progress.usual_loss, step)
      try:
        batch = next(batches)
      except preemption.Stopped:
        # The step before is saved now: its loss belongs to the sums, and if it
        # is bad, it is not to be saved as a good one.
        if pending:
          self._read(writer, *pending)
        raise
      result = self._advance(batch, limit)
      self._stop.ask()
      if pending:
        self._read(writer, *pending)
      pending = step, result, limit

  def training_batches(self) -> Iterator[dict[str, jax.Array]]:
    """Endless batches from the run's step on, on its devices."""
    progress, lit = self.progress, self.timetable.lighting_steps
    stream = self.pipeline.training_batches(
        progress.step + progress.left_out,
        lighting_steps=None if lit is None else lit + progress.left_out,
    )
    return sharding.put_ahead(
        preemption.until(self._stop.alone, stream), self.mesh
    )

  def _advance(self, batch, limit):
    arguments = self.state, batch, self._rates(np.float32)
    if self.config.bad_steps.action == bad_steps.SKIP:
      arguments += (limit,)
    self.state, result = self._train_step(*arguments)
    self.progress.step += 1
    return result

  def make_step(self, batch: dict[str, jax.Array]) -> dict[str, float]:
    """Makes one step, and waits for what it says.

    It counts in `progress`, unless it is bad.
    """
    step = self.progress.step
    limit = self._bad_steps.limit(self.progress.usual_loss, step)
    result = self._advance(batch, limit)
    values = {name: float(value) for name, value in result.items()}
    if not self._bad_steps.reason(values, limit):
      self.progress.add(step, values)
    return values

  def observe_error(self, error: float) -> bool:
    """Takes a validation error; whether the rate drops by the plateau rule."""
    schedule = self.config.schedule
    return schedule.name == 'plateau' and self.progress.plateau.observe(
        error, schedule
    )

  def _at_end(self):
    goal, progress = self.config.until_train_error, self.progress
    reached = goal is not None and progress.train_error <= goal
    return reached or progress.step == self.timetable.total_steps

  def _rates(self, scalar=float):
    rates = schedules.rates_at(
        self.config,
        self._layers,
        step=self.progress.step,
        total_steps=self.timetable.total_steps,
        steps_per_epoch=self.timetable.steps_per_epoch,
        plateau=self.progress.plateau,
        rules=self._rules,
    )
    return jax.tree.map(scalar, rates)

  def _displayed_rate(self):
    return self._rates()[self.model.head]['kernel']

  def _read(self, writer, step, result, limit):
    """Waits for a step, counted from 0, and adds its metrics up."""
    values = {name: float(value) for name, value in result.items()}
    self._stop.hear()
    self._clock.tick()
    progress = self.progress
    if reason := self._bad_steps.reason(values, limit):
      self._bad_steps.handle(writer, progress, step, values, reason)
      return
    progress.skipped_in_a_row = 0
    progress.add(step, values)

  def _log(self, writer):
    progress, steps = self.progress, self.progress.steps
    step_seconds = self._clock.lap()
    values = {
        'epoch': progress.step / self.timetable.steps_per_epoch,
        'loss': progress.loss / steps,
        'top1': progress.top1 / steps,
        'learning_rate': self._displayed_rate(),
        'images_per_second': (
            self.config.batch_size / step_seconds if step_seconds else None
        ),
    }
    progress.train_error = 1 - values['top1']
    progress.clear_sums()
    writer.write('train', progress.step, values)
    total = self.timetable.total_steps
    left = self._clock.remaining(total - progress.step)
    self._console.progress(
        progress_line(values, progress.step, total, left)
    )

  def _evaluate_and_record(self, writer):
    """Returns whether this is one of the best states so far, to be kept."""
    result = self.evaluate('centre')
    step = self.progress.step
    writer.write('eval_centre', step, result)
    line = format_result('centre', result)
    self._console.print(f'step {step}: {line}')
    self._observer.observe(writer, step, self.state, self._rates())
    heap.give_back()
    self.progress.evaluated_step = step
    if self.observe_error(1 - result['top1']):
      self._console.print(
          f'the validation error has stopped improving: learning rate '
          f'{self._displayed_rate():.3g}'
      )
    return self.progress.note_evaluation(
        result['top1'], self.config.keep_best
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
    recorded = multihost.of_first(self._recorded_centre_result())
    return recorded or self.evaluate('centre')

  def _recorded_centre_result(self):
    records = read_records(self.workdir / 'metrics.jsonl')
    for record in reversed(records):
      key = record.pop('kind'), record.pop('step')
      if key == ('eval_centre', self.progress.step):
        return record
    return None

  def _save(self, *, required):
    self.progress.seconds = self._clock.seconds
    self._recovery.save(self.state, self.progress, required=required)

  # --- Evaluating ---

  def evaluate(self, views: str) -> dict[str, float]:
    """Evaluates the parameters as they are, see `evaluation.evaluate`."""
    return evaluator.evaluate(
        self._eval_steps[views],
        rounded(self.state.params, self.model.dtype),
        self.pipeline,
        mesh=self.mesh,
        batch_size=self.config.evaluation_batch_size,
        views=views,
        console=self._console,
        stop=self._stop.agree,
        give_up=self._stop.alone,
    )

  def predict(self, views: str) -> Predictions:
    """What the parameters as they are say of each image of the set."""
    return evaluator.predict(
        self._predict_steps[views],
        rounded(self.state.params, self.model.dtype),
        self.pipeline,
        mesh=self.mesh,
        batch_size=self.config.evaluation_batch_size,
        views=views,
        console=self._console,
    )


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str
) -> dict[str, Any] | None:
  """Trains a run to its end, or continues it; see `Run.train`."""
  return Run(config, pathlib.Path(workdir), Console()).train()


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
  if manager.newest_step(workdir) is None:
    raise CheckpointError(
        f'{workdir} has no checkpoint yet: train the run first'
    )
  return config


def open_run(
    workdir: pathlib.Path,
    console: Console,
    overrides: dict[str, Any] | None = None,
    step: int | str = manager.NEWEST,
) -> Run:
  """Opens a run as by `config_of_run`, for messages on `console`.

  It writes nothing, and raises what `config_of_run` and `Run` do. If the newest
  checkpoint is damaged, it says so and takes the one before.
  """
  config = config_of_run(workdir, overrides)
  return Run(config, workdir, console, training=False, step=step)
