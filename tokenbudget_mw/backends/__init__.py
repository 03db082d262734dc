"""
Where counters live.
"""
