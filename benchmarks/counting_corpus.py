"""
A corpus of real texts, made of what is installed anyway: nothing is downloaded, nothing is invented that can be found.

Natural texts are the translations that Django ships, and manual pages and changelogs where the system has them; code is
the standard library and the installed packages. What nobody installs (base64, logs, emoji, adversarial layouts) is made
up from a fixed seed.
"""

from __future__ import annotations

import ast
import base64
import gzip
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

__all__ = ["ADVERSARIAL", "LANGUAGES", "adversarial", "natural", "windows"]

LANGUAGES = ("en", "de", "fr", "es", "it", "pl", "ru", "uk", "el", "tr", "vi", "ar", "he", "hi", "th", "ja", "ko", "zh")
_LOCALES = {"zh": ("zh_Hans", "zh_CN"), "en": ("en",)}
_MAN = Path("/usr/share/man")
_LICENCES = Path("/usr/share/common-licenses")
_ROFF = re.compile(r"^[.'][^\n]*\n?|\\f.|\\&|\\-", re.MULTILINE)
_PO = re.compile(r'^msgstr(?:\[\d\])? ((?:".*"\n)+)', re.MULTILINE)
_LEAST = 12_000


def _django() -> Path | None:
    try:
        import django
    except ModuleNotFoundError:
        return None
    return Path(django.__file__).parent


def _translations(language: str) -> Iterator[str]:
    root = _django()
    for name in _LOCALES.get(language, (language,)) if root else ():
        for path in sorted(root.glob(f"**/locale/{name}/LC_MESSAGES/*.po")):
            lines = (ast.literal_eval(f"({found})") for found in _PO.findall(path.read_text("utf-8")))
            yield "\n".join(line for line in lines if line)


def _manuals(language: str) -> Iterator[str]:
    folder = _MAN if language == "en" else _MAN / _LOCALES.get(language, (language,))[-1]
    for path in sorted(folder.glob("man[15]/*.gz"))[:400]:
        try:
            yield _ROFF.sub("", gzip.decompress(path.read_bytes()).decode())
        except (OSError, UnicodeDecodeError):
            continue


def _prose() -> Iterator[str]:
    if root := _django():
        yield from _files([root.parent], "*.dist-info/METADATA")
    yield from _files([_LICENCES], "*")


def _files(folders: Iterable[Path], pattern: str) -> Iterator[str]:
    for folder in folders:
        for path in sorted(folder.glob(pattern))[:300]:
            try:
                yield path.read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def _code(pattern: str) -> Iterator[str]:
    yield from _files([Path(sysconfig.get_path("stdlib"))], pattern)
    if root := _django():
        yield from _files([root.parent], f"django/**/{pattern}")


def _json() -> Iterator[str]:
    rng = random.Random("json")
    root = _django()
    names = [path.stem for path in sorted(root.glob("**/*.py"))] if root else ["name", "value"]
    rows = [
        {"id": rng.getrandbits(40), "name": rng.choice(names), "price": rng.random(), "tags": rng.sample(names, 3)}
        for _ in range(9_000)
    ]
    yield json.dumps(rows)
    yield json.dumps(rows, indent=2)


def _base64() -> Iterator[str]:
    yield base64.b64encode(random.Random("base64").randbytes(900_000)).decode()


def _hex() -> Iterator[str]:
    yield random.Random("hex").randbytes(600_000).hex()


def _logs() -> Iterator[str]:
    rng = random.Random("logs")
    names = [path.stem for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    yield "\n".join(
        f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:07.{rng.randint(0, 999):03}Z "
        f"{rng.choice(('INFO', 'WARNING', 'DEBUG', 'ERROR'))} [{rng.choice(names)}] {rng.choice(names)}={rng.getrandbits(32):x} "
        f"took {rng.random() * 900:.2f} ms from 10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}"
        for _ in range(12_000)
    )


def _emoji() -> Iterator[str]:
    rng = random.Random("emoji")
    faces = [chr(code) for code in (*range(0x1F600, 0x1F650), *range(0x1F300, 0x1F5FF))]
    words = ("so", "happy", "today", "thanks", "everyone", "what", "a", "day", "see", "you", "soon", "best", "party")
    yield " ".join(rng.choice(words) + rng.choice(("", "", "", rng.choice(faces) * 2)) for _ in range(170_000))


_SOURCES: dict[str, Callable[[], Iterator[str]]] = {
    "Python": lambda: _code("*.py"),
    "C headers": lambda: _files([Path(sysconfig.get_path("include"))], "**/*.h"),
    "JavaScript, CSS, HTML": lambda: (text for kind in ("js", "css", "html") for text in _code(f"*.{kind}")),
    "JSON": _json,
    "logs": _logs,
    "emoji": _emoji,
    "base64": _base64,
    "hex": _hex,
}
DENSE = frozenset({"base64", "hex"})


@cache
def natural() -> dict[str, list[str]]:
    """
    Return the documents by kind: a language, or a kind of code or data. A kind of which too little is found is left out.
    """
    found = {name: list(source()) for name, source in _SOURCES.items()}
    for language in LANGUAGES:
        texts = [*_translations(language), *_manuals(language), *(_prose() if language == "en" else ())]
        found[language] = [text for text in texts if len(text) > 200]
    return {name: texts for name, texts in found.items() if sum(map(len, texts)) >= _LEAST}


def windows(length: int, number: int, seed: str = "windows") -> Iterator[tuple[str, str]]:
    """
    Yield (kind, text): *number* texts of *length* characters for each kind, and as many mixes of several kinds.

    A text is made of whole documents in random order; a kind that has less than the length is repeated, shuffled anew.
    """
    rng = random.Random(f"{seed}{length}")
    kinds = natural()
    for name, texts in kinds.items():
        for _ in range(number):
            yield name, _joined(texts, length, rng)
    for _ in range(2 * number):
        chosen = rng.sample(sorted(kinds), min(len(kinds), rng.randint(2, 8)))
        shares = [rng.random() for _ in chosen]
        parts = [
            _joined(kinds[name], int(length * share / sum(shares)) + 1, rng)
            for name, share in zip(chosen, shares, strict=True)
        ]
        yield "mix", "".join(parts)[:length]


def _joined(texts: list[str], length: int, rng: random.Random) -> str:
    parts: list[str] = []
    held = 0
    while held < length:
        for text in rng.sample(texts, len(texts)):
            start = rng.randrange(len(text)) if len(text) > length else 0
            parts.append(text[start : start + length])
            held += len(parts[-1]) + 1
            if held >= length:
                break
    return "\n".join(parts)[:length]


# -- layouts that somebody chose to be miscounted -----------------------------------------------------------------------

ADVERSARIAL = (
    "punctuation in spaces",
    "1 % rare characters",
    "5 % rare characters",
    "rare characters in one run",
    "thin ends, dense middle",
    "blocks of n/200",
    "blocks of n/64",
    "runs of 40",
    "rare characters only",
)


def adversarial(name: str, length: int, seed: int = 0) -> str:
    """
    Return the text *name*, one of `ADVERSARIAL`, of about *length* characters.
    """
    rng = random.Random(f"{name}{length}{seed}")
    plain = _plain(length, rng)
    if name == "punctuation in spaces":
        return "".join(" " if rng.random() > 0.05 else rng.choice("!;~^") for _ in range(length))
    if name in ("1 % rare characters", "5 % rare characters"):
        share = int(name[0]) / 100
        return "".join(_rare(rng) if rng.random() < share else letter for letter in plain)
    if name == "rare characters in one run":
        at = rng.randrange(length)
        return plain[:at] + "".join(_rare(rng) for _ in range(length // 100)) + plain[at : length * 99 // 100]
    if name == "thin ends, dense middle":
        edge = length // 20
        middle = "".join(
            _rare(rng) if rng.random() < 0.5 else "zqx~"[rng.randrange(4)] for _ in range(length - 2 * edge)
        )
        return " " * edge + middle + " " * edge
    if name.startswith("blocks"):
        return _alternating(plain, max(1, length // int(name.rpartition("/")[2])), length, rng)
    if name == "runs of 40":
        return _alternating(plain, 40, length, rng, random_turns=True)
    return "".join(_rare(rng) for _ in range(length))


def _plain(length: int, rng: random.Random) -> str:
    return _joined(natural()["en"], length, rng)


def _rare(rng: random.Random) -> str:
    return chr(rng.randrange(0x12000, 0x12400))


def _alternating(plain: str, size: int, length: int, rng: random.Random, *, random_turns: bool = False) -> str:
    dense = rng.randbytes(length).hex()
    parts = []
    for at in range(0, length, size):
        is_dense = rng.random() < 0.5 if random_turns else at // size % 2
        parts.append((dense if is_dense else plain)[at : at + size])
    return "".join(parts)
