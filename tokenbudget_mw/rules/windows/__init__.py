"""
Window algorithms, by name.
"""
