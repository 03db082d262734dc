"""
The host's database: schema, writers, keys, books.
"""
