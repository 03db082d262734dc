"""
tokenbudget-mw for fastapi.
"""
