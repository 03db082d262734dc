"""
``python -m tokenbudget_mw`` is the command line.
"""

import sys

from tokenbudget_mw.cli import main

sys.exit(main())
