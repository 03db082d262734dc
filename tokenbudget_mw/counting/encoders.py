"""
Encoders: texts to numbers of tokens, with OpenAI's two current encodings, offline.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING

from tokenbudget_mw.counting import engines, ranks
from tokenbudget_mw.counting.memory import CountMemory
from tokenbudget_mw.errors import TokenBudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tokenbudget_mw.counting.engines import Engine

__all__ = ["CountCancelledError", "Encoder", "Encoders", "default_encoders"]

SLICE_CHARS = 65_536
"""Most characters given to tiktoken at once: its regular expressions fail on runs of a million spaces."""

STEP_CHARS = 16_384
"""The same for a count that others do not wait for: between steps it can be stopped, and other threads get their turn."""

# Counts on both sides of such a cut add up exactly: no piece of either encoding reaches over it.
_CLEAN_CUT = re.compile(r"\n(?=[^\s/])")


class CountCancelledError(TokenBudgetError):
    """
    A count was stopped by whoever asked for it.
    """


class Encoder:
    """
    One encoding. Safe to share between threads.

    Args:
        name: Name of the encoding.

        count: Tokens of up to `SLICE_CHARS` characters.

        several: Tokens of each of several texts that have no more together; None counts them one by one.

    Attributes:
        name: Name of the encoding.

        memory: Counts of texts seen lately.
    """

    __slots__ = ("_count", "_several", "memory", "name")

    def __init__(
        self, name: str, count: Callable[[str], int], several: Callable[[list[str]], list[int]] | None = None
    ) -> None:
        self.name = name
        self.memory = CountMemory()
        self._count = count
        self._several = several

    def cancellable(self, is_cancelled: Callable[[], bool]) -> Encoder:
        """
        Return an encoder that counts the same, and remembers with this one, but can be stopped.

        Args:
            is_cancelled: Asked before every `STEP_CHARS` characters; where it says so, `CountCancelledError` is raised.
        """
        other = Encoder(
            self.name, lambda text: sum(self._step(part, is_cancelled) for part in slices(text, STEP_CHARS))
        )
        other.memory = self.memory
        return other

    def _step(self, text: str, is_cancelled: Callable[[], bool]) -> int:
        if is_cancelled():
            raise CountCancelledError
        return self._count(text)

    def count(self, text: str) -> int:
        """
        Return the tokens of *text*; text that spells a special token is plain text. Never raises.
        """
        if len(text) <= SLICE_CHARS:
            return self._count(text)
        return sum(map(self._count, slices(text, SLICE_CHARS)))

    def count_new(self, texts: list[str]) -> int:
        """
        Return the tokens of *texts* together, and remember those of each.
        """
        several = self._several
        if several is None or len(texts) == 1 or sum(map(len, texts)) > SLICE_CHARS:
            found = [self.count(text) for text in texts]
        else:
            found = several(texts)
        self.memory.put(texts, found)
        return sum(found)


def slices(text: str, size: int) -> Iterator[str]:
    """
    Cut *text* into parts of at most *size* characters, where their counts add up exactly if there is such a place.

    Without one (a line longer than half of *size*) a part ends anywhere, and the sum may be off by a token or two.
    """
    start = 0
    while len(text) - start > size:
        end = start + size
        clean = None
        for clean in _CLEAN_CUT.finditer(text, start + size // 2, end):  # noqa: B007 - the last one is wanted
            pass
        cut = clean.end() if clean else end
        yield text[start:cut]
        start = cut
    yield text[start:]


class Encoders:
    """
    The encoders of a process, each loaded once: by `warm` at start, or when first used. Never uses the network.

    Args:
        engine: The library that counts.

    Raises:
        ConfigurationError: The engine is not installed.
    """

    def __init__(self, engine: Engine = "tiktoken") -> None:
        engines.check(engine)
        self.engine: Engine = engine
        self._loaded: dict[str, Encoder] = {}
        self._lock = threading.Lock()
        self._loader: tuple[int, threading.Thread] | None = None
        self._loading: int | None = None  # the thread that loads one

    def warm(self, names: Iterable[str] = ranks.NAMES) -> None:
        """
        Load the encodings *names* now, and run each once.
        """
        for name in names:
            self.get(name).count("warm")

    def warm_aside(self, names: Iterable[str] = ranks.NAMES) -> None:
        """
        Do the same in a thread; until it is done, `ready` has nothing to give. Under uWSGI it is done at once: a worker that is
        forked in C while a thread waits for the interpreter waits for that thread, which it has not, as soon as it lets go.
        """
        if "uwsgi" in sys.modules:
            self.warm(names)
            return
        # a child that is forked while the thread imports finds a module locked, and would wait for it for ever
        engines.prepare(self.engine)
        ranks.prepare()
        thread = threading.Thread(target=self.warm, args=(names,), name="tokenbudget-loading", daemon=True)
        self._loader = os.getpid(), thread
        thread.start()

    def ready(self, name: str) -> Encoder | None:
        """
        Return the encoder of encoding *name*; None while `warm_aside` loads it, or the very thread that asks: the garbage
        collector closes streams there, whose text is counted.
        """
        found = self._loaded.get(name)
        if found is None and self._loading == threading.get_ident():
            return None
        if found is None and self._loader is not None:
            process, thread = self._loader
            if process == os.getpid() and thread.is_alive():
                return None
        return found or self.get(name)

    def get(self, name: str) -> Encoder:
        """
        Return the encoder of encoding *name*.

        Raises:
            FileNotFoundError: There is no such encoding.
        """
        found = self._loaded.get(name)
        if found is not None:
            return found
        if self._loader is not None and self._loader[0] != os.getpid():
            self._lock = threading.Lock()  # a fork copies a lock that is held, and not the thread that holds it
            self._loader = None
            self._loading = None
        with self._lock:
            if name not in self._loaded:
                self._loading = threading.get_ident()
                try:
                    self._loaded[name] = Encoder(name, *engines.load(self.engine, name, ranks.load(name)))
                finally:
                    self._loading = None
            return self._loaded[name]

    def count(self, text: str, encoding: str) -> int:
        """
        Return the tokens of *text* in *encoding*, one of `ranks.NAMES`, whatever its length and content.
        """
        return self.get(encoding).count(text)


def default_encoders(engine: Engine = "tiktoken") -> Encoders:
    """
    Return the encoders that the whole process shares, one set an engine.

    Raises:
        ConfigurationError: The engine is not installed.
    """
    return _shared(engine)


@cache  # called with and without its argument, a cached function would hold two sets
def _shared(engine: Engine) -> Encoders:
    return Encoders(engine)
