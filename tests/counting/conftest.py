"""
Lets these tests import the corpus that the benchmarks count.
"""

from __future__ import annotations

import sys
from pathlib import Path

# at the end, where the checkout cannot stand before the wheel
sys.path.append(str(Path(__file__).parents[2]))
