"""Analyses the training step's communication and predicts its scaling.

  python -m benchmarks.scaling --output=docs/scaling.png --json=results.json

First it compiles run #145's step for meshes of 1 to 512 nonexistent devices
(at full width, without running; nine meshes take two minutes, and `--meshes=`
skips them), and prints each device's memory, operations and collectives. Then
it predicts, from published speeds and without measuring, the efficiency of 2 to
512 accelerators; `--machine` selects them, and other flags replace its figures.
docs/scaling.md explains both.
"""

import dataclasses
import json
import os
import pathlib
import re

# Set before JAX starts: LLVM's optimizer takes most of the time, and does not
# affect anything reported here.
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_backend_optimization_level=0'
    ' --xla_llvm_disable_expensive_passes=true'
)

import jax
from absl import app, flags

from alexnet.analysis.tables import Table
from alexnet.config.errors import ConfigError
from benchmarks.communication import compiled_step, model
from configs import alexnet_2012
from input_pipeline import cli
from input_pipeline.files import paths

ACCELERATORS = (2, 8, 64, 512)
_MESH = re.compile(r'([1-9]\d*)x([1-9]\d*)')
_STYLES = {'data': 'o-', 'towers': 's--', 'weird': '^-', 'weird_all': 'v:'}

# {scaling: {scheme: [(plain, overlapped) efficiency, by ACCELERATORS]}}
Prediction = dict[str, dict[str, list[tuple[float, float]]]]


def mesh_config(data: int, tower: int, batch: int):
  """Run #145's config on a mesh, with `batch` images per replica."""
  config = alexnet_2012.get_config('imagenet2012')
  config.model.num_classes = 1000
  config.mesh.data, config.mesh.tower = data, tower
  config.batch_size = batch * data
  config.evaluation_batch_size = data
  return config


def parse_meshes(names: list[str]) -> list[tuple[int, int]]:
  """Parses ['4x2'] to [(4, 2)]: data, tower.

  Raises:
    ConfigError: the text is invalid.
  """
  matches = [_MESH.fullmatch(name) for name in names]
  if None in matches:
    raise ConfigError(
        f"--meshes is {','.join(names)}: expected DATAxTOWER, such as 1x1,4x2"
    )
  return [(int(match[1]), int(match[2])) for match in matches]


def describe(report: compiled_step.Report) -> str:
  """Formats a report as lines."""
  mega = lambda size: f'{size / 1e6:,.1f} MB'
  ratio = report.flops / report.analytic_flops
  before = ', '.join(f'{n} {kind}' for kind, n in report.before_xla.items())
  lines = [
      f'mesh {report.data} x {report.tower}, of each device:',
      f'  parameters   {mega(report.parameters)}, and as much velocity',
      f'  arguments    {mega(report.arguments)}',
      f'  temporaries  {mega(report.temporaries)}',
      f'  operations   {report.flops / 1e9:.1f} G, {ratio:.3f} of those on '
      f'paper ({report.analytic_flops / 1e9:.1f} G)',
      f'  before XLA   {before}',
  ]
  lines += [
      f'  {one.kind:14s} {one.axis:10s} {one.layer:9s} '
      f'{"backward" if one.backward else "forward":8s} '
      f'{len(one.shapes):2d} arrays {mega(one.size):>9s} '
      f'sends {mega(one.sent):>9s}'
      for one in report.collectives
  ]
  return '\n'.join(lines)


def predict(
    machine: model.Machine, batch: int, global_batch: int
) -> Prediction:
  """Predicts efficiencies of all schemes, for weak and strong scaling.

  Args:
    machine: the accelerators.
    batch: images per replica, for weak scaling.
    global_batch: images in a step, for strong scaling.
  """
  prediction = {}
  for scaling in ('weak', 'strong'):
    prediction[scaling] = {}
    for scheme in model.SCHEMES:
      replicas = 2 if scheme == 'towers' else 1
      prediction[scaling][scheme] = [
          tuple(
              model.efficiency(
                  machine,
                  scheme,
                  count,
                  batch * count / replicas if scaling == 'weak'
                  else global_batch,
                  overlap=overlap,
                  batch=batch,
              )
              for overlap in (False, True)
          )
          for count in ACCELERATORS
      ]
  return prediction


def table(prediction: Prediction) -> str:
  """Formats a prediction as Markdown: percent, plain and overlapped."""
  rows = tuple(
      (f'{scaling}, {model.SCHEMES[scheme]}',
       *(f'{100 * a:.0f} ({100 * b:.0f})' for a, b in values))
      for scaling, schemes in prediction.items()
      for scheme, values in schemes.items()
  )
  headings = ('', *map(str, ACCELERATORS))
  return '\n'.join(Table(headings, rows).to_markdown())


def draw(
    prediction: Prediction, output: pathlib.Path, title: str, batches
) -> None:
  """Draws a prediction: weak scaling on the left, a fixed batch on the right.

  Args:
    prediction: result of `predict`.
    output: PNG file.
    title: title of the picture.
    batches: images per replica and per step, for the headings.
  """
  from matplotlib.figure import Figure  # Slow to import.

  figure = Figure(figsize=(8, 3.8), dpi=90, layout='constrained')
  headings = (f'{batches[0]} images a replica', f'{batches[1]} images a step')
  for index, (scaling, heading) in enumerate(zip(prediction, headings)):
    axes = figure.add_subplot(1, 2, index + 1)
    for scheme, values in prediction[scaling].items():
      plain, overlapped = zip(*values)
      label = model.SCHEMES[scheme]
      (line,) = axes.plot(
          ACCELERATORS, [100 * v for v in plain], _STYLES[scheme], label=label,
          markersize=4,
      )
      axes.fill_between(
          ACCELERATORS,
          [100 * v for v in plain],
          [100 * v for v in overlapped],
          color=line.get_color(), alpha=0.12, linewidth=0,
      )
    axes.set_xscale('log', base=2)
    axes.set_xticks(ACCELERATORS, [str(count) for count in ACCELERATORS])
    axes.set(xlabel='accelerators', title=heading, ylim=(0, 115))
    axes.set_ylabel('predicted efficiency, %' if index == 0 else '')
    axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  figure.suptitle(title, fontsize=10)
  try:
    figure.savefig(output)
  except OSError as error:
    raise ConfigError(
        f'cannot write {output} ({error.strerror}): set --output to a file in '
        'a folder that exists'
    ) from error


def _machine(values):
  machine = model.MACHINES[values.machine]
  given = {
      field.name: values[f'machine_{field.name}'].value
      for field in dataclasses.fields(machine)
      if field.name != 'source'
      and values[f'machine_{field.name}'].value is not None
  }
  return dataclasses.replace(machine, **given)


def main(argv):
  """Entry point."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  meshes = parse_meshes([name for name in values.meshes if name])
  devices = max((data * tower for data, tower in meshes), default=1)
  # Enough for all meshes: it cannot be raised later.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', devices)
  reports = []
  for data, tower in meshes:
    config = mesh_config(data, tower, values.batch)
    reports.append(compiled_step.compile_step(config))
    print(describe(reports[-1]) + '\n', flush=True)
  machine = _machine(values)
  prediction = predict(machine, values.batch, values.global_batch)
  print(
      f'Predicted, not measured: efficiency in % on {values.machine} '
      f'({machine.source}), in brackets with the gradients reduced beside the '
      f'backward pass; weak: {values.batch} images a replica, strong: '
      f'{values.global_batch} images a step.\n\n{table(prediction)}'
  )
  if values.output:
    title = f'Predicted, not measured: {machine.source}'
    batches = (values.batch, values.global_batch)
    draw(prediction, values.output, title, batches)
  if values.json:
    results = {
        'steps': [dataclasses.asdict(report) for report in reports],
        'machine': dataclasses.asdict(machine),
        'accelerators': ACCELERATORS,
        'efficiency': prediction,
    }
    values.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
  flags.DEFINE_list(
      'meshes', '1x1,1x2,2x1,4x2,8x1,32x2,64x1,256x2,512x1',
      'Meshes to compile for, each DATAxTOWER; empty for none.',
  )
  flags.DEFINE_integer(
      'batch', 128, 'Number of images per replica.', lower_bound=1
  )
  flags.DEFINE_integer(
      'global_batch', 1024, 'Number of images in a step, for strong scaling.',
      lower_bound=1,
  )
  flags.DEFINE_enum(
      'machine', 'a100', sorted(model.MACHINES), 'Accelerator to predict for.'
  )
  for _field in dataclasses.fields(model.Machine):
    if _field.name == 'per_node':
      flags.DEFINE_integer(
          'machine_per_node', None, "Replaces --machine's figure.",
          lower_bound=1,
      )
    elif _field.name != 'source':
      flags.DEFINE_float(
          f'machine_{_field.name}', None, "Replaces --machine's figure."
      )
  paths.define('output', 'Draw the prediction to this PNG file.')
  paths.define('json', 'Write all results as JSON to this file.')
  cli.run(main)
