"""How much memory a server and its workers have held."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapter_servers import Server

__all__ = ["peak"]


def peak(server: Server) -> int:
    """The most memory that the server and its workers have held, each by itself, added up; in bytes."""
    processes, found = [server.process.pid], 0
    while processes:
        process = processes.pop()
        try:
            status = Path(f"/proc/{process}/status").read_text()
            children = Path(f"/proc/{process}/task/{process}/children").read_text()
        except OSError:
            continue
        found += int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10
        processes += map(int, children.split())
    return found
