"""
The breaker and the fallback, on backends that fail when they are told to.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import types
from typing import TYPE_CHECKING

import pytest

from tokenbudget_mw.backends.breaker import AsyncGuarded, Circuit, Circuits, Guarded
from tokenbudget_mw.backends.circuits import LONGEST_PAUSE, CircuitState, LeftAloneError, MomentaryError
from tokenbudget_mw.backends.fallback import AsyncFallback, Fallback, LocalShare
from tokenbudget_mw.backends.memory import AsyncMemoryBackend, MemoryBackend
from tokenbudget_mw.backends.untold import UNTOLD
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.backends import Blocking, ask, check, in_flight, settlement
from tokenbudget_mw.testing.clock import FakeClock

if TYPE_CHECKING:
    from tokenbudget_mw.values import Ask, Reply, Settlement

AWAY = BackendUnavailableError("It is away.")


class Moody(MemoryBackend):
    """
    A backend that is away when it is told to be, and counts what it is asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.asked = 0
        self.probed = threading.Event()

    def reserve(self, ask: Ask, now: float) -> Reply:
        self._answer(ask.tag)
        return super().reserve(ask, now)

    def settle(self, settlement: Settlement, now: float) -> bool:
        self._answer(settlement.reservation.tag)
        return super().settle(settlement, now)

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        self._answer(tag)
        super().bar(tag, counter, status, seconds, now)

    def _answer(self, tag: str) -> None:
        self.asked += 1
        if tag == "probe":
            self.probed.set()
        if self.is_away:
            raise AWAY


class MoodyServer(Moody):
    """
    The same, but only for tags that begin with *first*; a probe is what asks for its counter.
    """

    def __init__(self, first: str) -> None:
        super().__init__()
        self._first = first

    def settle(self, settlement: Settlement, now: float) -> bool:
        is_moved = super().settle(settlement, now)
        self.probed.set()
        return is_moved

    def _answer(self, tag: str) -> None:
        if tag.startswith(self._first):
            super()._answer(tag)


class TestCircuit:
    def test_opens_after_failures_in_a_row(self) -> None:
        """
        One success in between starts the count anew.
        """
        circuit = Circuit("it", in_a_row=3)
        for failing in (True, True, False, True, True):
            circuit.failed(AWAY) if failing else circuit.succeeded()

        assert not circuit.is_open
        circuit.failed(AWAY)
        assert circuit.is_open

    def test_opens_at_a_share_of_failures(self) -> None:
        """
        A backend that fails every other call is away, too.
        """
        circuit = Circuit("it", in_a_row=3, ratio=0.5, window=20)
        for _ in range(10):
            assert not circuit.is_open
            circuit.succeeded()
            circuit.failed(AWAY)
            circuit.succeeded()
            circuit.failed(AWAY)
            if circuit.is_open:
                break

        assert circuit.is_open

    def test_rare_failures_do_not_open_it(self) -> None:
        """
        One in four is a bad day and not an outage.
        """
        circuit = Circuit("it")
        for number in range(400):
            circuit.failed(AWAY) if number % 4 == 0 else circuit.succeeded()

        assert not circuit.is_open

    def test_says_each_transition_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        However many calls fail, the log has two lines.
        """
        circuit = Circuit("it", in_a_row=1)
        with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
            for _ in range(50):
                circuit.failed(AWAY)
            for _ in range(50):
                circuit.close()

        assert [record.getMessage() for record in caplog.records] == [
            "Backend it is away; limits follow their on_backend_error. It is away.",
            "Backend it is back; limits are shared again.",
        ]

    def test_a_backend_that_comes_and_goes_for_an_hour_fills_no_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        Each change is said at first, then one a minute; that it stays away is said within one, when it is asked.
        """
        clock = FakeClock(1000.0)
        circuit = Circuit("it", in_a_row=1, clock=clock)
        for _ in range(7_200):
            circuit.failed(AWAY)
            clock.advance(0.25)
            circuit.close()
            clock.advance(0.25)
        lines = len(caplog.messages)
        circuit.failed(AWAY)
        for _ in range(60):
            clock.advance(1.0)
            with pytest.raises(LeftAloneError):
                circuit.check()

        assert lines == pytest.approx(2 * 65, abs=4)
        assert "Backend it is away" in caplog.messages[-1]
        assert circuit.state.opened == 7_201

    def test_says_since_when_how_often_and_why(self) -> None:
        """
        Its state is there for operators, without a word of what the error said.
        """
        clock = FakeClock(1000.0)
        circuit = Circuit("it", in_a_row=1, clock=clock)
        assert circuit.state == CircuitState("it", False, 0.0, 0, "")

        error = BackendUnavailableError("canary")
        error.__cause__ = TimeoutError("canary")
        circuit.failed(error)
        assert circuit.state == CircuitState("it", True, 1000.0, 1, "TimeoutError")
        clock.advance(60.0)
        circuit.close()
        assert circuit.state == CircuitState("it", False, 1060.0, 1, "TimeoutError")

    def test_a_backend_that_is_well_is_not_counted(self) -> None:
        """
        One call that had to go without an answer says nothing of the others.
        """
        circuit = Circuit("it", in_a_row=1)
        circuit.failed(MomentaryError("A slot moves."))

        assert circuit.state == CircuitState("it", False, 0.0, 0, "")

    def test_a_backend_that_comes_and_goes_is_probed_less_and_less(self) -> None:
        """
        Each relapse doubles the pause, up to half a second; a long time without one forgives.
        """
        clock = FakeClock(1000.0)
        circuit = Circuit("it", in_a_row=1, clock=clock)
        pauses = []
        for _ in range(5):
            circuit.failed(AWAY)
            pauses.append(circuit.pause(0.1))
            circuit.close()
            clock.advance(1.0)
        clock.advance(60.0)
        circuit.failed(AWAY)

        assert pauses == [0.1, 0.2, 0.4, LONGEST_PAUSE, LONGEST_PAUSE]
        assert circuit.pause(0.1) == 0.1

    def test_concurrent_failures_are_one_transition(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        A storm of failing calls opens once, with one line.
        """
        circuit = Circuit("it", in_a_row=3)
        barrier = threading.Barrier(16)

        def fail() -> None:
            barrier.wait(5)
            for _ in range(20):
                circuit.failed(AWAY)

        threads = [threading.Thread(target=fail) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)

        assert circuit.state.opened == 1
        assert len(caplog.messages) == 1


class TestCircuits:
    def test_each_server_has_its_own(self) -> None:
        """
        Tags of one server share a circuit, named after it; its probe asks under the tag that was asked last.
        """
        circuits = Circuits("redis", lambda tag: f"node-{tag[0]}")
        first, second = circuits.of("a1"), circuits.of("b1")

        assert circuits.of("a2") is first is not second
        assert (first.name, first.tag) == ("redis node-a", "a2")
        assert circuits.all() == (first, second)

    def test_a_server_that_is_away_takes_no_other_with_it(self) -> None:
        """
        Its tags are refused at once, the others are asked, and the probe asks for a counter of the absent one.
        """
        moody = MoodyServer("a")
        guarded = Guarded(moody, Circuits("it", lambda tag: tag[0]), probe_every=0.001)
        moody.is_away = True
        for _ in range(3):
            with pytest.raises(BackendUnavailableError, match=r"It is away\."):
                guarded.reserve(ask(check(), tag="a1"), 0.0)
        with pytest.raises(BackendUnavailableError, match="not asked until"):
            guarded.reserve(ask(check(), tag="a2"), 0.0)

        assert guarded.reserve(ask(check(), tag="b1"), 0.0).admitted
        assert [(state.name, state.is_open) for state in guarded.health] == [("it a", True), ("it b", False)]
        moody.is_away = False
        assert moody.probed.wait(5)
        guarded.close()
        assert not guarded.health[0].is_open


class TestWithoutThreads:
    def test_a_request_probes_when_it_is_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        uWSGI without ``enable-threads``: no thread is started, and the backend is found again all the same.
        """
        monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt={}))
        moody = Moody()
        seldom, often = (Guarded(moody, Circuit("it", in_a_row=1), probe_every=every) for every in (60.0, 0.0))
        moody.is_away = True
        for guarded in (seldom, often):
            with pytest.raises(BackendUnavailableError, match=r"It is away\."):
                guarded.reserve(ask(check()), 0.0)
        moody.is_away = False

        with pytest.raises(BackendUnavailableError, match="not asked until"):
            seldom.reserve(ask(check()), 0.0)
        assert often.reserve(ask(check()), 0.0).admitted
        assert not [thread for thread in threading.enumerate() if thread.name == "tokenbudget-probe"]


class TestGuarded:
    def test_asks_an_absent_backend_no_more_and_finds_it_again(self) -> None:
        """
        While open only the probe asks; its first answer closes.
        """
        moody, circuit = Moody(), Circuit("it", in_a_row=2)
        guarded = Guarded(moody, circuit, probe_every=0.001)
        moody.is_away = True
        for _ in range(2):
            with pytest.raises(BackendUnavailableError, match=r"It is away\."):
                guarded.reserve(ask(check()), 0.0)
        with pytest.raises(BackendUnavailableError, match="not asked until"):
            guarded.reserve(ask(check()), 0.0)
        assert moody.probed.wait(5)
        moody.is_away = False
        prober = guarded._prober
        assert prober is not None
        prober.join(5)

        assert not circuit.is_open
        assert guarded.reserve(ask(check()), 0.0).admitted
        guarded.close()

    def test_starts_its_probe_again_where_a_fork_left_it_behind(self) -> None:
        """
        An open breaker without a living probe would stay open for ever.
        """
        moody, circuit = Moody(), Circuit("it", in_a_row=1)
        guarded = Guarded(moody, circuit, probe_every=0.001)
        circuit.failed(AWAY)
        moody.is_away = True  # or the probe may be faster than what follows
        with pytest.raises(BackendUnavailableError):
            guarded.peek(ask(check()), 0.0)
        moody.is_away = False
        assert guarded._prober is not None
        guarded._prober.join(5)

        assert not circuit.is_open
        guarded.close()

    def test_the_async_twin_does_the_same(self) -> None:
        """
        Its probe is a task of the running loop.
        """
        moody, circuit = Moody(), Circuit("it", in_a_row=1)

        async def main() -> None:
            guarded = AsyncGuarded(AsyncMemoryBackend(moody), circuit, probe_every=0.0)
            moody.is_away = True
            for _ in range(3):
                with pytest.raises(BackendUnavailableError):
                    await guarded.reserve(ask(check()), 0.0)
            asked = moody.asked
            moody.is_away = False
            prober = guarded._prober
            assert prober is not None
            await prober
            assert asked == 1
            assert (await guarded.peek(ask(check()), 0.0)).admitted
            await guarded.aclose()

        asyncio.run(main())
        assert not circuit.is_open


class TestFallback:
    def test_a_local_share_is_the_limit_among_the_workers(self) -> None:
        """
        The cap is divided and rounded up, so that a small limit does not become none.
        """
        share = LocalShare(workers=4)
        admitted = [share.reserve(ask(check(1, 10)), 0.0).admitted for _ in range(4)]

        assert admitted == [True, True, True, False]
        assert share.reserve(ask(check(1, 1, "small:60")), 0.0).admitted

    def test_a_shadow_limit_that_denies_refuses_nobody(self) -> None:
        """
        It only says that it would have.
        """
        reply = LocalShare().reserve(ask(check(1, 1, on_error="deny", enforced=False), check(1, 1, "a:60")), 0.0)

        assert reply.admitted
        assert [state.fits for state in reply.states] == [False, True]

    def test_an_overfull_share_refuses(self) -> None:
        """
        What cannot be counted is not allowed.
        """
        share = LocalShare()
        share._memory = MemoryBackend(max_counters=1)
        replies = [share.reserve(ask(check(counter=f"key={number}")), 0.0) for number in range(4)]

        assert [reply.admitted for reply in replies] == [True, True, False, False]

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_bar_holds_here_while_the_backend_is_away(self, is_async: bool) -> None:
        """
        Who revokes a key is told that others do not know of it; this process refuses it all the same.
        """
        moody, share = Moody(), LocalShare()
        moody.is_away = True
        shared = Blocking(AsyncFallback(AsyncMemoryBackend(moody), share))
        fallback = shared if is_async else Fallback(moody, share)

        with pytest.raises(BackendUnavailableError):
            fallback.bar("acme", "key=k1", "revoked", 60.0, 0.0)
        reply = fallback.reserve(ask(check(), holder="key=k1"), 0.0)
        shared.close()

        assert (reply.admitted, reply.barred) == (False, "revoked")

    def test_an_untold_settlement_is_told_later_once(self) -> None:
        """
        Nothing is raised, and the truth arrives.
        """
        moody = Moody()
        fallback = Fallback(moody, LocalShare())
        asked = ask(check(1, 100), in_flight())
        reply = fallback.reserve(asked, 0.0)
        moody.is_away = True
        assert fallback.settle(settlement(asked, reply, 40, 0), 0.0)
        moody.is_away = False
        fallback.close()

        assert moody.peek(ask(check(0, 100)), 0.0).states[0].remaining == 60

    def test_the_async_twin_tells_later_too(self) -> None:
        """
        The task that tells ends when nothing is left to tell.
        """
        moody = Moody()

        async def main() -> None:
            fallback = AsyncFallback(AsyncMemoryBackend(moody), LocalShare())
            asked = ask(check(1, 100))
            reply = await fallback.reserve(asked, 0.0)
            moody.is_away = True
            assert await fallback.settle(settlement(asked, reply, 40), 0.0)
            moody.is_away = False
            teller = fallback._teller
            assert teller is not None
            await teller
            await fallback.aclose()

        asyncio.run(main())
        assert moody.peek(ask(check(0, 100)), 0.0).states[0].remaining == 60

    def test_two_who_tell_at_once_lose_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A thread still tells when the backend is closed, which tells as well.
        """
        moody = Moody()
        fallback = Fallback(moody, LocalShare())
        asked = [ask(check(1, 100)) for _ in range(3)]
        replies = [fallback.reserve(one, 0.0) for one in asked]
        for one, reply in zip(asked, replies, strict=True):
            fallback._untold.add(settlement(one, reply, 10), 0.0)
        settle, others = moody.settle, [fallback.close]

        def interrupted(told: Settlement, now: float) -> bool:
            while others:
                others.pop()()
            return settle(told, now)

        monkeypatch.setattr(moody, "settle", interrupted)
        fallback._tell()

        assert not fallback._untold.waiting
        assert moody.peek(ask(check(0, 100)), 0.0).states[0].remaining == 70

    def test_untold_settlements_are_bounded_and_their_loss_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        The oldest are left to their leases; the log has one line.
        """
        fallback = Fallback(Moody(), LocalShare())
        asked = ask(check(1, 100))
        told = settlement(asked, fallback.reserve(asked, 0.0))
        for _ in range(UNTOLD + 5):
            fallback._untold.add(told, 0.0)

        assert len(fallback._untold.waiting) == UNTOLD
        assert [record.levelname for record in caplog.records] == ["ERROR"]
