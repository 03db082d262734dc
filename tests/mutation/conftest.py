"""
All mutants take minutes: they are collected by ``tox -e mutation`` only, and left out elsewhere rather than skipped.
"""

import os

collect_ignore = [] if os.environ.get("TOKENBUDGET_TEST_MUTATION") else ["test_all_mutants.py"]
