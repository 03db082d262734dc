"""HTTP by hand: what goes out is written byte by byte, and what comes back is all that comes back."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

__all__ = ["exchange", "message", "plain"]

WAIT = 20.0
_MOVING = re.compile(rb"(?im)^(date|last-modified|etag|content-disposition): [^\r]*\r\n")
_OURS = re.compile(rb"(?im)^ratelimit(-policy)?: [^\r]*\r\n")


def exchange(port: int, raw: bytes, *, half_close: bool = False, wait: float = WAIT) -> bytes:
    """Send *raw*, and return all that comes back; with *half_close* the server sees the end of what is sent."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        # a server that answers before it has read all may close; what it said may be there all the same
        with suppress(TimeoutError, ConnectionError):
            connection.sendall(raw)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError, ConnectionError):
            while piece := connection.recv(65536):
                said += piece
    return said


def message(
    method: str, target: str, headers: dict[str, str], body: bytes = b"", *, version: str = "1.1", chunks: int = 0
) -> bytes:
    """A request; of a body in *chunks* the length is not told."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if chunks:
        lines.append("Transfer-Encoding: chunked")
        size = -(-len(body) // chunks) or 1
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def plain(said: bytes, *, ours: bool = False) -> bytes:
    """A response without what differs from moment to moment; without *ours*, also without the headers of limits."""
    head, end, body = said.partition(b"\r\n\r\n")
    head = _MOVING.sub(b"", head + b"\r\n")
    return (head if ours else _OURS.sub(b"", head)) + end + body
