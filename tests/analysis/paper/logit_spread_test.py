"""The spread of untrained logits: by hand, and from the images on."""

import pathlib

import jax
import numpy as np
from absl.testing import absltest

from alexnet.analysis.paper import logit_spread
from alexnet.models import create_model
from input_pipeline import datasets
from tests import testing, tiny


class LogitSpreadTest(absltest.TestCase):

  def test_by_hand(self):
    # Variances over images of 1 and 0, whose mean is a half.
    logits = np.array([[1.0, 2.0], [3.0, 2.0]])
    self.assertAlmostEqual(logit_spread.spread(logits), 0.5**0.5)

  def test_images_to_logits(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'images'
    testing.write_images(folder, classes=3, per_class=4)
    config = tiny.get_config()
    config.dataset.train_dir = str(folder)
    config.dataset.mean = 'channels'
    config.dataset.eval_fraction = 0.5
    (got,) = logit_spread.initial_logits(config, seeds=[5], images=2)

    train, evaluation = datasets.create_sources(config.dataset, config.seed)
    squares = lambda source, indices: np.stack(
        [source.image(i)[0] for i in indices]
    ).astype(np.float32)
    mean = squares(train, range(len(train))).mean(axis=(0, 1, 2))
    # The first and the last of the set.
    images = squares(evaluation, [0, len(evaluation) - 1])
    images = (images - mean)[:, 16:240, 16:240]
    config.model.num_classes = 3
    model = create_model(config.model)
    wanted = jax.jit(model.apply)(
        jax.jit(model.init)(jax.random.key(5), images), images
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
    self.assertIsNone(tiny.get_config().model.num_classes)


if __name__ == '__main__':
  absltest.main()
