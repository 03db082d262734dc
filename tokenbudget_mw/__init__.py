"""
Exact limits on requests, LLM tokens, money and concurrency, and exact usage books, inside your web app.
"""
