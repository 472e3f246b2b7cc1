"""What the network reads, against NumPy from the formulas, on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from alexnet.evaluation import eval_steps
from alexnet.inference.views import Views
from alexnet.models import create_model
from alexnet.runtime import mesh as mesh_lib
from alexnet.runtime import sharding
from alexnet.training import optimizer, train_step
from tests import testing

CENTRE = np.s_[16:240, 16:240]


def square(seed=0, levels=256):
  """A mean image, [256, 256, 3] float32, unlike in every place."""
  rng = np.random.default_rng(seed)
  return rng.uniform(0, levels, (256, 256, 3)).astype(np.float32)


def training_batch(count, seed=0):
  """Noise with all that a training batch has; extremes are in the first."""
  rng = np.random.default_rng(seed)
  batch = {
      'image': rng.integers(0, 256, (count, 224, 224, 3)).astype(np.uint8),
      'label': rng.integers(0, 10, count).astype(np.int32),
      'offset': rng.integers(0, 33, (count, 2)).astype(np.int32),
      'flip': np.arange(count) % 2 == 1,
      'shift': rng.normal(0, 12, (count, 3)).astype(np.float32),
      'divisor': np.where(np.arange(count) % 3, 1.1, 1).astype(np.float32),
  }
  batch['offset'][:3] = (0, 0), (32, 32), (0, 32)
  return batch


def by_numpy(batch, mean, mean_crop):
  """(crop - mean + shift) / divisor, [count, 224, 224, 3] float64."""
  result = []
  for i, crop in enumerate(batch['image'].astype(np.float64)):
    top, left = batch['offset'][i]
    if mean_crop == 'under':
      crop -= mean[top : top + 224, left : left + 224]
    if batch['flip'][i]:
      crop = crop[:, ::-1]
    if mean_crop == 'centre':
      crop = crop - mean[CENTRE]
    result.append((crop + batch['shift'][i]) / batch['divisor'][i])
  return np.stack(result)


def on_mesh(function, data, tower):
  """The function as the training step maps it over a mesh."""
  config = testing.narrow_config()
  config.mesh.data, config.mesh.tower = data, tower
  mesh = mesh_lib.create_mesh(config)
  mapped = jax.jit(
      jax.shard_map(
          function,
          mesh=mesh,
          in_specs=sharding.BATCH,
          out_specs=sharding.BATCH,
      )
  )
  return lambda batch: mapped(sharding.put_batch(batch, mesh))


class TrainingTest(parameterized.TestCase):

  @parameterized.product(
      mean_crop=('under', 'centre'), compile=(lambda f: f, jax.jit)
  )
  def test_numpy(self, mean_crop, compile):
    batch, mean = training_batch(12), square()
    got = compile(Views(mean, mean_crop, mirror=True, crop=224).training)(batch)
    self.assertEqual((got.shape, got.dtype), ((12, 224, 224, 3), np.float32))
    # Levels to 300, of 24 bits each.
    np.testing.assert_allclose(
        got, by_numpy(batch, mean, mean_crop), rtol=0, atol=1e-4
    )

  @parameterized.product(
      mean_crop=('under', 'centre'), mesh=((2, 1), (1, 2), (2, 2), (4, 1))
  )
  def test_on_a_mesh(self, mean_crop, mesh):
    """Each device has the numbers of its own examples."""
    batch, mean = training_batch(8), square()
    views = Views(mean, mean_crop, mirror=True, crop=224)
    got = on_mesh(views.training, *mesh)(batch)
    np.testing.assert_allclose(
        got, by_numpy(batch, mean, mean_crop), rtol=0, atol=1e-4
    )

  def test_mirror_of_the_ten_views_is_not_that_of_training(self):
    """There the batch decides."""
    batch, mean = training_batch(4), square()
    one, other = (
        jax.jit(Views(mean, 'under', mirror=mirror, crop=224).training)(batch)
        for mirror in (False, True)
    )
    np.testing.assert_array_equal(one, other)

  def test_by_hand(self):
    """Pixels that say where they are, a mean that does, small numbers."""
    rows, columns = np.mgrid[:256, :256]
    image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    # Less this mean, every pixel is (0, 100, 0) whatever the crop.
    mean = np.stack([rows, columns - 100, 0 * rows], axis=-1)
    batch = {
        'image': np.stack([image[3:227, 30:254]] * 2),
        'offset': np.array([[3, 30]] * 2, np.int32),
        'flip': np.array([False, True]),
        'shift': np.array([[1, 2, 3], [0, 0, 0]], np.float32),
        'divisor': np.array([1, 2], np.float32),
    }
    under, middle = (
        np.asarray(
            jax.jit(
                Views(
                    mean.astype(np.float32), crop, mirror=True, crop=224
                ).training
            )(batch)
        )
        for crop in ('under', 'centre')
    )
    np.testing.assert_array_equal(under[0], [[[1, 102, 3]] * 224] * 224)
    np.testing.assert_array_equal(under[1], [[[0, 50, 0]] * 224] * 224)
    # The mean's centre begins at (16, 16), with columns -84 on.
    np.testing.assert_array_equal(middle[0, 0, 0], [3 - 16 + 1, 30 + 84 + 2, 3])
    # Mirrored: the crop's last column, 253, comes first; the mean stays.
    np.testing.assert_array_equal(
        middle[1, 0, 0], [(3 - 16) / 2, (253 + 84) / 2, 0]
    )

  def test_white_and_black_do_not_wrap(self):
    batch = training_batch(3)
    batch['image'][0], batch['image'][1] = 0, 255
    batch['shift'][:] = [[-200], [200], [0]]
    batch['divisor'][:] = 1
    views = Views(square(levels=1), 'under', mirror=True, crop=224)
    got = jax.jit(views.training)(batch)
    self.assertBetween(float(got[0].max()), -201, -200)
    self.assertBetween(float(got[1].min()), 454, 455)


class EvaluationViewsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(1)
    self.batch = {
        'image': rng.integers(0, 256, (4, 256, 256, 3)).astype(np.uint8)
    }
    self.mean = square()

  def expected(self, mean_crop, mirror):
    wide, mean = self.batch['image'].astype(np.float64), self.mean
    if mean_crop == 'under':
      wide = wide - mean
    five = [
        wide[:, :224, :224], wide[:, :224, 32:], wide[:, 32:, :224],
        wide[:, 32:, 32:], wide[:, *CENTRE],
    ]
    views = five + [view[:, :, ::-1] for view in five] * mirror
    if mean_crop == 'centre':
      views = [view - mean[CENTRE] for view in views]
    return np.stack(views, axis=1)

  @parameterized.product(
      mean_crop=('under', 'centre'),
      mirror=(False, True),
      wrap=(jax.jit, lambda f: on_mesh(f, 2, 1), lambda f: on_mesh(f, 1, 2)),
  )
  def test_ten_and_centre(self, mean_crop, mirror, wrap):
    views = Views(self.mean, mean_crop, mirror=mirror, crop=224)
    expected = self.expected(mean_crop, mirror)
    ten = wrap(views.ten)(self.batch)
    self.assertEqual(ten.shape, (4, 10 if mirror else 5, 224, 224, 3))
    self.assertEqual(ten.dtype, np.float32)
    np.testing.assert_allclose(ten, expected, rtol=0, atol=1e-4)
    one = wrap(views.centre)(self.batch)
    self.assertEqual((one.shape, one.dtype), ((4, 1, 224, 224, 3), np.float32))
    np.testing.assert_allclose(one, expected[:, 4:5], rtol=0, atol=1e-4)

  @parameterized.parameters('under', 'centre')
  def test_the_centre_view_is_training_without_augmentation(self, mean_crop):
    """By the mean of the same place: what is learned is what is tested."""
    batch = {
        'image': self.batch['image'][:, *CENTRE],
        'offset': np.full((4, 2), 16, np.int32),
        'flip': np.zeros(4, bool),
        'shift': np.zeros((4, 3), np.float32),
        'divisor': np.ones(4, np.float32),
    }
    views = Views(self.mean, mean_crop, mirror=True, crop=224)
    np.testing.assert_array_equal(
        jax.jit(views.training)(batch), jax.jit(views.centre)(self.batch)[:, 0]
    )

  def test_another_size(self):
    """Six pixels of eight, whose places can be counted."""
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    views = Views(np.zeros((8, 8, 3), np.float32), 'under', True, crop=6)
    got = np.asarray(views.ten({'image': image}))
    places = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))
    for number, (top, left) in enumerate(places):
      crop = image[0, top : top + 6, left : left + 6]
      np.testing.assert_array_equal(got[0, number], crop)
      np.testing.assert_array_equal(got[0, number + 5], crop[:, ::-1])
    centre = np.asarray(views.centre({'image': image}))
    np.testing.assert_array_equal(centre[0, 0], image[0, 1:7, 1:7])


def losses_of(batch, images, data=1, tower=1, accumulation=1):
  """Of two training steps."""
  config = testing.narrow_config()
  config.model.num_classes = 10
  config.mesh.data, config.mesh.tower = data, tower
  mesh = mesh_lib.create_mesh(config)
  model = create_model(config.model)
  rule = optimizer.create_optimizer(config.optimizer)
  state = sharding.initialize(
      lambda key: train_step.create_state(model, rule, key), mesh, 0
  )
  step = train_step.make_train_step(
      model=model, optimizer=rule, mesh=mesh, state=state, images=images,
      seed=0, accumulation=accumulation,
  )
  rates = jax.tree.map(lambda _: np.float32(0.001), state.params)
  losses = []
  for _ in range(2):
    state, metrics = step(state, sharding.put_batch(batch, mesh), rates)
    losses.append(float(metrics['loss']))
  return losses


@functools.cache
def losses_of_floats(mean_crop):
  """The same of images that NumPy has made."""
  batch = training_batch(8)
  images = by_numpy(batch, square(), mean_crop).astype(np.float32)
  floats = {'image': images, 'label': batch['label']}
  return losses_of(floats, lambda batch: batch['image'])


class StepTest(parameterized.TestCase):
  """In the compiled steps: 8-bit batches do what NumPy's images do."""

  @parameterized.parameters(
      ('under', 2, 1, 1), ('centre', 1, 2, 1), ('under', 1, 2, 2),
      ('centre', 1, 1, 4),
  )
  def test_training(self, mean_crop, data, tower, accumulation):
    views = Views(square(), mean_crop, mirror=True, crop=224)
    losses = losses_of(
        training_batch(8), views.training, data, tower, accumulation
    )
    expected = losses_of_floats(mean_crop)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    # Other images have another loss, by far.
    other = 'centre' if mean_crop == 'under' else 'under'
    self.assertGreater(abs(losses_of_floats(other)[0] - expected[0]), 1e-3)

  @parameterized.product(views=('centre', 'ten'), mesh=((1, 1), (2, 1), (1, 2)))
  def test_evaluation(self, views, mesh):
    config = testing.narrow_config()
    config.model.num_classes = 10
    config.mesh.data, config.mesh.tower = mesh
    mesh = mesh_lib.create_mesh(config)
    model = create_model(config.model)
    rng = np.random.default_rng(2)
    batch = {
        'image': rng.integers(0, 256, (4, 256, 256, 3)).astype(np.uint8),
        'label': np.array([1, 7, 3, 3], np.int32),
        'weight': np.array([1, 1, 1, 0], np.float32),
    }
    params = sharding.initialize(
        lambda key: model.init(key, jnp.zeros((1, 224, 224, 3)))['params'],
        mesh,
        0,
    )
    mean = square()
    step = eval_steps.make_eval_step(
        model=model, mesh=mesh, variables={'params': params},
        images=getattr(Views(mean, 'under', mirror=True, crop=224), views),
    )
    batch_on_mesh = sharding.put_batch(batch, mesh)
    sums = jax.device_get(step({'params': params}, batch_on_mesh))
    self.assertEqual(sums['count'], 3)
    self.assertEqual(sums['views'], 30 if views == 'ten' else 3)
    wide = batch['image'].astype(np.float64) - mean
    crops = [wide[:, *CENTRE]]
    if views == 'ten':
      crops += [
          wide[:, top : top + 224, left : left + 224]
          for top in (0, 32) for left in (0, 32)
      ]
      crops += [crop[:, :, ::-1] for crop in crops]
    total = 0
    for crop in crops:
      logits = np.asarray(
          testing.apply_of(model)(
              {'params': jax.device_get(params)}, crop.astype(np.float32)
          ),
          np.float64,
      )
      exp = np.exp(logits - logits.max(1, keepdims=True))
      total += exp / exp.sum(1, keepdims=True)
    mean_of_views = total / len(crops)
    loss = -np.log(mean_of_views[np.arange(3), batch['label'][:3]]).sum()
    np.testing.assert_allclose(sums['loss'], loss, rtol=1e-4)


if __name__ == '__main__':
  absltest.main()
