"""Makes pictures of reports, for the docs.

  python docs/screenshots.py runs/imagenette/report.html curves kernels phone
  python docs/screenshots.py runs/alexnet/report.html predictions neighbours

The second one is of digits: photographs have owners. Needs a Chromium of the
system, and `playwright` of requirements-dev.txt.
"""

import contextlib
import io
import pathlib
import shutil
import sys
from collections.abc import Iterator

from PIL import Image
from playwright import sync_api

DOCS = pathlib.Path(__file__).parent

_BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
DESKTOP = {'viewport': {'width': 1280, 'height': 900}}
PHONE = {
    'viewport': {'width': 375, 'height': 812},
    'device_scale_factor': 2,
    'is_mobile': True,
}
# Name of a picture: the section that it shows (None: the top of the page), the
# screen and its colours.
PICTURES = {
    'curves': ('curves', DESKTOP, 'light'),
    'kernels': ('kernels', DESKTOP, 'light'),
    'predictions': ('predictions', DESKTOP, 'light'),
    'neighbours': ('nearest-neighbours', DESKTOP, 'dark'),
    'phone': (None, PHONE, 'dark'),
}


def installed() -> str | None:
  """Path of a Chromium; None if there is none."""
  return next(filter(None, map(shutil.which, _BROWSERS)), None)


@contextlib.contextmanager
def browser() -> Iterator[sync_api.Browser]:
  """A Chromium without a window."""
  with sync_api.sync_playwright() as playwright:
    # As root there is no sandbox.
    started = playwright.chromium.launch(
        executable_path=installed(), args=['--no-sandbox']
    )
    try:
      yield started
    finally:
      started.close()


def main(argv):
  if len(argv) < 3 or not pathlib.Path(argv[1]).is_file():
    sys.exit(__doc__)
  if unknown := [name for name in argv[2:] if name not in PICTURES]:
    sys.exit(f'error: {unknown[0]}: expected some of {", ".join(PICTURES)}')
  if installed() is None:
    sys.exit(f'error: none of {", ".join(_BROWSERS)} is installed')
  address = pathlib.Path(argv[1]).resolve().as_uri()
  with browser() as chromium:
    for name in argv[2:]:
      section, screen, colours = PICTURES[name]
      context = chromium.new_context(**screen, color_scheme=colours)
      page = context.new_page()
      page.goto(address)
      part = page if section is None else page.locator(f'#{section}')
      with Image.open(io.BytesIO(part.screenshot())) as image:
        image.convert('RGB').save(DOCS / f'report_{name}.jpg', quality=85)
      context.close()


if __name__ == '__main__':
  main(sys.argv)
