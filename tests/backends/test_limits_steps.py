"""
What holds where a storage takes one counter at a time: programs of several processes, in every order that matters.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from counter_table import Table, finish, looked
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.backends.limits_storage.places import FLIGHT_US
from tokenbudget_mw.backends.limits_storage.steps import Add, Program, Step, Steps
from tokenbudget_mw.testing.asks import START, ask, check, in_flight, seed, settlement

if TYPE_CHECKING:
    from tokenbudget_mw.values import Check, Reply

FLIGHT = FLIGHT_US / 1_000_000


def test_of_two_that_both_saw_the_last_one_is_admitted() -> None:
    """
    The one that charges second finds the window spent, is refused, and leaves nothing behind on any limit.
    """
    table = Table()
    slow = Steps().reserve(ask(check(1, 100, "requests:60"), check(6, 10)), START)
    step = looked(table, slow)
    fast = table.run(Steps().reserve(ask(check(6, 10)), START))
    late: Reply = finish(table, slow, step)

    assert fast.admitted
    assert not late.admitted
    assert [state.fits for state in late.states] == [True, False]
    assert [state.slot for state in late.states] == [-1, -1]
    assert late.states[1].remaining == 4
    assert late.states[1].retry_after == 70.0
    assert table.used() == 6
    assert table.used(window="requests:60") == 0


def test_a_charge_that_came_late_into_the_slot_before_is_seen() -> None:
    """
    A process that read its clock just before a slot ended may charge after one of the next slot has looked.
    """
    table = Table()
    border = START + 10  # slots of a minute are 15 s long
    after = Steps().reserve(ask(check(6, 10)), border)
    step = looked(table, after)
    before = table.run(Steps().reserve(ask(check(6, 10)), border - 0.001))

    assert before.admitted
    assert not finish(table, after, step).admitted
    assert table.used(border) == 6


def test_a_lost_race_of_shadow_limits_refuses_nobody() -> None:
    """
    A shadow limit may count beyond its amount what was in flight at once.
    """
    table = Table()
    asked = (check(0, 10), check(6, 10, "shadow:60", enforced=False))
    slow = Steps().reserve(ask(*asked), START)
    step = looked(table, slow)
    table.run(Steps().reserve(ask(*asked), START))

    assert finish(table, slow, step).admitted
    assert table.used(window="shadow:60") == 12


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_never_more_than_the_cap_in_any_window_whatever_the_order(data: st.DataObject) -> None:
    """
    Processes take turns step by step, at moments that only grow: what is admitted never passes the cap in a window.
    """
    table, cap = Table(), 10
    processes = [Steps() for _ in range(3)]
    moment = START
    admitted: list[tuple[float, int]] = []
    running: list[tuple[Program[Reply], Step, float, int]] = []
    for _ in range(data.draw(st.integers(1, 25))):
        if running and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(running) - 1))
            program, step, began, cost = running.pop(at)
            try:
                running.append((program, program.send(table.do(step)), began, cost))
            except StopIteration as done:
                if done.value.admitted:
                    admitted.append((began, cost))
            continue
        # nobody is slower than a slot
        oldest = min((began for _, _, began, _ in running), default=moment)
        moment = min(moment + data.draw(st.sampled_from([0.0, 0.001, 4.0, 9.999, 15.0, 44.0, 60.0])), oldest + 14.0)
        cost = data.draw(st.integers(1, cap))
        program = data.draw(st.sampled_from(processes)).reserve(ask(check(cost, cap)), moment)
        running.append((program, next(program), moment, cost))
    for program, step, began, cost in running:
        if finish(table, program, step).admitted:
            admitted.append((began, cost))

    for until, _ in admitted:
        assert sum(cost for began, cost in admitted if until - 60 < began <= until) <= cap


@pytest.mark.parametrize("failing", range(3))
def test_a_charge_of_unknown_outcome_counts_and_the_others_are_given_back(failing: int) -> None:
    """
    Where a charge fails, those before it are given back by the next call; it is not, because it may not have been made.
    """
    table, process = Table(), Steps()
    checks = [check(2, 10, f"tokens:{name}") for name in ("a", "b", "c")]
    charges = iter(range(3))
    table.fails = lambda step: isinstance(step, Add) and next(charges) == failing
    with pytest.raises(OSError, match="gone"):
        table.run(process.reserve(ask(*checks), START))
    table.fails = lambda _: False
    table.run(process.peek(ask(check()), START))

    assert [table.used(window=one.window) for one in checks] == [0, 0, 0]
    assert all(count >= 0 for count in table.counters.values())


def test_a_program_that_is_given_up_gives_back_what_it_took() -> None:
    """
    A cancelled request's charges are taken off by the process's next call.
    """
    table, process = Table(), Steps()
    program = process.reserve(ask(check(2, 10, "tokens:a"), check(2, 10, "tokens:b")), START)
    program.send(table.do(looked(table, program)))
    program.close()

    assert table.used(window="tokens:a") == 2
    table.run(process.peek(ask(), START))
    assert table.used(window="tokens:a") == 0


def test_a_settlement_that_failed_goes_on_and_is_never_made_twice() -> None:
    """
    The second call has nothing to settle; what could not be told is told with it.
    """
    table, process = Table(), Steps()
    asked = ask(check(8, 10, "tokens:a"), check(8, 10, "tokens:b"), check(1, 10, "tokens:c"))
    reply = table.run(process.reserve(asked, START))
    settled = settlement(asked, reply, 3, 3, 5)
    failures = iter([True])
    table.fails = lambda step: isinstance(step, Add) and next(failures, False)
    with pytest.raises(OSError, match="gone"):
        table.run(process.settle(settled, START))
    answer = table.run(process.settle(settled, START))

    assert answer is False
    # the first move has an unknown outcome, and is not repeated
    assert [table.used(window=f"tokens:{name}") for name in "abc"] == [8, 3, 5]


def test_another_process_cannot_settle() -> None:
    """
    A reservation is known where it was made; elsewhere nothing moves.
    """
    table = Table()
    asked = ask(check(8, 10))
    reply = table.run(Steps().reserve(asked, START))

    assert table.run(Steps().settle(settlement(asked, reply, 3), START)) is False
    assert table.used() == 8


def test_what_a_dead_process_holds_leaves_with_its_slot() -> None:
    """
    Nobody gives back for it: tokens leave with the window, calls in flight when their lease has ended, two slots later.
    """
    table = Table()
    table.run(Steps().reserve(ask(check(8, 10), in_flight(1), lease=600.0), START))
    asked = ask(in_flight(1), lease=600.0)
    border = FLIGHT - START % FLIGHT

    assert not table.run(Steps().peek(asked, START + 600)).admitted
    assert not table.run(Steps().peek(asked, START + border + FLIGHT - 1)).admitted
    assert table.run(Steps().peek(asked, START + border + FLIGHT)).admitted
    assert table.used(START + 74) == 0


def test_a_heartbeat_keeps_a_long_call_counted_and_its_end_frees_it() -> None:
    """
    Renewing moves a call in flight to the slot of now; settling takes it off there.
    """
    table, process = Table(), Steps()
    asked = ask(check(5, 10), in_flight(1), lease=600.0)
    reply = table.run(process.reserve(asked, START))
    settled = settlement(asked, reply, 5, 1)
    for beat in range(1, 20):
        assert table.run(process.renew(settled.reservation, 600.0, START + beat * 300))
    later = START + 20 * 300
    other = ask(in_flight(1), lease=600.0)

    assert not table.run(Steps().peek(other, later)).admitted
    assert table.run(process.settle(settled, later))
    assert table.run(Steps().peek(other, later)).admitted
    assert not table.run(process.renew(settled.reservation, 600.0, later))
    assert set(table.counters.values()) <= {0, 5}


@pytest.mark.parametrize("end", ["settled", "expired", "renewed"])
@pytest.mark.parametrize("one", [check(4, 10), in_flight(4)])
def test_what_was_forgotten_is_not_given_back_from_what_came_after(one: Check, end: str) -> None:
    """
    Nor counted again by a heartbeat: all that counted was taken off while the reservation was open.
    """
    table, process = Table(), Steps()
    window: dict[str, Any] = {"window": one.window, "params": one.params, "algorithm": one.algorithm}
    later = START + (FLIGHT if one.window == "concurrent" else 2)
    first, second = ask(one, lease=1.0 if end == "expired" else 2 * FLIGHT), ask(one, lease=2 * FLIGHT)
    done = settlement(first, table.run(process.reserve(first, START)), 0)
    table.run(process.credit(ask(check(10**6, 10, **window)), START))
    table.run(process.reserve(second, START))
    if end == "settled":
        assert table.run(process.settle(done, START))
    elif end == "renewed":
        assert table.run(process.renew(done.reservation, 2 * FLIGHT, later))
    table.run(process.reserve(ask(check(0, 10, **window)), later))

    assert table.used(later, **window) == one.cost


def test_a_heartbeat_never_shortens() -> None:
    """
    A shorter lease than the one that runs changes nothing.
    """
    table, process = Table(), Steps()
    asked = ask(check(5, 10), lease=600.0)
    reply = table.run(process.reserve(asked, START))
    table.run(process.renew(settlement(asked, reply).reservation, 1.0, START))

    table.run(process.peek(ask(), START + 50))
    assert table.used(START + 50) == 5


def test_a_forked_child_gives_back_nothing_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Both know the reservation, and only one may end it.
    """
    table, process = Table(), Steps()
    asked = ask(check(8, 10), lease=20.0)
    reply = table.run(process.reserve(asked, START))
    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert table.run(process.settle(settlement(asked, reply, 0), START)) is False
    table.run(process.peek(ask(), START + 21))
    assert table.used(START + 21) == 8


def test_gcra_counts_like_a_trailing_window() -> None:
    """
    It does not smooth, and never lets through more than its amount.
    """
    table = Table()
    options: dict[str, Any] = {"algorithm": "gcra", "params": (60_000_000, 10), "window": "tokens:60/gcra"}
    process = Steps()

    assert table.run(process.reserve(ask(check(10, 10, **options)), START)).admitted
    assert not table.run(process.reserve(ask(check(1, 10, **options)), START + 59.999)).admitted
    assert table.run(process.reserve(ask(check(10, 10, **options)), START + 75)).admitted


def test_no_counter_has_more_open_reservations_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What waits to be settled is memory of this process; what ends makes room.
    """
    monkeypatch.setattr("tokenbudget_mw.backends.limits_storage.steps.MAX_OPEN", 2)
    table, process = Table(), Steps()
    asks = [ask(check(1, 100), lease=20.0) for _ in range(5)]
    replies = [table.run(process.reserve(one, START)) for one in asks[:3]]
    table.run(process.settle(settlement(asks[0], replies[0]), START))

    assert [reply.barred for reply in replies] == ["", "", "crowded"]
    assert table.run(process.reserve(asks[3], START)).admitted
    assert not table.run(process.reserve(asks[4], START + 19)).admitted
    assert table.run(process.reserve(asks[4], START + 20)).admitted


# -- what the books know, and who is barred ---------------------------------------------------------------------------

MONTH: dict[str, Any] = {
    "algorithm": "calendar",
    "window": "money:month",
    "params": (int(START) * 1_000_000, (int(START) + 86_400) * 1_000_000, (int(START) + 172_800) * 1_000_000),
}


def test_a_booked_window_is_seeded_before_it_answers() -> None:
    """
    A storage that has lost its memory asks, once, what the books know; then it goes on counting.
    """
    table, process = Table(), Steps()
    unknown = table.run(process.reserve(ask(check(), check(3, 10, is_booked=True, **MONTH)), START))
    table.run(process.seed("acme", [seed((MONTH["params"][0], 8), of=check(**MONTH))], START))
    over = table.run(process.reserve(ask(check(), check(3, 10, is_booked=True, **MONTH)), START))
    fitting = table.run(process.reserve(ask(check(), check(2, 10, is_booked=True, **MONTH)), START))

    assert (unknown.admitted, unknown.unseeded, unknown.states) == (False, (1,), ())
    assert not over.admitted
    assert fitting.admitted
    assert table.used(**MONTH) == 10


def test_a_second_seed_changes_nothing() -> None:
    """
    Of several processes that ask the books at once, one seeds.
    """
    table = Table()
    one = seed((MONTH["params"][0], 8), of=check(**MONTH))
    for _ in range(3):
        table.run(Steps().seed("acme", [one], START))

    assert table.used(**MONTH) == 8


def test_a_charge_while_a_window_is_seeded_does_not_end_that() -> None:
    """
    Between the mark and the seed a request may be admitted that would not have been; both count afterwards.
    """
    table = Table()
    seeding = Steps().seed("acme", [seed((MONTH["params"][0], 8), of=check(**MONTH))], START)
    step = looked(table, seeding)
    step = seeding.send(table.do(step))
    early = table.run(Steps().reserve(ask(check(6, 10, is_booked=True, **MONTH)), START))
    finish(table, seeding, step)

    assert early.admitted
    assert table.used(**MONTH) == 14


def test_a_window_that_was_charged_is_known_even_where_its_mark_is_lost() -> None:
    """
    What it counts is part of what the books say, and is not counted twice.
    """
    table = Table()
    table.run(Steps().reserve(ask(check(3, 10, **MONTH)), START))
    table.run(Steps().seed("acme", [seed((MONTH["params"][0], 8), of=check(**MONTH))], START))

    assert table.used(**MONTH) == 3
    assert table.run(Steps().reserve(ask(check(7, 10, is_booked=True, **MONTH)), START)).admitted


def test_seeds_of_fine_slots_count_in_the_coarse_slot_that_holds_them() -> None:
    """
    Charges leave with their slots, and those that have left already are not counted.
    """
    table = Table()
    ends = [int(START) * 1_000_000 - second * 1_000_000 for second in (0, 20, 50, 100)]
    table.run(Steps().seed("acme", [seed(*[(end, 1) for end in ends], of=check())], START))

    assert table.used() == 3
    assert table.used(START + 25) == 2
    assert table.used(START + 100) == 0


@pytest.mark.parametrize(("status", "told"), [("revoked", "revoked"), ("suspended", "suspended"), ("odd", "barred")])
def test_a_barred_holder_is_refused_until_it_is_admitted_again(status: str, told: str) -> None:
    """
    Nothing is charged meanwhile; a reason that has no number is told as ``barred``.
    """
    table, process = Table(), Steps()
    asked = [ask(check(), holder="key=k1") for _ in range(2)]
    table.run(process.bar("acme", "key=k1", status, 60.0, START))
    refused = table.run(process.reserve(asked[0], START))
    table.run(process.bar("acme", "key=k1", "", 0.0, START))

    assert (refused.admitted, refused.barred, refused.states) == (False, told, ())
    assert table.run(process.reserve(asked[1], START)).admitted
    assert table.used() == 1
