"""Makes the pictures of this folder: python docs/pictures.py

The photographs are those that come with scikit-learn, CC BY 2.0: the temple by
danielbuechele (flickr.com/photos/danielbuechele/6061409035), the flower by
vultilion (flickr.com/photos/vultilion/6056698931).
"""

import pathlib
import subprocess
import sys
import tempfile

from PIL import Image
from sklearn import datasets

DOCS = pathlib.Path(__file__).parent

_CROPS = '--config.augmentation.crop_offsets=1'
_FLIP = '--config.augmentation.flip=False'
_LIGHTING = '--config.augmentation.lighting=none'

# Name: recipe and flags, each picture with one kind of augmentation but the
# last two.
PICTURES = {
    'crops': ('alexnet', _FLIP, _LIGHTING),
    'flips': ('alexnet', _CROPS, _LIGHTING),
    'lighting_paper': ('alexnet', _CROPS, _FLIP),
    'lighting_2012': ('alexnet_2012', _CROPS, _FLIP),
    'training': ('alexnet',),
    'ten_views': ('alexnet', '--set=evaluation'),
}


def main():
  with tempfile.TemporaryDirectory() as directory:
    photographs = datasets.load_sample_images()
    for name, pixels in zip(photographs.filenames, photographs.images):
      path = pathlib.Path(directory) / pathlib.Path(name).stem
      path.mkdir()
      Image.fromarray(pixels).save(path / 'photo.jpg', quality=95)
    for name, (recipe, *flags) in PICTURES.items():
      command = [
          *('-m', 'input_pipeline.show'),
          f'--config=configs/{recipe}.py:folder',
          f'--config.dataset.train_dir={directory}',
          f'--config.dataset.eval_dir={directory}',
          '--config.dataset.pca=imagenet',
          '--config.dataset.mean=imagenet_channels',
          f'--output={DOCS / name}.jpg',
          '--images=2',
          *flags,
      ]
      subprocess.run([sys.executable, *command], cwd=DOCS.parent, check=True)


if __name__ == '__main__':
  main()
