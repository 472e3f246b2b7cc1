"""A run beside the reported numbers: intervals and verdicts by hand."""

import math
import pathlib
import subprocess
import sys

import ml_collections
from absl.testing import absltest, parameterized

from alexnet.analysis import tables as tables_lib
from alexnet.analysis.paper import comparison, config_differences, references
from alexnet.analysis.tables import Bullets, Table
from alexnet.checkpointing import workdir
from alexnet.config.errors import CheckpointError
from configs import alexnet, alexnet_2012, cuda_convnet

ROOT = pathlib.Path(__file__).parents[3]
CODE = alexnet_2012


def config_of(recipe=CODE, data='imagenet2012', classes=1000, **fields):
  config = recipe.get_config(data)
  config.model.num_classes = classes
  for name, value in fields.items():
    config.update_from_flattened_dict({name.replace('__', '.'): value})
  return config


def results_of(count=50_000, centre=(20_000, 9_000), ten=(20_332, 9_105)):
  """Results by numbers of wrong images."""
  results = {'step': 90, 'train_seconds': 1.0}
  for views, wrong in (('centre', centre), ('ten', ten)):
    if wrong:
      results[views] = {
          'top1': 1 - wrong[0] / count,
          'top5': 1 - wrong[1] / count,
          'loss': 1.0,
          'count': count,
          'views': 10 if views == 'ten' else 1,
      }
  return results


def definition_of(data='imagenet2012', **fields):
  """What a run of configs/cuda_convnet.py has saved."""
  config = cuda_convnet.get_config('layers-153.cfg')
  config.dataset.name = data
  config.duration = '91 epochs'
  config.layer_params = 'layer-params-153.cfg'
  config.dataset.pca = 'imagenet'
  config.augmentation.flip = True
  config.augmentation.lighting = 'standard_deviation'
  config.augmentation.lighting_until_epoch = 67.0
  config.model.update(
      layers_text='[conv1]\n' * 10_000, params_text='epsW=0.01\n' * 10_000,
      image_size=224, num_classes=1000, towers=2,
  )
  for name, value in fields.items():
    config.update_from_flattened_dict({name.replace('__', '.'): value})
  # As from a file: no placeholders.
  return ml_collections.ConfigDict(config.to_dict())


def section(config, results, title):
  return dict(comparison.compare(config, results))[title]


def text_of(config, results):
  return tables_lib.to_text(comparison.compare(config, results))


def row_of(config, results, name):
  table = section(config, results, 'Reported errors')[0]
  (row,) = (row for row in table.rows if row[0].startswith(name))
  return row


def wilson(wrong, count):
  z, p = 1.959964, wrong / count
  centre = (p + z * z / (2 * count)) / (1 + z * z / count)
  half = z / (1 + z * z / count) * math.sqrt(
      p * (1 - p) / count + z * z / (4 * count * count)
  )
  return 100 * (centre - half), 100 * (centre + half)


class IntervalTest(parameterized.TestCase):

  @parameterized.parameters((20_332, 50_000), (6, 360), (0, 360), (360, 360))
  def test_closed_form(self, wrong, count):
    measured = comparison.measure(1 - wrong / count, count)
    self.assertAlmostEqual(measured.error, 100 * wrong / count)
    low, high = wilson(wrong, count)
    self.assertAlmostEqual(measured.low, low, places=4)
    self.assertAlmostEqual(measured.high, high, places=4)

  def test_by_hand(self):
    """1 of 10, with z^2 = 3.841459: .211012 +- .193137.

    The middle is (.1 + .192073) / 1.384146, the half of the width
    1.959964 / 1.384146 * sqrt(.009 + .009604) = 1.416010 * .136396.
    """
    measured = comparison.measure(0.9, 10)
    self.assertEqual(f'{measured}', '10.00 % (1.79 to 40.42)')

  @parameterized.parameters(
      ((40.0, 40.0), 'inside'),
      ((41.0, 41.0), 'inside'),
      ((39.9, 39.9), 'outside: the run is 0.60 points worse'),
      ((41.5, 41.5), 'outside: the run is 1.00 points better'),
      ((30.0, 40.2), 'inside'),
      ((30.0, 39.0), 'outside: the run is 1.50 points worse'),
      ((41.1, 45.0), 'outside: the run is 0.60 points better'),
  )
  def test_place(self, reported, expected):
    measured = comparison.Measured(40.5, 40.0, 41.0)
    self.assertEqual(comparison.place(measured, reported), expected)


class ReportedTest(parameterized.TestCase):

  def test_run_145_again(self):
    """Its own numbers: 20,332 and 9,105 of 50,000 with ten views."""
    results = results_of(centre=(21_170, 9_790))
    row = row_of(config_of(), results, 'paper, Table 2, 1 CNN = run #145')
    self.assertEqual(
        row[1:], ('ten views', '40.66 / 18.21', 'inside', 'inside')
    )
    self.assertEqual(
        row_of(config_of(), results, 'a later run with four')[1:],
        ('centre crop', '42.34 / 19.58', 'inside', 'inside'),
    )
    # 1.24 points, more than the 0.43 of the interval.
    self.assertEqual(
        row_of(config_of(), results, 'paper, Table 2, 7 CNNs')[3],
        'outside: the run is 3.96 points worse',
    )
    self.assertEqual(
        section(config_of(), results, 'What could explain a gap'),
        ['There is no gap: no reported error of this network is below the '
         "run's interval."],
    )

  def test_a_worse_run(self):
    results = results_of(ten=(21_000, 9_105))
    config = config_of(
        model__lrn__enabled=False,
        augmentation__lighting='none',
        model__conv4__features=0,
        optimizer__momentum=0.5,
    )
    self.assertEqual(
        row_of(config, results, 'paper, Table 2, 1 CNN = run #145')[3:],
        ('outside: the run is 1.34 points worse', 'inside'),
    )
    lines = section(config, results, 'What could explain a gap')
    self.assertIn('1 CNN = run #145', lines[0])
    (bullets,) = (line for line in lines if isinstance(line, Bullets))
    self.assertEqual(
        [item.split(':')[0] for item in bullets.items],
        ['augmentation.lighting', 'model.conv4.features', 'model.lrn.enabled'],
    )
    self.assertIn('1.4 / 1.2', bullets.items[2])
    self.assertIn('about 2 points', bullets.items[1])
    self.assertEqual(
        lines[-1],
        'Fields that differ from both recipes, without a known effect: '
        'optimizer.momentum.',
    )

  def test_a_worse_run_without_a_reason(self):
    lines = section(
        config_of(), results_of(ten=(21_000, 9_105)), 'What could explain a gap'
    )
    self.assertStartsWith(lines[-1], 'No field of the config differs')

  def test_centre_crop_only(self):
    results = results_of(ten=None)
    text = text_of(config_of(), results)
    self.assertIn('No result with ten views', text)
    self.assertNotIn('Table 2', text)
    self.assertIn('Caffe', text)

  def test_2010(self):
    """37.4727 % of 150,000 images are 56,209."""
    results = results_of(150_000, (58_500, 27_450), (56_209, 25_498))
    config = config_of(data='prepared')
    table = section(config, results, 'Reported errors')[0]
    self.assertLen(table.rows, 2)
    self.assertEqual({row[3:] for row in table.rows}, {('inside', 'inside')})

  @parameterized.parameters(
      ('imagenet2012', 1000, 50_000, references.ILSVRC_2012),
      ('folder', 1000, 50_000, references.ILSVRC_2012),
      ('prepared', 1000, 150_000, references.ILSVRC_2010),
      ('imagenet2012', 1000, 150_000, None),
      ('imagenet2012', 1000, 5_000, None),
      ('folder', 10, 50_000, None),
      ('cifar10', 1000, 50_000, None),
      ('imagenet2012:5.1.0', 1000, 50_000, references.ILSVRC_2012),
      ('imagenet2012_corrupted/fog_5', 1000, 50_000, None),
      ('imagenet2012_real', 1000, 50_000, None),
  )
  def test_which_set(self, data, classes, count, expected):
    config = config_of(data=data, classes=classes)
    results = results_of(count, (10, 5), (9, 4))
    self.assertEqual(comparison.evaluated_on(config, results), expected)

  def test_a_part_of_the_training_set(self):
    config = config_of(dataset__eval_split='train[:50000]')
    self.assertIsNone(comparison.evaluated_on(config, results_of()))

  @parameterized.parameters(
      ('imagenet2012', '1,000 classes: ILSVRC-2012 validation.'),
      ('folder', ', judging by its size ILSVRC-2012 validation.'),
      ('prepared', ', judging by its size ILSVRC-2012 validation.'),
      ('imagenet2012_corrupted/fog_5', 'fog_5, 1,000 classes.'),
  )
  def test_how_the_set_is_known(self, data, expected):
    line = section(config_of(data=data), results_of(), 'The run')[0]
    self.assertEndsWith(line, expected)


class EffectTest(parameterized.TestCase):
  """What is said of a value, and of which nothing is."""

  @parameterized.parameters(
      # Run #145-half.
      ('model.conv1.features', 48, 'half the kernels'),
      ('model.conv2.features', 128, 'half the kernels'),
      ('model.conv3.features', 192, 'half the kernels'),
      ('model.fc6.features', 2048, 'half the kernels'),
      ('model.width', 0.5, 'half the kernels'),
      ('model.pool.window', 2, 'does not overlap'),
      ('model.conv3.features', 0, 'about 2 points'),
      ('model.conv4.features', 0, 'about 2 points'),
      ('model.conv5.features', 0, 'about 2 points'),
      ('model.conv6.features', 256, 'a sixth convolution'),
      # Run #150.
      ('model.conv3.reads', 'own', 'run #150'),
      ('model.fc6.reads', 'own', 'run #150'),
      ('model.fc7.reads', 'own', 'run #150'),
      ('optimizer.weight_decay', 0.0, 'important'),
      ('until_train_error', 0.25, 'not at its end'),
      ('schedule.name', 'constant', 'three times'),
      ('augmentation.flip', False, 'overfitting'),
  )
  def test_known(self, field, value, expected):
    self.assertIn(expected, references.effect_of(field, value))

  @parameterized.parameters(
      # The ungrouped network of 62.4 million parameters.
      ('model.towers', 1),
      # Run #150.
      ('model.conv2.features', 320),
      ('model.fc6.features', 8192),
      ('model.conv1.features', 0),
      ('model.fc7.features', 0),
      ('model.width', 2.0),
      ('model.pool.window', 4),
      ('model.pool.stride', 1),
      ('model.conv3.stride', 2),
      ('model.conv6.features', 0),
      ('pretrained.layers', ('conv1',)),
      ('pretrained.workdir', 'runs/other'),
      ('optimizer.weight_decay', 0.001),
      ('schedule.learning_rate', 0.02),
      ('dataset.size', 128),
      ('augmentation.crop_size', 112),
      ('augmentation.crop_offsets', 33),
  )
  def test_unknown(self, field, value):
    self.assertIsNone(references.effect_of(field, value))

  def test_a_field_that_is_absent_or_unset(self):
    for effect in references.EFFECTS:
      self.assertIsNone(references.effect_of(effect.field, None))

  def test_run_150(self):
    config = config_of(
        model__conv2__features=320,
        model__conv3__reads='own',
        model__fc6__features=8192,
        model__fc6__reads='own',
        model__fc7__reads='own',
    )
    bullets, unknown = section(
        config, results_of(), 'What could explain a gap'
    )[-2:]
    self.assertEqual(
        [item.split(':')[0] for item in bullets.items],
        ['model.conv3.reads', 'model.fc6.reads', 'model.fc7.reads'],
    )
    self.assertEqual(
        unknown,
        'Fields that differ from both recipes, without a known effect: '
        'model.conv2.features, model.fc6.features.',
    )

  def test_one_tower_of_all_kernels(self):
    config = config_of(model__towers=1, model__conv3__reads='own')
    self.assertEqual(
        section(config, results_of(), 'What could explain a gap')[1:],
        ['Fields that differ from both recipes, without a known effect: '
         'model.towers.'],
    )


class OtherDataTest(absltest.TestCase):

  def test_is_not_compared(self):
    results = results_of(3925, (1313, 194), (1279, 178))
    text = text_of(config_of(data='folder', classes=10), results)
    self.assertIn('cannot be compared', ' '.join(text.split()))
    for reference in references.REFERENCES:
      self.assertNotIn(reference.name, text)
    # 100 * 1313 / 3925, and Wilson's interval.
    self.assertIn('33.45 % (31.99 to 34.94)', text)

  def test_gain_of_ten_views(self):
    """34 of 3,925 images are 0.87 points; both errors have +-1.47 points."""
    results = results_of(3925, (1313, 194), (1279, 178))
    lines = section(
        config_of(data='folder', classes=10),
        results,
        'Ten views against the centre crop',
    )
    (table,) = (line for line in lines if isinstance(line, Table))
    self.assertEqual(
        table.rows[0],
        ('top-1', '0.87 points, at most +-2.08', '1.5 to 2.1', 'agrees'),
    )

  def test_gain_that_differs(self):
    """5 points of 50,000 images: +-0.6."""
    lines = section(
        config_of(),
        results_of(centre=(22_832, 9_790)),
        'Ten views against the centre crop',
    )
    self.assertEqual(lines[0].rows[0][1::2], ('5.00 points, at most +-0.61',
                                              'differs'))
    # 9,790 - 9,105 = 685 of 50,000 are 1.37 points.
    self.assertEqual(lines[0].rows[1][1], '1.37 points, at most +-0.49')
    self.assertEqual(lines[0].rows[1][3], 'agrees')

  def test_nothing_to_gain(self):
    results = results_of(360, (6, 0), (4, 0))
    results['ten']['views'] = 5
    text = text_of(config_of(alexnet, 'digits', 10), results)
    self.assertIn('There are only 5 views instead of ten', text)
    self.assertNotIn('top-5  ', text.split('Ten views against')[1])


class ConfigTest(absltest.TestCase):

  def names(self, config, own=None):
    return [
        field.name
        for field in config_differences.differing_fields(config)
        if own is None or field.own == own
    ]

  def test_the_recipes_have_nothing_of_their_own(self):
    for recipe in (alexnet, alexnet_2012):
      for data in ('imagenet2012', 'folder', 'digits'):
        config = config_of(recipe, data)
        self.assertEmpty(self.names(config, own=True))
        self.assertContainsSubset(
            {'model.conv1.padding', 'model.lrn.divide_alpha_by_n'},
            self.names(config, own=False),
        )

  def test_three_groups(self):
    config = config_of(
        model__conv1__padding=(1, 2), duration='30 epochs', log_every='5 steps'
    )
    fields = {f.name: f for f in config_differences.differing_fields(config)}
    self.assertEqual(self.names(config, own=True), ['duration'])
    duration = fields['duration']
    self.assertEqual(
        (duration.run, duration.paper, duration.code),
        ('30 epochs', '90 epochs', '91 epochs'),
    )
    lines = section(config, results_of(), "The run's config")
    self.assertEqual(lines[0], 'Neither as in the paper nor as in run #145:')
    tables = dict(zip(lines[::2], lines[1::2]))
    rows = {text: [r[0] for r in t.rows] for text, t in tables.items()}
    self.assertEqual(
        rows['As in the paper, not as in run #145:'], ['model.conv1.padding']
    )
    self.assertIn(
        'augmentation.mean_crop', rows['As in run #145, not as in the paper:']
    )

  def test_a_schedule_that_is_not_in_use(self):
    config = config_of(schedule__geometric__bias_factor_half_way=0.5)
    self.assertEmpty(self.names(config, own=True))

  def test_a_field_that_older_runs_have_not_got(self):
    config = config_of()
    with config.unlocked():
      del config.model.pool
    self.assertEqual(
        self.names(config, own=True), ['model.pool.stride', 'model.pool.window']
    )
    # Nor does what is not there explain anything.
    lines = section(config, results_of(), 'What could explain a gap')
    self.assertLen(lines, 1)

  def test_steps_on_top_of_stages(self):
    steps = ((3.0, 'conv1', 'both', 0.0),)
    config = config_of(schedule__name='geometric', schedule__steps=steps)
    self.assertEqual(
        self.names(config, own=True), ['schedule.name', 'schedule.steps']
    )
    config = config_of(schedule__name='geometric', schedule__steps=())
    self.assertEqual(self.names(config, own=True), ['schedule.name'])

  def test_experiments(self):
    """Part of the recipe if they are set, and only then."""
    fields = {
        'augmentation.crop_size': 112,
        'dataset.size': 128,
        'model.width': 0.5,
        'pretrained.layers': ('conv1',),
        'pretrained.workdir': 'runs/other',
        'until_train_error': 0.25,
    }
    config = config_of(dataset__split_seed=3, **fields)
    self.assertEqual(self.names(config, own=True), sorted(fields))
    self.assertNoCommonElements(self.names(config_of()), fields)


class DefinitionTest(absltest.TestCase):
  """Runs of configs/cuda_convnet.py, whose network is in a file."""

  def test_is_not_compared(self):
    config = definition_of()
    text = text_of(config, results_of())
    self.assertLess(len(text), 8000)
    self.assertNotIn('epsW', text)
    lines = section(config, results_of(), "The run's config")
    self.assertEqual(
        lines[:2],
        [
            'The network, its rates and its decays are those of the file '
            'layers-153.cfg and of its parameter file, and are not compared.',
            'Every other field is as in the paper or as in run #145.',
        ],
    )
    for field in config_differences.differing_fields(config):
      self.assertTrue(
          field.name == 'duration' or field.name.startswith('augmentation.'),
          field.name,
      )

  def test_explains_nothing(self):
    results = results_of(ten=(21_000, 9_105))
    lines = section(definition_of(), results, 'What could explain a gap')
    self.assertLen(lines, 2)
    self.assertStartsWith(
        lines[1], 'Apart from the network of layers-153.cfg, no field of the'
    )

  def test_what_is_set_is_compared(self):
    config = definition_of(
        schedule__name='constant',
        optimizer__momentum=0.5,
        augmentation__flip=False,
    )
    own = [f.name for f in config_differences.differing_fields(config) if f.own]
    self.assertEqual(
        own, ['augmentation.flip', 'optimizer.momentum', 'schedule.name']
    )
    lines = section(config, results_of(), "The run's config")
    self.assertStartsWith(lines[0], 'The network and its decays are')

  def test_a_history_of_its_own(self):
    steps = ((3.0, 'conv1a', 'both', 0.0),)
    config = definition_of(schedule__steps=steps)
    own = [f.name for f in config_differences.differing_fields(config) if f.own]
    self.assertEqual(own, ['schedule.steps'])


class CommandTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)

  def run_command(self, *flags):
    # Neither JAX nor TensorFlow is needed to read two files.
    code = (
        'import sys, runpy; sys.modules["jax"] = None; '
        'sys.modules["tensorflow"] = None; '
        'runpy.run_module("alexnet.analysis.compare", run_name="__main__", '
        'alter_sys=True)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code, f'--workdir={self.workdir}', *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout, result.stderr

  def test_no_run(self):
    status, _, error = self.run_command()
    self.assertEqual(status, 1)
    self.assertIn('is not the workdir of a run', error)

  def test_not_finished(self):
    workdir.save_config(self.workdir, config_of())
    with self.assertRaisesRegex(
        CheckpointError, 'has no results.json, so the run is not finished'
    ):
      comparison.load(self.workdir)

  def test_text_and_markdown(self):
    workdir.save_config(self.workdir, config_of())
    workdir.write_json(self.workdir / 'results.json', results_of())
    status, output, error = self.run_command()
    self.assertEqual(status, 0, error)
    self.assertIn('ten views    40.66 % (40.23 to 41.10)', output)
    # From JSON and back, tuples are still those of the recipe.
    self.assertIn('Every field is as in the paper or as in run #145', output)
    file = self.workdir / 'compared.md'
    status, output, error = self.run_command(f'--output={file}')
    self.assertEqual(status, 0, error)
    self.assertIn(
        '| paper, Table 2, 1 CNN = run #145 | ten views | 40.66 / 18.21 | '
        'inside | inside |',
        file.read_text(),
    )
    status, _, error = self.run_command('--output=x.txt')
    self.assertEqual(status, 1)
    self.assertIn('expected a file that ends in .md', error)


class DocumentTest(absltest.TestCase):

  def test_text(self):
    sections = [
        ('Title', ['a b c d', Table(('x', 'long'), (('wide', '1'),)),
                   Bullets(('one two three',))]),
    ]
    self.assertEqual(
        tables_lib.to_text(sections, width=9),
        'Title\n-----\n\na b c d\n\nx     long\nwide  1\n\n'
        '* one two\n  three\n',
    )

  def test_markdown(self):
    sections = [
        ('Title', [Table(('x', 'y'), (('a|b', '1'),)), Bullets(('one',))]),
    ]
    self.assertEqual(
        tables_lib.to_markdown(sections),
        '## Title\n\n| x | y |\n| --- | --- |\n| a\\|b | 1 |\n\n* one\n',
    )



if __name__ == '__main__':
  absltest.main()
