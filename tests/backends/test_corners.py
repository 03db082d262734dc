"""
Corners that random histories find too rarely, on memory and on Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.testing.asks import START, ask, check, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Ask, Check, Reply

MOST = 10**6


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "memory":
        yield MemoryBackend()
        return
    redis = pytest.importorskip("tokenbudget_mw.backends.redis")
    backend = redis.RedisBackend(request.getfixturevalue("redis_db"), deadline=5.0, clock="caller")
    yield backend
    backend.close()


def admitted(backend: Backend, one: Check, now: float, **options: Any) -> tuple[Ask, Reply]:
    asked = ask(one, **options)
    reply = backend.reserve(asked, now)
    assert reply.admitted
    return asked, reply


def used(backend: Backend, now: float, **options: Any) -> int:
    return MOST - backend.peek(ask(check(0, MOST, **options)), now).states[0].remaining


def test_what_was_credited_is_not_given_back_from_younger_charges(backend: Backend) -> None:
    """
    A reservation whose slot an operator has emptied takes nothing off the slots after it.
    """
    first = admitted(backend, check(4, 10), START)
    backend.credit(ask(check(4, 10)), START + 1)
    admitted(backend, check(3, 10), START + 2)
    backend.settle(settlement(*first, 0), START + 3)

    assert used(backend, START + 3) == 3


BEGIN = int(START) * 1_000_000
KINDS: dict[str, dict[str, Any]] = {
    "strict_log": {},
    "calendar": {"params": (BEGIN, BEGIN + 50_000_000, BEGIN + 100_000_000), "algorithm": "calendar"},
    "concurrent": {"params": (), "algorithm": "concurrent"},
    "gcra": {"params": (60_000_000, 10), "algorithm": "gcra"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_given_back_than_credits_have_left(backend: Backend, kind: str) -> None:
    """
    Where an operator has taken most of it off, a reservation that gives back all it took leaves nothing, not less.
    """
    one = KINDS[kind]
    first = admitted(backend, check(4, 10, **one), START)
    admitted(backend, check(3, 10, **one), START)
    backend.credit(ask(check(5, 10, **one)), START)
    backend.settle(settlement(*first, 0), START)

    assert used(backend, START, **one) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["settled", "expired"])
def test_what_was_forgotten_is_not_given_back_from_what_came_after(backend: Backend, kind: str, end: str) -> None:
    """
    Where all that counted was taken off, reservations that were open then take nothing off those made since.
    """
    one = KINDS[kind]
    first = admitted(backend, check(4, 10, **one), START, lease=1.0)
    backend.credit(ask(check(10**6, 10, **one)), START)
    admitted(backend, check(3, 10, **one), START)
    if end == "settled":
        assert backend.settle(settlement(*first, 0), START)
    admitted(backend, check(0, 10, **one), START + 2)  # ends what has not ended

    assert used(backend, START + 2, **one) == 3


@pytest.mark.parametrize("kind", ["strict_log", "calendar", "gcra"])
def test_what_a_call_used_beyond_what_was_forgotten_of_it_counts(backend: Backend, kind: str) -> None:
    """
    Its reservation was taken off, and no more than that; another window of the same reservation is settled as ever.
    """
    one = KINDS[kind]
    first = admitted(backend, check(4, 10, **one), START)
    both = ask(check(4, 10, **one), check(5, 10, "tokens:61"))
    second = both, backend.reserve(both, START)
    backend.credit(ask(check(10**6, 10, **one)), START)
    assert backend.settle(settlement(*first, 6), START)
    assert backend.settle(settlement(*second, 1, 2), START)

    assert used(backend, START, **one) == 2
    assert used(backend, START, window="tokens:61") == 2


def test_calls_in_flight_that_were_forgotten_do_not_end_again(backend: Backend) -> None:
    """
    An operator forgets those of a process that died: as many as the limit says may run then, also after the leases.
    """
    dead = [admitted(backend, in_flight(2), START, lease=30.0) for _ in range(2)]
    backend.credit(ask(in_flight(2)), START + 1)  # one of them, so that it still holds
    backend.credit(ask(check(10**6, 2, "concurrent", params=(), algorithm="concurrent")), START + 1)
    for _ in range(2):
        admitted(backend, in_flight(2), START + 2)
    backend.settle(settlement(*dead[0]), START + 3)

    assert not backend.reserve(ask(in_flight(2)), START + 4).admitted
    assert not backend.reserve(ask(in_flight(2)), START + 40).admitted


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_that_nothing_is_left_in_is_empty_now(backend: Backend, kind: str) -> None:
    """
    Whoever asks for more than it could ever hold is told so, and no reset.
    """
    one = KINDS[kind]
    backend.settle(settlement(*admitted(backend, check(1, 10, **one), START), 0), START)
    (state,) = backend.reserve(ask(check(11, 10, **one)), START).states

    assert (state.fits, state.remaining, state.reset, state.retry_after) == (False, 10, 0.0, None)


def test_no_more_is_given_back_than_credits_have_left_of_an_older_slot(backend: Backend) -> None:
    """
    Nor does it take anything off the slots after it.
    """
    first = admitted(backend, check(4, 10), START)
    admitted(backend, check(3, 10), START)
    backend.credit(ask(check(5, 10)), START)
    admitted(backend, check(1, 10), START + 10)
    backend.settle(settlement(*first, 0), START + 10)

    assert used(backend, START + 10) == 1
    assert used(backend, START + 61) == 1


@pytest.mark.parametrize("credited", [0, 3])
@pytest.mark.parametrize("later", [0, 20])
def test_what_a_call_came_to_counts_in_its_slot_where_nothing_else_does(
    backend: Backend, credited: int, later: int
) -> None:
    """
    Behind, between or instead of other slots, whether nothing was taken there at first or an operator took it off.
    """
    admitted(backend, check(2, 30), START)
    late = admitted(backend, check(credited, 30, room=1), START + 10)
    backend.credit(ask(check(credited, 30)), START + 10)
    if later:
        admitted(backend, check(1, 30), START + later)
    backend.settle(settlement(*late, 8), START + 21)

    assert used(backend, START + 21) == 10 - credited + later // 20
    assert used(backend, START + 61) == 8 - credited + later // 20
    assert used(backend, START + 71) == later // 20


def test_any_slot_is_found_again(backend: Backend) -> None:
    """
    Of many, each reservation gives back half of what it held in its own.
    """
    made = [admitted(backend, check(2 << at, 1_000), START + 5 * at) for at in range(8)]
    for at, one in enumerate(made):
        backend.settle(settlement(*one, 1 << at), START + 36)

        assert used(backend, START + 36) == 510 - (2 << at) + 1


@pytest.mark.parametrize("actual", [(1 << 24) - 1, 1 << 24, 1 << 40])
def test_an_older_slot_holds_however_much_is_settled_there(backend: Backend, actual: int) -> None:
    """
    A call may come to far more than was reserved.
    """
    first = admitted(backend, check(1, 1 << 50), START)
    admitted(backend, check(5, 1 << 50), START + 10)
    backend.settle(settlement(*first, actual), START + 10)

    for second, counted in ((10, actual + 5), (61, 5)):
        assert backend.peek(ask(check(0, 1 << 50)), START + second).states[0].remaining == (1 << 50) - counted


def test_a_charge_that_has_just_left_frees_nothing_more(backend: Backend) -> None:
    """
    At the moment at which a slot leaves, the wait of a refusal is that of the slots which still count.
    """
    admitted(backend, check(4, 10), START)
    admitted(backend, check(6, 10), START + 10)
    for call in (backend.reserve, backend.peek):
        refused = call(ask(check(5, 10)), START + 61)

        assert not refused.admitted
        assert (refused.states[0].remaining, refused.states[0].retry_after) == (4, 10.0)


def test_the_end_of_a_slot_belongs_to_the_next_one(backend: Backend) -> None:
    """
    A charge at the very end of the newest slot counts as long as one that comes a moment later.
    """
    one = check(1, 10)
    length = one.params[0] / 1_000_000
    first, late = admitted(backend, one, START), admitted(backend, one, START + length)

    assert first[1].states[0].slot + one.params[0] == late[1].states[0].slot
    assert late[1].states[0].reset == pytest.approx(length * (one.params[1] + 1))


def test_a_finely_cut_slot_leaves_within_a_coarse_one(backend: Backend) -> None:
    """
    After new settings cut a window coarsely, old slots still leave at their own ends, to the microsecond.
    """
    coarse = (2_000_000, 3)
    admitted(backend, check(4, 10, params=(500_000, 12)), START + 3)
    admitted(backend, check(1, 10, params=coarse), START + 8)
    reply = backend.reserve(ask(check(1, 10, params=coarse)), START + 9.5)

    assert reply.states[0].remaining == 8
    assert used(backend, START + 9.5, params=coarse) == 2


def test_a_coarse_slot_keeps_its_end_when_slots_are_cut_finely(backend: Backend) -> None:
    """
    A fine slot may end before the coarse one that was charged earlier: each leaves at its own end.
    """
    fine = (500_000, 12)
    admitted(backend, check(4, 10, params=(3_000_000, 2)), START)  # its slot ends a second later
    admitted(backend, check(1, 10, params=fine), START + 0.2)

    assert used(backend, START + 6.5 - 1e-6, params=fine) == 5
    assert used(backend, START + 6.5, params=fine) == 4
    assert used(backend, START + 7 - 1e-6, params=fine) == 4
    assert used(backend, START + 7, params=fine) == 0


def test_nothing_is_forgotten_early_when_slots_are_cut_finely(backend: Backend) -> None:
    """
    The short way of a charge tidies up by the slots that it knows; what a coarse cut has left keeps counting.
    """
    coarse, fine = (3_000_000, 2), (500_000, 12)
    begin = START + 1  # a border of both
    admitted(backend, check(1, 20, params=fine), begin + 0.6)  # counts until 7
    admitted(backend, check(2, 20, params=fine), begin + 1.8)  # counts until 8
    admitted(backend, check(4, 20, params=coarse), begin + 6.1)  # counts until 15
    reply = backend.reserve(ask(check(8, 20, params=fine)), begin + 7.2)

    assert reply.states[0].remaining == 20 - 14
    assert used(backend, begin + 8 - 1e-6, params=fine) == 14
    assert used(backend, begin + 8, params=fine) == 12


def test_the_same_reservation_again_is_charged_once_where_all_fits(backend: Backend) -> None:
    """
    A retry of the same id finds its first answer on the short way, too.
    """
    admitted(backend, check(1, 10), START)
    asked, reply = admitted(backend, check(2, 10), START)

    assert backend.reserve(asked, START) == reply
    assert used(backend, START) == 3


def test_a_lease_ends_at_its_end_for_whoever_comes_first(backend: Backend) -> None:
    """
    The reservation that comes at this very moment finds what the lease held given back.
    """
    admitted(backend, check(4, 10), START, lease=20.0)
    reply = backend.reserve(ask(check(1, 10)), START + 20)

    assert reply.states[0].remaining == 9


def test_the_end_of_a_period_belongs_to_the_next_one(backend: Backend) -> None:
    """
    Also where the caller still asks for the old one, and the old one has room.
    """
    begin = int(START) * 1_000_000
    period: dict[str, Any] = {"params": tuple(begin + 50_000_000 * k for k in range(3)), "algorithm": "calendar"}
    admitted(backend, check(4, 10, **period), START)
    last = backend.reserve(ask(check(1, 10, **period)), START + 50 - 1e-6).states[0]
    first = backend.reserve(ask(check(2, 10, **period)), START + 50).states[0]

    assert last.remaining == 5
    assert (first.remaining, first.reset) == (8, 50.0)


def test_a_caller_whose_clock_is_ahead_ends_no_period(backend: Backend) -> None:
    """
    The counter's own clock says when the next one begins; until then all wait for it, and what is settled counts.
    """
    begin = int(START) * 1_000_000
    right, ahead, far_ahead = (
        {"params": tuple(begin + (50_000_000 * (k + later)) for k in range(3)), "algorithm": "calendar"}
        for later in (0, 1, 2)
    )
    first = admitted(backend, check(4, 10, **right), START + 40)
    second = admitted(backend, check(3, 10, **ahead), START + 45)
    hour = check(1, 1, "tokens:3600", params=(60_000_000, 60))
    admitted(backend, hour, START + 45)
    refused = backend.reserve(ask(check(4, 10, **ahead)), START + 45).states[0]
    beside = backend.reserve(ask(hour, check(1, 10, **ahead)), START + 45).states[1]

    assert (refused.remaining, refused.retry_after, refused.reset) == (3, 5.0, 5.0)
    assert (beside.remaining, beside.reset) == (3, 5.0)
    for made in (first, second):
        backend.settle(settlement(*made, 5), START + 49)
    assert [used(backend, START + 49.9, **each) for each in (right, ahead)] == [10, 10]
    assert [used(backend, START + 50, **each) for each in (right, ahead, far_ahead)] == [0, 0, 0]
    admitted(backend, check(8, 10, **far_ahead), START + 60)


def test_a_lease_that_outlives_its_period_gives_nothing_back_to_the_next(backend: Backend) -> None:
    """
    What it held is forgotten with its period.
    """
    begin = int(START) * 1_000_000
    period: dict[str, Any] = {"params": tuple(begin + 50_000_000 * k for k in range(3)), "algorithm": "calendar"}
    admitted(backend, check(4, 10, **period), START + 40, lease=20.0)
    admitted(backend, check(3, 10, **period), START + 55)

    assert used(backend, START + 61, **period) == 3


@pytest.mark.parametrize("cost", [7, 9])
def test_a_bucket_is_empty_when_it_says_so(backend: Backend, cost: int) -> None:
    """
    The last digit of a quotient makes no promise wrong: not a microsecond too early, and none too late.
    """
    bucket: dict[str, Any] = {"params": (3_600_000_000, 1000), "algorithm": "gcra"}
    admitted(backend, check(0, 1000, **bucket), START)  # so that the next one finds the window
    _, reply = admitted(backend, check(cost, 1000, **bucket), START)
    empty = START + reply.states[0].reset
    looked, refused = (call(ask(check(1001, 1000, **bucket)), START) for call in (backend.peek, backend.reserve))

    assert looked.states[0].reset == refused.states[0].reset == reply.states[0].reset
    assert used(backend, empty - 1e-6, **bucket) == 1
    assert used(backend, empty, **bucket) == 0


def test_what_was_credited_leaves_no_reset_behind(backend: Backend) -> None:
    """
    A period of which nothing is counted any more is empty now, not at its end.
    """
    begin = int(START) * 1_000_000
    period: dict[str, Any] = {"params": tuple(begin + 50_000_000 * k for k in range(3)), "algorithm": "calendar"}
    admitted(backend, check(4, 10, **period), START)
    backend.credit(ask(check(4, 10, **period)), START)

    assert backend.reserve(ask(check(0, 10, **period)), START).states[0].reset == 0.0


def test_a_bucket_forgets_a_settlement_that_is_as_old_as_it_is_long(backend: Backend) -> None:
    """
    At its length to the microsecond; before it, the debt counts.
    """
    bucket: dict[str, Any] = {"params": (7_000_000, 12), "algorithm": "gcra"}
    first, second = (admitted(backend, check(1, 12, counter=key, **bucket), START) for key in ("key=a", "key=b"))
    backend.settle(settlement(*first, 6), START + 7 - 1e-6)
    backend.settle(settlement(*second, 6), START + 7)

    assert used(backend, START + 7, counter="key=a", **bucket) == 5
    assert used(backend, START + 7, counter="key=b", **bucket) == 0


@pytest.mark.parametrize("debt", [10**6, 10**9, 2**53 - 1])
def test_a_debt_that_takes_longer_than_anybody_lives_leaves_in_a_century(backend: Backend, debt: int) -> None:
    """
    Where a bucket leaks so slowly that doubles count no single microseconds any more, nobody searches for one for ever.
    """
    bucket: dict[str, Any] = {"params": (604_800_000_000, 10), "algorithm": "gcra"}
    first = admitted(backend, check(1, 10, **bucket), START)
    backend.settle(settlement(*first, debt), START)
    refused = backend.reserve(ask(check(1, 10, **bucket)), START + 1).states[0]
    looked = backend.peek(ask(check(1, 10, **bucket)), START + 1).states[0]
    _, reply = admitted(backend, check(0, 10, **bucket), START + 1)
    century = 100 * 365.25 * 86_400

    assert refused == looked
    assert refused.reset == reply.states[0].reset == refused.retry_after
    assert century < refused.reset < 2 * century


def test_a_debt_of_many_largest_amounts_leaves_whole(backend: Backend) -> None:
    """
    Each settlement may come to 2**53 - 1; what several left in one slot leaves with it.
    """
    made = [admitted(backend, check(8, MOST), START) for _ in range(6)]  # sums of eights are exact in doubles
    admitted(backend, check(8, MOST), START + 10)
    for one in made:
        backend.settle(settlement(*one, 2**53 - 8), START + 10)

    assert used(backend, START + 61) == 8
    assert used(backend, START + 71) == 0


def test_what_asks_for_nothing_fits_beside_what_is_refused(backend: Backend) -> None:
    """
    Also in debt: it is not the reason, and has nothing to wait for.
    """
    backend.settle(settlement(*admitted(backend, check(1, 10, "b"), START), 25), START)
    admitted(backend, check(5, 10, "a"), START)
    reply = backend.reserve(ask(check(6, 10, "a"), check(0, 10, "b")), START)

    assert not reply.admitted
    assert [(state.fits, state.retry_after) for state in reply.states] == [(False, 61.0), (True, 0.0)]


def test_what_costs_nothing_sees_no_more_than_nothing_left(backend: Backend) -> None:
    """
    In debt, what remains is 0 and not less.
    """
    backend.settle(settlement(*admitted(backend, check(1, 10), START), 25), START)

    assert backend.reserve(ask(check(0, 10)), START).states[0].remaining == 0


def test_a_period_that_settings_have_moved_is_over_now_and_not_before(backend: Backend) -> None:
    """
    What was counted until an end that has passed is empty now: no wait lies in the past.
    """
    begin = int(START) * 1_000_000
    for second, end in ((57, 60), (61, 70)):
        params = (begin, begin + end * 1_000_000, begin + 120_000_000)
        one = check(1, 10, params=params, algorithm="calendar")
        state = backend.reserve(ask(one), START + second).states[0]

    assert (state.remaining, state.reset) == (8, 0.0)
    assert backend.peek(ask(one), START + second).states[0].reset == 0.0


def test_a_period_at_whose_end_was_settled_is_over(backend: Backend) -> None:
    """
    Even where settings then move that end: the next period has begun.
    """
    begin = int(START) * 1_000_000
    old, new = ((begin, begin + end * 1_000_000, begin + 120_000_000) for end in (60, 70))
    late = admitted(backend, check(4, 10, params=old, algorithm="calendar"), START + 50)
    backend.settle(settlement(*late, 6), START + 60)

    assert used(backend, START + 61, params=new, algorithm="calendar") == 0


def test_a_bucket_that_has_run_empty_begins_anew(backend: Backend) -> None:
    """
    What leaked before the next charge has no share in it.
    """
    bucket: dict[str, Any] = {"params": (7_000_000, 12), "algorithm": "gcra"}
    admitted(backend, check(5, 12, **bucket), START)
    admitted(backend, check(2, 12, **bucket), START + 6)

    assert used(backend, START + 6, **bucket) == 2


def test_a_bucket_of_another_length_leaks_at_its_own_rate(backend: Backend) -> None:
    """
    What is left goes on at the new rate, from the first charge under the new settings.
    """
    admitted(backend, check(4, 12, params=(7_000_000, 12), algorithm="gcra"), START)
    _, reply = admitted(backend, check(1, 12, params=(9_000_000, 12), algorithm="gcra"), START + 1)

    assert (reply.states[0].remaining, reply.states[0].reset) == (8, 3.0)
