"""
Django's chain of the tokenbudget tables.
"""
