"""
What a context still knows of a request before the one that it serves.
"""

from __future__ import annotations

from tokenbudget_mw.calls.call import running

__all__ = ["forget_ended"]


def forget_ended() -> None:
    """
    Keep a request that begins from a call that has ended: nothing that it uses is that one's.

    uvicorn begins a request that came early, behind another on its connection, in the context in which that one was answered.
    Django's threads keep the call of a stream that another middleware has thrown away.
    """
    earlier = running.get()
    if earlier is not None and earlier.is_ended:
        running.set(None)
