"""
Usage of a response, while it passes.
"""
