"""
The steps, oldest first.
"""
