"""The former name of `python -m alexnet.predict`."""

import sys

sys.exit(
    'error: python -m alexnet.analysis.predict is now called '
    'python -m alexnet.predict; its flags are the same'
)
