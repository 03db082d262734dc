"""
Tokens of a request, before it runs.
"""
