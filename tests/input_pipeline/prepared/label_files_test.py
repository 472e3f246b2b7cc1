"""Labels of images without class folders, in the forms that users have."""

from absl.testing import absltest, parameterized

from input_pipeline.files import names
from tests.packing import OriginsTest, below, members, tar

IMAGES = members('x0.jpg', 'x1.jpg', 'x2.jpg', first=50)
TRUTH = {'x0.jpg': 'bee', 'x1.jpg': 'red panda', 'x2.jpg': 'caf\u00e9'}
CLASSES = ('ant', 'bee', 'caf\u00e9', 'red panda')

# Each says TRUTH.
FORMS = {
    'in order': 'bee\nred panda\ncaf\u00e9\n',
    'a header': 'label\nbee\nred panda\ncaf\u00e9\n',
    'quotes': '"bee"\n\'red panda\'\n"caf\u00e9"\n',
    'byte order mark': '\ufeffbee\r\nred panda\r\ncaf\u00e9\r\n',
    'old Macintosh': 'bee\rred panda\rcaf\u00e9',
    'no end, blank lines': '\n  bee \n\nred panda\t\n \ncaf\u00e9',
    'letters taken apart': 'bee\nred panda\ncafe\u0301\n',
    'capital letters': 'Bee\nRed Panda\nCAF\u00c9\n',
    'Caffe': 'x1.jpg red panda\nx0.jpg bee\nx2.jpg caf\u00e9\n',
    'Caffe, folders': 'val/x1.jpg red panda\nval/x0.jpg bee\nval/x2.jpg '
                      'caf\u00e9\n',
    'Caffe, quotes': 'x1.jpg "red panda"\nx0.jpg "bee"\nx2.jpg "caf\u00e9"\n',
    'blanks between': 'x1.jpg   red panda\nx0.jpg  bee\nx2.jpg    caf\u00e9\n',
    'tabs': 'x2.jpg\tcaf\u00e9\nx1.jpg\tred panda\nx0.jpg\tbee\n',
    'tabs and a header': 'file\tclass\nx2.jpg\tcaf\u00e9\nx1.jpg\tred panda\n'
                         'x0.jpg\tbee\n',
    'Kaggle': 'file,label\nx2.jpg,caf\u00e9\nx1.jpg,red panda\nx0.jpg,bee\n',
    'Kaggle, no suffix': 'id,breed\nx2,caf\u00e9\nx1,red panda\nx0,bee\n',
    'no header': 'x2.jpg,caf\u00e9\nx1.jpg,red panda\nx0.jpg,bee\n',
    'class first': 'label,file\ncaf\u00e9,x2.jpg\nred panda,x1.jpg\n'
                   'bee,x0.jpg\n',
    'more columns': 'n,width,file,sex,label\n0,20,x1.jpg,f,red panda\n'
                    '1,20,x0.jpg,m,bee\n2,20,x2.jpg,f,caf\u00e9\n',
    'Excel': '\ufefffile;label\r\nx2.jpg;caf\u00e9\r\nx1.jpg;red panda\r\n'
             'x0.jpg;bee\r\n',
    'quoted CSV': '"file","label"\n"x2.jpg","caf\u00e9"\n'
                  '"x1.jpg", "red panda"\n'
                  '"x0.jpg","bee"\n',
    'Windows paths': 'C:\\val\\x2.jpg,caf\u00e9\nC:\\val\\x1.jpg,red panda\n'
                     'C:\\val\\x0.jpg,bee\n',
    'capital suffixes': 'X2.JPG,caf\u00e9\nX1.JPG,red panda\nX0.JPG,bee\n',
    'of more images': 'x2.jpg,caf\u00e9\nx1.jpg,red panda\nx0.jpg,bee\n'
                      'x9.jpg,ant\nx8.jpg,gnu\n',
    'colons': 'x2.jpg: caf\u00e9\nx1.jpg: red panda\nx0.jpg: bee\n',
    'bars': 'x2.jpg|caf\u00e9\nx1.jpg|red panda\nx0.jpg|bee\n',
    'the same twice': 'x2.jpg caf\u00e9\nx1.jpg red panda\nx0.jpg bee\n'
                      'x0.jpg bee\n',
}


class LabelsTest(OriginsTest):

  def setUp(self):
    super().setUp()
    self.source = self.write('in', members(*(f'{c}/0.jpg' for c in CLASSES)))
    self.held_out = self.write('val', IMAGES)

  def read(self, text, encoding='utf-8'):
    file = self.write('labels.txt', text.encode(encoding))
    return self.open(
        self.source, eval_source=self.held_out, eval_labels=file
    )[1]

  def labels(self, evaluation):
    return {
        path: name for path, (_, name) in self.content(evaluation).items()
    }

  @parameterized.named_parameters(*FORMS.items())
  def test_form(self, text):
    evaluation = self.read(text)
    self.assertEqual(self.labels(evaluation), TRUTH)
    self.assertEqual(evaluation.class_names, CLASSES)

  @parameterized.product(
      encoding=('utf-16', 'utf-8-sig'), form=('in order', 'Caffe', 'Kaggle')
  )
  def test_encodings(self, encoding, form):
    """PowerShell and Notepad write these; the first two bytes say so."""
    self.assertEqual(self.labels(self.read(FORMS[form], encoding)), TRUTH)

  def test_names_with_blanks(self):
    self.held_out = self.write('spaces', below('deep', {
        f'my {name}': data for name, data in IMAGES.items()
    }))
    labels = self.labels(self.read(
        'my x0.jpg bee\nmy x1.jpg ant\nmy x2.jpg caf\u00e9\n'
    ))
    self.assertEqual(labels['deep/my x1.jpg'], 'ant')
    self.assertLen(labels, 3)

  def test_of_an_archive(self):
    self.held_out = self.write('val.tar', tar(below('val', IMAGES)))
    evaluation = self.read(FORMS['Caffe'])
    self.assertEqual(set(self.labels(evaluation).values()), set(TRUTH.values()))

  def test_what_has_no_counterpart_is_told(self):
    evaluation = self.read('x0.jpg,bee\nx7.jpg,ant\nx1.jpg,ant\n')
    self.assertEqual(
        self.labels(evaluation), {'x0.jpg': 'bee', 'x1.jpg': 'ant'}
    )
    text = str(evaluation.ignored)
    self.assertIn('1 label(s) without an image (x7.jpg)', text)
    self.assertIn('1 image(s) without a label (x2.jpg)', text)

  @parameterized.parameters(
      # Nothing fits: one line for each image, and another number of them.
      ('gnu\nyak\nokapi\n',
       r'does not have: gnu \(line 1\): expected a line for'),
      ('gnu\nyak\n', 'has 2 labels, but there are 3 images: expected .*; line '
                     '1 has gnu'),
      ('a,b,c\nd,e,f\n', 'labels.txt has 2 labels.*expected.*line 1 has a,b,c'),
      # One line does not.
      ('bee\nyak\nbee\n', r'does not have: yak \(line 2\)'),
      ('x0.jpg bee\nx1.jpg gnu\nx2.jpg bee\n', r'have: gnu \(line 2\)'),
      ('file,label\nx0.jpg,bee\n\nx1.jpg,gnu\n', r'have: gnu \(line 4\)'),
      ('x0.jpg bee\nx1.jpg bee\nx0.jpg ant\n', 'x0.jpg with another class in '
                                               'line 3'),
      # No file is there; as many lines as images, and more.
      ('y0.jpg ant\ny1.jpg bee\ny2.jpg bee\n',
       'no file name of an image: line 1 has y0.jpg, the first image is x0.j'),
      ('id,breed\ny0,ant\ny1,red panda\n', 'an image: line 2 has y0, the'),
      ('y0.jpg;ant\ny1.jpg;bee\ny2.jpg;bee\ny3.jpg;bee\n',
       'an image: line 1 has y0.jpg,'),
      ('y0.jpg: ant\n', r'line 1 has y0\.jpg:?, the'),
      # No class.
      ('x0.jpg,bee\nx1.jpg,\nx2.jpg,bee\n', 'no class in line 2: expected one'),
      ('x0.jpg\tbee\nx2.jpg\t \n', 'no class in line 2: expected one'),
      # It is not known where their numbers begin.
      ('x0.jpg 0\nx1.jpg 1\nx2.jpg 2\n',
       r'have: 0 \(line 1\).*numbers of classes are not read'),
      ('0\n1\n2\n', r'have: 0 \(line 1\).*numbers of classes are not read'),
  )
  def test_errors(self, text, message):
    file = self.write('labels.txt', text)
    self.assert_message(
        f'^{file}.*{message}' if 'labels.txt' not in message else message,
        self.source, eval_source=self.held_out, eval_labels=file,
    )

  @parameterized.parameters('x0.jpg ant\n', 'x0,ant\n', 'X0.JPG ant\n')
  def test_a_name_of_several(self, line):
    images = members('a/x0.jpg', 'b/x0.jpg', 'y.jpg')
    self.held_out = self.write('twice', images)
    for text in (line, f'y.jpg,ant\n{line}'.replace(' ', ',')):
      file = self.write('labels.txt', text)
      self.assert_message(
          f"{line[:-5]} in line {text.count(chr(10))}, which is the name of "
          'several', self.source, eval_source=self.held_out, eval_labels=file,
      )
    paths = 'a/x0.jpg ant\nb/x0.jpg bee\ny.jpg bee\nc/x0.jpg ant\n'
    self.assertEqual(
        self.labels(self.read(paths)),
        {'a/x0.jpg': 'ant', 'b/x0.jpg': 'bee', 'y.jpg': 'bee'},
    )


class NamesTest(parameterized.TestCase):

  def test_nearest(self):
    found = names.Names(('a', 'A', 'caf\u00e9', 'Caf\u00e9 ', 'x', 'x'))
    for name, place in {
        'a': 0, 'A': 1, ' A': 1, 'cafe\u0301': 2, 'Caf\u00e9': 3,
        'CAF\u00c9': None, 'x': None, 'b': None, '': None,
    }.items():
      self.assertEqual(found.find(name), place, name)


if __name__ == '__main__':
  absltest.main()
