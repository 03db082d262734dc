"""
What the middlewares of `asgi` and `wsgi` are made of beside the call itself: the protocols' own matters.
"""
