"""
What every backend must do, as tests: subclass `BackendContract` and give it a ``backend`` fixture.

```python
class TestMine(BackendContract):
    @pytest.fixture
    def backend(self):
        backend = MyBackend(clock="caller")
        yield backend
        backend.close()
```

An asynchronous backend is wrapped in `Blocking` first. The backend must use the moments that it is given.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw.testing.asks import HOUR, MINUTE, START, Blocking, ask, check, in_flight, settlement
from tokenbudget_mw.testing.keeping import KeepingContract

if TYPE_CHECKING:
    from tokenbudget_mw.backends.base import Backend

__all__ = ["HOUR", "MINUTE", "START", "BackendContract", "Blocking", "ask", "check", "in_flight", "settlement"]


class BackendContract(KeepingContract):
    """
    The promises of `Backend`.
    """

    def test_admits_to_the_cap_and_not_beyond(self, backend: Backend) -> None:
        """
        As many as the cap are admitted, and the states say what is left.
        """
        remaining = []
        for _ in range(3):
            reply = backend.reserve(ask(check(1, 3)), START)
            assert reply.admitted
            assert reply.states[0].fits
            remaining.append(reply.states[0].remaining)
        refused = backend.reserve(ask(check(1, 3)), START)

        assert remaining == [2, 1, 0]
        assert not refused.admitted
        assert refused.states[0].slot == -1
        assert not refused.degraded

    def test_t06_retry_after_is_the_first_moment_at_which_the_cost_fits(self, backend: Backend) -> None:
        """
        Just before Retry-After the same cost is refused; at it, it is admitted.
        """
        for second in range(10):
            assert backend.reserve(ask(check(10, 100)), START + second).admitted
        refused = backend.reserve(ask(check(50, 100)), START + 20)
        wait = refused.states[0].retry_after

        assert wait is not None
        assert wait == self.leaves(4) - 20
        assert not backend.reserve(ask(check(50, 100)), START + 20 + wait - 1e-6).admitted
        assert backend.reserve(ask(check(50, 100)), START + 20 + wait).admitted

    def test_a_cost_above_the_cap_never_fits(self, backend: Backend) -> None:
        """
        No wait is promised where none would help.
        """
        state = backend.reserve(ask(check(11, 10)), START).states[0]

        assert not state.fits
        assert state.retry_after is None

    def test_t04_zero_cost_passes_a_spent_budget_and_a_budget_of_zero_blocks(self, backend: Backend) -> None:
        """
        What costs nothing always fits; what costs anything never fits a budget of 0.
        """
        assert backend.reserve(ask(check(10, 10)), START).admitted

        assert backend.reserve(ask(check(0, 10)), START).admitted
        assert not backend.reserve(ask(check(1, 0)), START).admitted
        assert backend.reserve(ask(), START).admitted

    def test_room_is_needed_and_not_taken(self, backend: Backend) -> None:
        """
        A check for room takes its cost alone, is refused by a spent limit, and waits for the room to be there.
        """
        asking = check(0, 10, room=1)
        full = ask(check(10, 10))

        free = backend.reserve(ask(asking), START)
        taken = backend.reserve(full, START)
        spent = backend.reserve(ask(asking), START)

        assert (free.admitted, free.states[0].remaining) == (True, 10)
        assert taken.admitted
        assert not spent.admitted
        wait = spent.states[0].retry_after
        assert wait is not None
        assert backend.reserve(ask(asking), START + wait).admitted

    def test_t09_a_refusal_charges_nothing_anywhere(self, backend: Backend) -> None:
        """
        One check that does not fit leaves all windows of all counters as they were.
        """
        first = check(1, 100, "requests:60")
        second = check(5, 4, "tokens:3600", params=HOUR, counter="tenant=acme")
        refused = backend.reserve(ask(first, in_flight(), second), START)

        assert not refused.admitted
        assert [state.fits for state in refused.states] == [True, True, False]
        assert self.used(backend, window="requests:60") == 0
        assert backend.peek(ask(in_flight(1)), START).admitted
        assert self.used(backend, window="tokens:3600", params=HOUR, counter="tenant=acme") == 0

    def test_t02_a_spent_ancestor_refuses_every_child(self, backend: Backend) -> None:
        """
        A tenant's limit holds for all its keys together, at once.
        """
        tenant = check(5, 10, counter="tenant=acme")
        for key in ("k1", "k2"):
            assert backend.reserve(ask(check(5, 100, counter=f"key={key}"), tenant), START).admitted

        reply = backend.reserve(ask(check(5, 100, counter="key=k3"), tenant), START)
        assert not reply.admitted
        assert [state.fits for state in reply.states] == [True, False]

    def test_tags_do_not_share_counters(self, backend: Backend) -> None:
        """
        The same counter name under another tag is another counter.
        """
        assert backend.reserve(ask(check(10, 10), tag="acme"), START).admitted

        assert backend.reserve(ask(check(10, 10), tag="other"), START).admitted

    def test_shadow_checks_are_a_group_of_their_own(self, backend: Backend) -> None:
        """
        A shadow check that does not fit refuses nobody, and then no shadow check is charged.
        """
        checks = (
            check(1, 10, "tokens:60"),
            check(1, 0, "shadow:60", enforced=False),
            check(1, 10, "shadow:3600", params=HOUR, enforced=False),
        )
        reply = backend.reserve(ask(*checks), START)

        assert reply.admitted
        assert [state.fits for state in reply.states] == [True, False, True]
        assert [state.slot >= 0 for state in reply.states] == [True, False, False]
        assert self.used(backend, window="tokens:60") == 1
        assert self.used(backend, window="shadow:3600", params=HOUR) == 0

    def test_shadow_checks_that_fit_are_charged_when_the_request_is_admitted(self, backend: Backend) -> None:
        """
        A shadow limit counts what it would have counted had it been enforced.
        """
        shadow = check(1, 1, "shadow:60", enforced=False)
        assert not backend.reserve(ask(check(1, 0), shadow), START).admitted
        first = backend.reserve(ask(check(), shadow), START)
        second = backend.reserve(ask(check(), shadow), START)

        assert first.states[1].fits
        assert not second.states[1].fits
        assert second.admitted
        assert second.states[1].retry_after == self.leaves()

    def test_peek_answers_as_reserve_would_and_charges_nothing(self, backend: Backend) -> None:
        """
        Any number of peeks leave the window as it is.
        """
        backend.reserve(ask(check(4, 10)), START)
        replies = [backend.peek(ask(check(6, 10)), START) for _ in range(3)]

        assert [(reply.admitted, reply.states[0].remaining) for reply in replies] == [(True, 6)] * 3
        assert not backend.peek(ask(check(7, 10)), START).admitted
        assert self.used(backend) == 4

    def test_settle_moves_to_the_truth_downwards(self, backend: Backend) -> None:
        """
        What was reserved too much is free again.
        """
        asked = ask(check(8, 10), in_flight(1))
        reply = backend.reserve(asked, START)

        assert backend.settle(settlement(asked, reply, 3, 1), START + 1)
        assert self.used(backend, START + 1) == 3
        assert backend.peek(ask(in_flight(1)), START + 1).admitted

    def test_settle_may_go_into_debt_which_time_pays(self, backend: Backend) -> None:
        """
        Settling never refuses; later asks wait until the window is below its cap again.
        """
        asked = ask(check(1, 10))
        reply = backend.reserve(asked, START)
        backend.settle(settlement(asked, reply, 25), START + 1)
        refused = backend.reserve(ask(check(1, 10)), START + 1)

        wait = refused.states[0].retry_after
        assert not refused.admitted
        assert refused.states[0].remaining == 0
        assert backend.reserve(ask(check(0, 10)), START + 1).admitted
        assert wait is not None
        assert wait == self.leaves() - 1
        assert backend.reserve(ask(check(1, 10)), START + 1 + wait).admitted

    def test_settle_counts_where_it_was_reserved(self, backend: Backend) -> None:
        """
        The truth leaves the window when the reservation would have, with its slot.
        """
        asked = ask(check(1, 10))
        reply = backend.reserve(asked, START)
        backend.settle(settlement(asked, reply, 7), START + 30)

        assert self.used(backend, START + self.leaves() - 0.001) == 7
        assert self.used(backend, START + self.leaves()) == 0

    def test_settle_after_the_slot_has_left_changes_nothing(self, backend: Backend) -> None:
        """
        A window is not charged for what it has forgotten.
        """
        asked = ask(check(1, 10))
        reply = backend.reserve(asked, START)

        assert backend.settle(settlement(asked, reply, 7), START + 100)
        assert self.used(backend, START + 100) == 0

    def test_settle_is_idempotent(self, backend: Backend) -> None:
        """
        The second settlement of an id changes nothing and says so.
        """
        asked = ask(check(1, 10), in_flight())
        reply = backend.reserve(asked, START)
        answers = [backend.settle(settlement(asked, reply, 5, 0), START) for _ in range(3)]

        assert answers == [True, False, False]
        assert self.used(backend) == 5

    def test_reserve_is_idempotent_by_id(self, backend: Backend) -> None:
        """
        The same id is charged once and answered the same.
        """
        asked = ask(check(4, 10), in_flight(1), check(1, 0, "shadow:60", enforced=False))

        assert backend.reserve(asked, START) == backend.reserve(asked, START)
        assert self.used(backend) == 4

    def test_an_expired_lease_gives_back_all_but_requests(self, backend: Backend) -> None:
        """
        A process that died holds nothing when its lease has ended; the request it made stays made.
        """
        asked = ask(check(1, 10, "requests:60"), check(9, 10), in_flight(1), lease=20.0)
        backend.reserve(asked, START)

        assert not backend.peek(ask(in_flight(1)), START + 19.999).admitted
        assert backend.peek(ask(in_flight(1)), START + 20).admitted
        assert self.used(backend, START + 20) == 0
        assert self.used(backend, START + 20, window="requests:60") == 1

    def test_settle_after_the_lease_charges_the_truth_in_full_once(self, backend: Backend) -> None:
        """
        A late settlement finds the reservation given back, and charges all of it.
        """
        asked = ask(check(1, 10, "requests:60"), check(9, 10), in_flight(), lease=20.0)
        reply = backend.reserve(asked, START)
        late = settlement(asked, reply, 1, 6, 1)
        answers = [backend.settle(late, START + 30) for _ in range(2)]

        assert answers == [True, False]
        assert self.used(backend, START + 30) == 6
        assert self.used(backend, START + 30, window="requests:60") == 1
        assert backend.peek(ask(in_flight(1)), START + 30).admitted

    def test_a_settlement_that_meets_its_expired_lease_first_is_counted_once(self, backend: Backend) -> None:
        """
        Nobody else has to call between the end of the lease and the settlement.
        """
        asked = ask(check(9, 10), lease=20.0)
        reply = backend.reserve(asked, START)
        other = ask(check(0, 10), lease=5.0)
        backend.reserve(other, START)

        assert backend.settle(settlement(asked, reply, 4), START + 25)
        assert not backend.settle(settlement(asked, reply, 4), START + 25)
        assert self.used(backend, START + 25) == 4

    def test_an_operator_takes_charges_off_the_newest_first(self, backend: Backend) -> None:
        """
        A credit frees at once, takes no more than there is, and makes no counter that was not there.
        """
        for second, cost in ((0, 4), (15, 3), (30, 2)):
            backend.reserve(ask(check(cost, 10)), START + second)
        backend.credit(ask(check(4, 10), check(4, 10, "other:60"), check(4, 10, counter="key=new")), START + 31)

        assert self.used(backend, START + 31) == 5
        assert self.used(backend, START + self.leaves()) == 1
        assert self.used(backend, START + 31, window="other:60") == 0
        backend.credit(ask(check(2**53 - 1, 10)), START + 31)
        assert self.used(backend, START + 31) == 0

    def test_what_was_credited_is_not_given_back_again(self, backend: Backend) -> None:
        """
        A settlement after a reset charges what was used above the reservation, and takes nothing off later charges.
        """
        asked = ask(check(8, 10))
        reply = backend.reserve(asked, START)
        backend.credit(ask(check(2**53 - 1, 10)), START)
        assert self.used(backend, START) == 0
        backend.reserve(ask(check(6, 10)), START)

        assert backend.settle(settlement(asked, reply, 3), START + 1)
        assert self.used(backend, START + 1) == 6

    def test_many_leases_expire(self, backend: Backend) -> None:
        """
        However many leases ended, a bounded number of calls gives all of it back.
        """
        for _ in range(150):
            backend.reserve(ask(in_flight(1000), lease=10.0), START)
        for _ in range(4):
            backend.peek(ask(in_flight(1)), START + 11)

        assert backend.peek(ask(in_flight(1)), START + 11).admitted

    def test_a_clock_that_steps_back_frees_and_loses_nothing(self, backend: Backend) -> None:
        """
        The counter keeps its newest moment.
        """
        backend.reserve(ask(check(6, 10)), START)
        backend.reserve(ask(check(1, 10)), START + 30)
        back = backend.reserve(ask(check(4, 10)), START - 1000)

        assert not back.admitted
        assert back.states[0].retry_after == 1000 + self.leaves()
        assert backend.peek(ask(check(3, 10)), START - 1000).admitted

    def test_a_calendar_period_forgets_everything_at_its_end(self, backend: Backend) -> None:
        """
        The next period counts from its start, also where the caller has not noticed yet.
        """
        begin = int(START) * 1_000_000
        day = 86_400_000_000
        month: dict[str, Any] = {
            "algorithm": "calendar",
            "params": (begin, begin + day, begin + 2 * day),
            "window": "money:month",
        }
        backend.reserve(ask(check(10, 10, **month), lease=86_400.0), START + 5)
        refused = backend.reserve(ask(check(1, 10, **month)), START + 86_400 - 1)

        assert not refused.admitted
        assert refused.states[0].retry_after == 1.0
        assert backend.reserve(ask(check(10, 10, **month)), START + 86_400).admitted

    def test_a_changed_amount_keeps_what_was_counted(self, backend: Backend) -> None:
        """
        The cap belongs to the question and not to the counter.
        """
        backend.reserve(ask(check(10, 10)), START)

        assert backend.reserve(ask(check(5, 15)), START).admitted
        assert not backend.reserve(ask(check(1, 5)), START).admitted

    @pytest.mark.parametrize("cost", [-1, 2**53, float("nan"), float("inf")])
    def test_an_amount_that_cannot_be_counted_is_an_error(self, backend: Backend, cost: Any) -> None:
        """
        Negative amounts would credit, and a NaN would be allowed: both are errors of the caller.
        """
        with pytest.raises(ValueError, match="whole number"):
            backend.reserve(ask(check(cost)), START)
        assert self.used(backend) == 0

    def test_the_largest_amounts_are_exact(self, backend: Backend) -> None:
        """
        Up to 2**53 - 1 nothing is rounded.
        """
        most = 2**53 - 1
        assert backend.reserve(ask(check(most - 1, most)), START).states[0].remaining == 1
        assert not backend.reserve(ask(check(2, most)), START).admitted
        assert backend.reserve(ask(check(1, most)), START).states[0].remaining == 0

    def test_t01_parallel_requests_never_pass_a_limit(self, backend: Backend) -> None:
        """
        Of 200 parallel requests on [100/hour, 60/day] 60 are admitted, and 60 charged on both.
        """
        hour = check(1, 100, "requests:3600", params=HOUR)
        day = check(1, 60, "requests:86400", params=(1_440_000_000, 60))
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda _: backend.reserve(ask(hour, day), START), range(200)))

        assert sum(reply.admitted for reply in replies) == 60
        assert self.used(backend, window="requests:3600", params=HOUR) == 60
        assert self.used(backend, window="requests:86400", params=(1_440_000_000, 60)) == 60
