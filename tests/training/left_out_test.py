"""What training and evaluation say of data that they do not use."""

import io
import pathlib

from absl.testing import absltest

from alexnet.evaluation import session
from alexnet.metrics.console import Console
from alexnet.training import trainer
from tests import testing, tiny


class LeftOutTest(absltest.TestCase):

  def test_training_and_evaluation(self):
    directory = pathlib.Path(self.create_tempdir())
    images = testing.write_images(directory / 'in', 2, 6)
    (images / 'class0/phone.heic').write_text('a photo')
    (images / 'class1/gone').symlink_to('nowhere')
    new = testing.write_images(directory / 'new', 2, 3, seed=1)
    (new / 'notes.txt').write_text('')
    (new / 'class0/copy.jpg').write_bytes(
        (images / 'class0/000.jpg').read_bytes()
    )
    for path in (new / 'class1').iterdir():  # One class is enough.
      path.unlink()
    config = tiny.get_config()
    config.dataset.train_dir, config.dataset.eval_dir = str(images), str(new)
    config.duration = '1 steps'
    config.ten_views = False
    said = io.StringIO()
    trainer.create(config, directory / 'run', Console(said)).train()
    again = io.StringIO()
    session.open_run(directory / 'run', Console(again))
    for text in (said.getvalue(), again.getvalue()):
      for part in (
          f'left out of {images}: 1 .heic (class0/phone.heic), 1 link(s) that '
          'lead nowhere (class1/gone)\n',
          f'left out of {new}: 1 .txt (notes.txt), 1 folder(s) without an '
          'image (class1)\n',
          'warning: 1 of 4 evaluation images are in the training set, too '
          f'({new}/class0/copy.jpg = {images}/class0/000.jpg), ',
      ):
        self.assertEqual(text.count(part), 1, (part, text))


if __name__ == '__main__':
  absltest.main()
