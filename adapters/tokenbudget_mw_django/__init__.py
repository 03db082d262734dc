"""
tokenbudget-mw for django.
"""
