"""
tokenbudget-mw for flask.
"""
