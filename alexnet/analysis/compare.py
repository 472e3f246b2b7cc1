"""Compares a finished run with the paper's numbers and the authors' log.

  python -m alexnet.analysis.compare --workdir=RUN

For the centre crop and ten views it prints which reported errors are in the
95 % interval of the run's error, in which fields its config differs from
configs/alexnet.py and configs/alexnet_2012.py, and which of these differences
are known to increase the error. --output=FILE.md writes the same as Markdown.
"""

from absl import app, flags

from alexnet.analysis import tables
from alexnet.analysis.paper.comparison import compare, load
from alexnet.config.errors import ConfigError
from input_pipeline import cli
from input_pipeline.files import paths


def main(argv: list[str]) -> None:
  """Entry point of `python -m alexnet.analysis.compare`."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]}')
  values = flags.FLAGS
  folder = values.workdir
  sections = compare(*load(folder))
  if not values.output:
    print(tables.to_text(sections), end='')
    return
  output = values.output
  if output.suffix != '.md':
    raise ConfigError(f'--output is {output}: expected a file that ends in .md')
  text = f'# {folder}\n\n{tables.to_markdown(sections)}'
  output.write_text(text, encoding='utf-8')
  print(f'wrote {output}')


if __name__ == '__main__':
  paths.define('workdir', 'Folder of the finished run.')
  paths.define(
      'output', 'Write the comparison as Markdown to this file, not to stdout.'
  )
  flags.mark_flag_as_required('workdir')
  cli.run(main)
