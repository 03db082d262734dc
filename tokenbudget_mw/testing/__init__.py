"""
What tests of this package, and of packages that plug into it, are made of.
"""
