"""
What every backend must do beside admitting and settling, as tests: keep reservations alive, start from the books, bar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbudget_mw.testing.asks import START, ask, check, in_flight, seed, settlement
from tokenbudget_mw.values import CheckState

if TYPE_CHECKING:
    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Check

__all__ = ["KeepingContract"]

DAY_US = 86_400_000_000
TODAY_US = int(START * 1_000_000) // DAY_US * DAY_US
UNTIL_TOMORROW = (TODAY_US + DAY_US) / 1_000_000 - START
"""Seconds from `START` to the end of its day."""


def today(cost: int = 1, cap: int = 10, **options: Any) -> Check:
    """
    Make a check of the calendar day of `START`, which the books know.
    """
    params = (TODAY_US, TODAY_US + DAY_US, TODAY_US + 2 * DAY_US)
    usual: dict[str, Any] = {"window": "money:day", "params": params, "algorithm": "calendar", "is_booked": True}
    return check(cost, cap, **(usual | options))


class KeepingContract:
    """
    The promises of `Backend.renew`, `Backend.seed`, `Backend.bar`, and of asks that hold nothing.

    Attributes:
        slots: How many slots a trailing window of a minute has; fewer than 60 let go of what is charged later.
    """

    slots = 60

    def leaves(self, second: int = 0) -> int:
        """
        Return when what is charged *second* seconds after `START` has left a trailing window of a minute: with its slot,
        in seconds after `START`.
        """
        length = 60 // self.slots
        return (int(START) + second) // length * length + length + 60 - int(START)

    def used(self, backend: Backend, now: float = START, **options: Any) -> int:
        """
        Return what a window counts.
        """
        return 10**6 - backend.peek(ask(check(0, 10**6, **options)), now).states[0].remaining

    def test_a_renewed_reservation_outlives_its_first_lease(self, backend: Backend) -> None:
        """
        A heartbeat moves the end of a lease, which then ends as any other.
        """
        asked = ask(check(9), in_flight(1), lease=20.0)
        reservation = settlement(asked, backend.reserve(asked, START)).reservation

        assert backend.renew(reservation, 20.0, START + 15)
        assert self.used(backend, START + 34.9) == 9
        assert not backend.peek(ask(in_flight(1)), START + 34.9).admitted
        assert backend.peek(ask(in_flight(1)), START + 35).admitted
        assert self.used(backend, START + 35) == 0

    def test_a_heartbeat_never_shortens_a_lease(self, backend: Backend) -> None:
        """
        A shorter lease than what is left changes nothing.
        """
        asked = ask(in_flight(1), lease=100.0)
        reservation = settlement(asked, backend.reserve(asked, START)).reservation

        assert backend.renew(reservation, 1.0, START + 1)
        assert not backend.peek(ask(in_flight(1)), START + 99).admitted

    def test_what_has_ended_is_not_renewed(self, backend: Backend) -> None:
        """
        Settled, expired and unknown reservations stay what they are.
        """
        settled, expired, unknown = ask(check(3), lease=20.0), ask(check(4), lease=20.0), ask(check(1))
        done = settlement(settled, backend.reserve(settled, START))
        backend.settle(done, START)
        late = settlement(expired, backend.reserve(expired, START))
        never = settlement(unknown, backend.peek(unknown, START))

        assert not backend.renew(done.reservation, 100.0, START + 1)
        assert not backend.renew(late.reservation, 100.0, START + 21)
        assert not backend.renew(never.reservation, 100.0, START + 21)
        assert self.used(backend, START + 21) == 3

    def test_a_renewed_reservation_is_settled_once(self, backend: Backend) -> None:
        """
        It is the same reservation still.
        """
        asked = ask(check(9, 10), lease=20.0)
        done = settlement(asked, backend.reserve(asked, START), 4)
        backend.renew(done.reservation, 50.0, START + 10)
        answers = [backend.settle(done, START + 30) for _ in range(2)]

        assert answers == [True, False]
        assert self.used(backend, START + 30) == 4

    def test_what_is_charged_without_a_lease_is_charged_for_good(self, backend: Backend) -> None:
        """
        Nothing is held, so nothing comes back before it leaves the window.
        """
        for _ in range(2):
            assert backend.reserve(ask(check(1, 2, "requests:60"), check(3), lease=0.0), START).admitted

        assert not backend.reserve(ask(check(1, 2, "requests:60"), check(3), lease=0.0), START).admitted
        assert self.used(backend, START + self.leaves() - 1) == 6
        assert self.used(backend, START + self.leaves()) == 0

    def test_a_window_of_the_books_waits_for_its_seed(self, backend: Backend) -> None:
        """
        Nothing of the ask is charged before; then what the books know counts, and what does not fit is refused.
        """
        asked = ask(check(2), today(3), today(1, counter="tenant=t", window="tokens:day"))
        first, peeked = backend.reserve(asked, START), backend.peek(asked, START)
        backend.seed("acme", [seed((TODAY_US, 7), of=today()), seed(of=asked.checks[2])], START)
        refused = backend.reserve(ask(check(2), today(4)), START)
        admitted = backend.reserve(asked, START)

        assert (first.admitted, first.states, first.unseeded) == (False, (), (1, 2))
        assert peeked == first
        assert [state.fits for state in refused.states] == [True, False]
        assert admitted.admitted
        assert [state.remaining for state in admitted.states] == [8, 0, 9]

    def test_a_seed_changes_no_window_that_is_known(self, backend: Backend) -> None:
        """
        Two processes may seed the same window: the second one adds nothing, nor does a seed of what has been charged.
        """
        backend.reserve(ask(today(2, is_booked=False)), START)
        for _ in range(2):
            backend.seed("acme", [seed((TODAY_US, 7), of=today()), seed((TODAY_US, 5), of=today(counter="k2"))], START)

        assert backend.peek(ask(today(0)), START).states == (CheckState(True, 8, UNTIL_TOMORROW, 0.0, -1),)
        assert backend.peek(ask(today(0, counter="k2")), START).states[0].remaining == 5

    def test_trailing_windows_are_seeded_slot_by_slot(self, backend: Backend) -> None:
        """
        Each charge leaves when its slot has left the window; what has left already is not counted.
        """
        at = int(START * 1_000_000)
        old, new = at - 30_000_000, at + 1_000_000
        backend.seed("acme", [seed((at - 90_000_000, 4), (old, 3), (new, 2), of=check())], START)

        assert self.used(backend) == 5
        # a slot's number is the moment of its end
        assert self.used(backend, START + self.leaves(-31) - 1) == 5
        assert self.used(backend, START + self.leaves(-31)) == 2
        assert self.used(backend, START + self.leaves(0)) == 0

    def test_t18_a_barred_holder_is_refused_at_once_and_charged_nothing(self, backend: Backend) -> None:
        """
        The next ask hears why; others go on; a settlement of before is still taken.
        """
        before = ask(check(4), holder="key=k1")
        reply = backend.reserve(before, START)
        backend.bar("acme", "key=k1", "revoked", 60.0, START)
        barred = backend.reserve(ask(check(1), holder="key=k1"), START + 1)
        peeked = backend.peek(ask(check(1), holder="key=k1"), START + 1)

        assert (barred.admitted, barred.states, barred.barred) == (False, (), "revoked")
        assert peeked == barred
        assert backend.reserve(ask(check(0), holder="key=k2"), START + 1).admitted
        assert backend.reserve(ask(check(0), holder="key=k1", tag="other"), START + 1).admitted
        assert backend.settle(settlement(before, reply, 3), START + 1)
        assert self.used(backend, START + 1) == 3

    def test_t18_a_bar_is_lifted_or_ends(self, backend: Backend) -> None:
        """
        An empty status admits again, and so does time; a later bar takes the place of an earlier one.
        """
        for holder in ("key=a", "key=b"):
            backend.bar("acme", holder, "suspended", 60.0, START)
        backend.bar("acme", "key=b", "revoked", 90.0, START)
        backend.bar("acme", "key=a", "", 0.0, START + 1)

        assert backend.reserve(ask(holder="key=a"), START + 1).admitted
        assert backend.reserve(ask(holder="key=b"), START + 89).barred == "revoked"
        assert backend.reserve(ask(holder="key=b"), START + 90).admitted
