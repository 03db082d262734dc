"""
What ``tokenbudget-mw demo`` is made of: an app, a server, traffic.
"""
