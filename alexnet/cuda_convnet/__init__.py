"""Networks that the authors' own definition files describe."""
