"""The former name of `python -m alexnet.report`."""

import sys

sys.exit(
    'error: python -m alexnet.analysis.report is now called '
    'python -m alexnet.report; its flags are the same'
)
