"""Networks described by the authors' own definition files."""
