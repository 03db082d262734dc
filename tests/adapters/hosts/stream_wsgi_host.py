"""The WSGI half of `stream_host`."""

from stream_host import wsgi as application

__all__ = ["application"]
