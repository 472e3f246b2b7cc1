"""Files of what classes are to be called, in the forms that users have."""

import pathlib

from absl.testing import absltest, parameterized

from alexnet.config.errors import ConfigError
from alexnet.inference import run_flags

CLASSES = ('n01', 'n02', 'red panda', 'caf\u00e9')


class ClassNamesTest(parameterized.TestCase):

  def read(self, text, encoding='utf-8'):
    self.file = pathlib.Path(self.create_tempdir()) / 'names.txt'
    self.file.write_bytes(text.encode(encoding))
    return run_flags.read_class_names(str(self.file), CLASSES)

  @parameterized.parameters(
      'n01 tench, Tinca tinca\nn02 a dog\n',
      '\ufeffn01 tench, Tinca tinca\r\nn02 a dog\r\n',
      'n01\ttench, Tinca tinca\nn02\ta dog\n',
      'n01   tench  \n\nn02 a dog',
      'n01 "tench"\nn02,"a dog"\n',
      'n01,tench\nn02,a dog\n',
      'class,name\r\nn01,tench\r\nn02,a dog\r\n',
      '"class";"name"\n"n01";"tench"\n"n02";"a dog"\n',
      'N01 tench\nN02 a dog\n',
      # Of a thousand classes the run has two.
      'n00 a thing\nn01 tench\nn02 a dog\nn99 another\nn98\n',
  )
  def test_forms(self, text):
    self.assertEqual(self.read(text), {'n01': 'tench', 'n02': 'a dog'})

  def test_utf16(self):
    self.assertEqual(self.read('n01 tench\r\n', 'utf-16'), {'n01': 'tench'})

  def test_classes_with_blanks_and_accents(self):
    self.assertEqual(
        self.read('"red panda",Roter Panda\ncafe\u0301,coffee, black\n'),
        {'red panda': 'Roter Panda', 'caf\u00e9': 'coffee'},
    )
    self.assertEqual(
        self.read('red panda\tRoter Panda\n'), {'red panda': 'Roter Panda'}
    )

  @parameterized.parameters(
      'red panda Roter Panda', '"red panda" Roter Panda',
      'red panda\tRoter Panda, Katzenb\u00e4r', 'red panda\u00a0Roter Panda',
      'Red Panda  "Roter Panda"', 'red panda Roter Panda, Katzenb\u00e4r',
  )
  def test_a_class_with_a_blank(self, line):
    with self.assertLogs(level='WARNING') as logs:
      self.assertEqual(self.read(line), {'red panda': 'Roter Panda'})
    self.assertIn(
        'no name for 3 of 4 classes (n01, n02, caf\u00e9), which keep '
        'their names',
        logs.output[0],
    )

  def test_the_longest_class(self):
    file = self.create_tempfile(content='ant lion Ameisenl\u00f6we\nant Ameise')
    with self.assertNoLogs(level='WARNING'):
      self.assertEqual(
          run_flags.read_class_names(file.full_path, ('ant', 'ant lion')),
          {'ant': 'Ameise', 'ant lion': 'Ameisenl\u00f6we'},
      )

  @parameterized.parameters(
      ('tench\na dog\n', r'names none of the classes \(n01, n02, red panda, '
                         r"\.\.\.\), line 1 is 'tench': expected lines with"),
      ('\n\nn77 tench\n', "line 3 is 'n77 tench': expected"),
      ('', 'names none of the classes'),
      ('n01 tench\nn02\n', "line 2, has a class without a name, 'n02':"),
      ('n01 tench\nn02,\n', 'line 2, has a class without a name'),
  )
  def test_errors(self, text, message):
    with self.assertRaisesRegex(ConfigError, message) as caught:
      self.read(text)
    self.assertIn(str(self.file), str(caught.exception))

  def test_no_text(self):
    file = pathlib.Path(self.create_tempdir()) / 'a.txt'
    file.write_bytes(b'n01 \xff\xfe')
    with self.assertRaisesRegex(ConfigError, 'cannot read .*a.txt .*UTF-8'):
      run_flags.read_class_names(str(file), CLASSES)


if __name__ == '__main__':
  absltest.main()
