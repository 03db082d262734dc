"""
Write the ``.ranks`` files anew: ``python -m tokenbudget_mw.counting.ranks._fetch``.

For maintainers. The published rank files are taken from the wheel of ``llama-index-core`` (MIT), which carries them
unchanged; pip downloads it into a temporary folder. Each file must have the SHA-256 that the installed tiktoken expects
of it, and the split pattern comes from tiktoken itself.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import inspect
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

from tiktoken_ext import openai_public

from tokenbudget_mw.counting.ranks import NAMES, Ranks, pack

CARRIER = "llama-index-core"
FOLDER = "llama_index/core/_static/tiktoken_cache/"


def published(name: str) -> tuple[str, str]:
    """
    Return the URL and the SHA-256 that the installed tiktoken names for encoding *name*.
    """
    for node in ast.walk(ast.parse(inspect.getsource(getattr(openai_public, name)))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_tiktoken_bpe":
            expected = next(word.value for word in node.keywords if word.arg == "expected_hash")
            return ast.literal_eval(node.args[0]), ast.literal_eval(expected)
    raise LookupError(f"tiktoken's {name} does not call load_tiktoken_bpe; its layout has changed, adapt this script.")


def parse(text: bytes) -> dict[bytes, int]:
    """
    Return the ranks in *text*, a published ``.tiktoken`` file.
    """
    pairs = (line.split() for line in text.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def definition(name: str, tokens: dict[bytes, int]) -> dict[str, Any]:
    """
    Return tiktoken's own definition of encoding *name*, made with *tokens* in place of a download.
    """
    with mock.patch.object(openai_public, "load_tiktoken_bpe", return_value=tokens):
        result: dict[str, Any] = getattr(openai_public, name)()
    return result


def download(folder: Path) -> Path:
    """
    Let pip download the carrier's wheel into *folder*; return its path.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), CARRIER]
    subprocess.run(command, check=True)  # noqa: S603 - a fixed command
    return next(folder.glob("*.whl"))


def convert(wheel: zipfile.ZipFile, name: str) -> bytes:
    """
    Return the bytes of ``<name>.ranks``, made from the file in *wheel* after its hash was checked.

    Raises:
        ValueError: The file is not the one that tiktoken expects.
    """
    url, expected = published(name)
    key = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()  # how tiktoken's cache names a file
    text = wheel.read(FOLDER + key)
    found = hashlib.sha256(text).hexdigest()
    if found != expected:
        raise ValueError(f"{name}: the file's SHA-256 is {found}, tiktoken expects {expected}.")
    tokens = parse(text)
    return pack(Ranks(definition(name, tokens)["pat_str"], tokens))


def main() -> None:
    """
    Fetch, check, write.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(download(Path(folder))) as wheel:
        for name in NAMES:
            data = convert(wheel, name)
            target = Path(__file__).with_name(f"{name}.ranks")
            target.write_bytes(data)
            sys.stdout.write(f"{target.name}: {len(data):,} bytes\n")


if __name__ == "__main__":
    main()
