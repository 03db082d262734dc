"""
Django's management commands.
"""
