"""
Encodings that are loaded in the background: nobody waits for them, and everybody gets them.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import types

import pytest

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.counting import encoders as module
from tokenbudget_mw.counting import engines
from tokenbudget_mw.counting.encoders import Encoders
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.wiring import wire

TEXT = "one two three four"


class Loading:
    """Engines that load when they may."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.names: list[str] = []

    def __call__(self, engine, name, ranks):
        self.begun.set()
        assert self.go.wait(20)
        self.names.append(name)
        return engines.Counting(words, lambda texts: [*map(words, texts)])


def words(text: str) -> int:
    """How many words *text* has."""
    return len(text.split())


@pytest.fixture
def loading(monkeypatch):
    loading = Loading()
    monkeypatch.setattr(engines, "load", loading)
    yield loading
    loading.go.set()


def test_nobody_waits_while_it_loads(loading):
    """Until the encoding is there a text is estimated by its bytes; then it is counted."""
    encoders = Encoders()
    tokenizers = Tokenizers(encoders=encoders)
    encoders.warm_aside(["o200k_base"])
    loading.begun.wait(20)

    before = tokenizers.count(TEXT, "gpt-4o")
    loading.go.set()
    encoders._loader[1].join(20)
    after = tokenizers.count(TEXT, "gpt-4o")

    assert (before.method, before.exact, before.upper) == ("none", False, len(TEXT))
    assert (after.method, after.exact, after.estimate) == ("exact", True, 4)
    assert loading.names == ["o200k_base"]


def test_a_stream_that_ends_within_the_loading_waits_for_nothing(monkeypatch):
    """The garbage collector closes streams in the thread that loads, too: their text is estimated."""
    encoders, found = Encoders(), []
    tokenizers = Tokenizers(encoders=encoders)

    def load(*_):
        found.append(tokenizers.count(TEXT, "gpt-4o").method)
        return engines.Counting(words, lambda texts: [*map(words, texts)])

    monkeypatch.setattr(engines, "load", load)
    counting = threading.Thread(target=lambda: found.append(tokenizers.count(TEXT, "gpt-4o").method), daemon=True)
    counting.start()
    counting.join(20)

    assert found == ["none", "exact"]


def test_an_exact_count_waits(loading):
    """A thread that counts exactly waits for the encoding, and loads no second one."""
    encoders = Encoders()
    encoders.warm_aside(["o200k_base"])
    loading.begun.wait(20)
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(Tokenizers(encoders=encoders).exactly().count(TEXT, "gpt-4o").estimate)
    )

    waiting.start()
    loading.go.set()
    waiting.join(20)

    assert found == [4]
    assert loading.names == ["o200k_base"]


def test_what_the_thread_does_not_load_is_loaded_when_needed(loading):
    """An encoding beside those that were asked for is loaded by whoever needs it, once the thread is done."""
    loading.go.set()
    encoders = Encoders()
    encoders.warm_aside(["o200k_base"])
    encoders._loader[1].join(20)

    assert encoders.ready("cl100k_base").count(TEXT) == 4
    assert loading.names == ["o200k_base", "cl100k_base"]


def test_under_uwsgi_it_is_loaded_before_workers_are_forked(loading, monkeypatch):
    """No thread runs when it forks in C, of which Python is not told."""
    monkeypatch.setitem(sys.modules, "uwsgi", types.ModuleType("uwsgi"))
    loading.go.set()
    encoders = Encoders()

    encoders.warm_aside(["o200k_base"])

    assert encoders._loader is None
    assert loading.names == ["o200k_base"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("way", ["ready", "get"])
def test_a_fork_while_it_loads_leaves_nobody_hanging(loading, way):
    """A child process has the lock and not the thread that holds it; it loads for itself."""
    encoders = Encoders()
    encoders.warm_aside(["o200k_base"])
    loading.begun.wait(20)

    child = os.fork()
    if child == 0:
        signal.alarm(20)
        loading.go = threading.Event()
        loading.go.set()
        os._exit(0 if getattr(encoders, way)("o200k_base").count(TEXT) == 4 else 1)

    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("engine", [name for name in engines.ENGINES if importlib.util.find_spec(name)])
def test_the_thread_imports_nothing(engine):
    """A fork while a thread imports leaves the child with a module that is locked for ever: all is imported before."""
    program = f"""if True:
        import sys, threading
        from tokenbudget_mw.counting.encoders import Encoders

        imported = []

        class Watch:
            def find_spec(name, path=None, target=None):
                if threading.current_thread() is not threading.main_thread():
                    imported.append(name)

        sys.meta_path.insert(0, Watch)
        encoders = Encoders({engine!r})
        encoders.warm_aside()
        encoders._loader[1].join()
        sys.exit(repr(imported) if imported or encoders.ready("o200k_base").count("one") != 1 else 0)
    """

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("when", "thread"), [("start", "MainThread"), ("background", "tokenbudget-loading")])
def test_a_setting_says_when(when, thread, monkeypatch):
    """`load_tokenizer` loads before the app starts, or in a thread."""
    encoders, threads, done = Encoders(), [], threading.Event()
    monkeypatch.setattr(module, "default_encoders", lambda _engine="tiktoken": encoders)
    monkeypatch.setattr(
        encoders, "warm", lambda _names=(): (threads.append(threading.current_thread().name), done.set())
    )

    core = wire(
        {"identify": "ip", "load_tokenizer": when, "routes": [{"path": "/chat", "format": "openai.chat"}]},
        sink=CallableSink(lambda _records: None),
    )

    assert done.wait(20)
    assert threads == [thread]
    core.close()
