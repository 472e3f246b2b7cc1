"""Datasets that have to be fetched, on a machine without a network."""

import contextlib
import json
import os
import pathlib
import socket
import time
import types

import ml_collections
from absl.testing import absltest, parameterized

from input_pipeline import datasets
from input_pipeline.errors import DataError
from tests import commands


class NetworkTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.enterContext(
        absltest.mock.patch.dict(os.environ, no_proxy='*', NO_PROXY='*')
    )
    self.enterContext(
        absltest.mock.patch.object(datasets, '_ANSWER', 1.0)
    )

  def check(self, *addresses):
    datasets._check_network(
        ml_collections.ConfigDict({'name': 'photos'}),
        types.SimpleNamespace(url_infos=dict.fromkeys(addresses)),
        self.root,
    )

  @contextlib.contextmanager
  def server(self, *, listens):
    with socket.socket() as server:
      server.bind(('127.0.0.1', 0))
      if listens:  # And does not answer.
        server.listen()
      yield f'http://127.0.0.1:{server.getsockname()[1]}/photos.tar'

  @parameterized.parameters(True, False)
  def test_no_answer(self, listens):
    with self.server(listens=listens) as address:
      start = time.monotonic()
      with self.assertRaisesRegex(
          DataError, f"'photos' is not in {self.root}, .* from {address} .*: "
          'check the network, or set --config.dataset.dir',
      ):
        self.check(address)
    self.assertLess(time.monotonic() - start, 10)

  def test_a_name_that_is_looked_up_for_ever(self):
    hanging = absltest.mock.patch.object(
        socket, 'getaddrinfo', side_effect=lambda *_, **__: time.sleep(30)
    )
    start = time.monotonic()
    with hanging, self.assertRaisesRegex(DataError, 'no answer'):
      self.check('http://photos.invalid/photos.tar')
    self.assertLess(time.monotonic() - start, 10)

  def test_nothing_to_fetch(self):
    self.check()
    self.check('ftp://photos.invalid/photos.tar')  # Not asked over HTTP.

  @parameterized.parameters(
      ('http://photos.invalid/photos.tar', 'photos.tar', True),
      ('http://photos.invalid/photos.tar', 'manual/p.tar', True),
      ('http://photos.invalid/photos.tar', 'none', False),
      ('http://birds.invalid/birds.tar', 'photos.tar', False),
      ('http://birds.invalid/birds.tar', 'manual/birds.tar', False),
  )
  def test_fetched_before(self, address, name, fetched):
    """That a file of the dataset, not of another one."""
    downloads = self.root / 'downloads'
    (downloads / 'manual').mkdir(parents=True)
    (downloads / 'photos.tar.INFO').write_text(json.dumps({'urls': [address]}))
    (downloads / 'broken.INFO').write_text('{')
    (downloads / name).write_text('')
    infos = {
        'http://photos.invalid/photos.tar': types.SimpleNamespace(
            filename='p.tar'
        )
    }
    self.assertEqual(datasets._fetched(downloads, infos), fetched)
    builder = types.SimpleNamespace(url_infos=infos)
    config = ml_collections.ConfigDict({'name': 'photos'})
    offline = absltest.mock.patch.object(
        socket, 'getaddrinfo', side_effect=OSError
    )
    refused = self.assertRaisesRegex(DataError, 'check the network')
    with offline, contextlib.nullcontext() if fetched else refused:
      datasets._check_network(config, builder, self.root)

  @parameterized.parameters('huggingface:mnist', 'someone:photos')
  def test_another_place_for_datasets(self, name):
    config = ml_collections.ConfigDict({'name': name, 'dir': str(self.root)})
    start = time.monotonic()
    with self.assertRaisesRegex(DataError, f"'{name}' is not known"):
      datasets._tfds_builder(config)
    self.assertLess(time.monotonic() - start, 60)


class CommandTest(parameterized.TestCase):

  @parameterized.parameters(
      ('main.py', '--config=configs/alexnet.py:imagenette', '--workdir={}/run',
       '--config.dataset.dir={}/data'),
      ('-m', 'input_pipeline.prepare', '--source=tfds:imagenette',
       '--output={}/out', '--data_dir={}/data'),
  )
  def test_message(self, *command):
    folder = self.create_tempdir().full_path
    proxy = 'http://127.0.0.1:1'  # Nobody listens there.
    result = commands.run(
        *(word.format(folder) for word in command), https_proxy=proxy,
        http_proxy=proxy, HTTPS_PROXY=proxy, HTTP_PROXY=proxy, no_proxy='',
    )
    self.assertEqual(result.returncode, 1)
    self.assertNotIn('Traceback', result.stderr)
    self.assertIn("'imagenette' is not in", result.stderr)
    flag = '--config.dataset.dir' if command[0] == 'main.py' else '--data_dir'
    self.assertIn(f'or set {flag} to where', result.stderr)


if __name__ == '__main__':
  absltest.main()
