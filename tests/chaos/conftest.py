"""
What takes minutes is collected by ``tox -e chaos`` only: it is no part of the other runs, rather than skipped by them.
"""

import os

collect_ignore = [] if os.environ.get("TOKENBUDGET_TEST_CHAOS") else ["test_chaos.py"]
