"""A report as a browser shows it: by Chromium, where it is installed."""

import io
import pathlib
import shutil
import tempfile
import unittest

from absl.testing import absltest, parameterized

from alexnet.analysis.report import build, run_history
from alexnet.metrics import console
from alexnet.training import trainer
from docs import screenshots
from tests import testing, tiny

# What sticks out of the window at the right, but for tables, which scroll.
_OUTSIDE = """() => [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .filter(e => !e.parentElement.closest('.table'))
    .map(e => e.outerHTML.slice(0, 80))"""
_PICTURES = """() => [...document.images]
    .map(i => i.complete ? i.naturalWidth : 0)"""


@unittest.skipIf(
    screenshots.installed() is None,
    "no Chromium: install Debian's package chromium",
)
class BrowserTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    images = testing.write_images(directory / 'images', classes=3, per_class=9)
    config = tiny.get_config()
    config.dataset.train_dir = str(images)
    config.dataset.eval_fraction = 0.34
    config.layer_statistics_images = 4
    one, other = folders = [directory / name for name in ('one', 'other')]
    trainer.create(config, one, console.Console(io.StringIO())).train()
    shutil.copytree(one, other)
    build.of_one(run_history.read(one)).write(one, 'run', 'a test')
    build.of_several([run_history.read(folder) for folder in folders]).write(
        directory, 'runs', 'a test'
    )
    cls.pages = {'one': one, 'several': directory}
    cls.browser = cls.enterClassContext(screenshots.browser())

  @parameterized.product(
      page=('one', 'several'),
      screen=(screenshots.DESKTOP, screenshots.PHONE),
      colours=('light', 'dark'),
  )
  def test_page(self, page, screen, colours):
    context = self.browser.new_context(**screen, color_scheme=colours)
    self.addCleanup(context.close)
    shown = context.new_page()
    said, requests = [], []
    shown.on('console', lambda message: said.append(message.text))
    shown.on('pageerror', lambda error: said.append(str(error)))
    shown.on('request', lambda request: requests.append(request.url))
    address = (self.pages[page] / 'report.html').as_uri()
    shown.goto(address)
    shown.wait_for_load_state('networkidle')
    self.assertEqual(said, [])
    self.assertIn(address, requests)
    requests.remove(address)
    for request in requests:
      self.assertStartsWith(request, 'data:')
    self.assertEqual(shown.evaluate(_OUTSIDE), [])
    self.assertGreater(min(shown.evaluate(_PICTURES)), 0)
    background = shown.evaluate(
        '() => getComputedStyle(document.body).backgroundColor'
    )
    brightness = sum(map(int, background[4:-1].split(',')))
    self.assertEqual(brightness > 384, colours == 'light')


if __name__ == '__main__':
  absltest.main()
