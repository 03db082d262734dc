"""
What the package costs, each figure beside its baseline, measured in the same run. See ``python -m benchmarks --help``.
"""
