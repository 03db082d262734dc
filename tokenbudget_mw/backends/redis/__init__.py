"""
Counters in Redis, shared by all processes: `backend` is the way of a call, the other files are what it is made of.
"""

from __future__ import annotations

from tokenbudget_mw.backends.redis.backend import AsyncRedisBackend, RedisBackend

__all__ = ["AsyncRedisBackend", "RedisBackend"]
