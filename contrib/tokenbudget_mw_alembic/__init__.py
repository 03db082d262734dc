"""
Migrations of the tokenbudget tables for hosts that use SQLAlchemy.
"""
