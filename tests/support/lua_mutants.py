"""
Mistakes that somebody could make in the Lua, each as a change of one place; the tests must notice all that matter.

A mutant names its file, its function, and a text that stands there exactly once. One that no test can notice says why it
is the same program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["MUTANTS", "Mutant"]

PACKAGES = {"redis.lua": "tokenbudget_mw.backends", "redis_long.lua": "tokenbudget_mw.backends"}
WINDOWS = "tokenbudget_mw.rules.windows"


class MutantError(Exception):
    """
    The text of a mutant does not stand where it should: the Lua has changed, and the mutant must follow.
    """


@dataclass(frozen=True)
class Mutant:
    """
    One mistake.

    Attributes:
        file: Name of the Lua file.

        function: Its function, as the file names it; empty for what stands outside of functions.

        old: What stands there, once.

        new: What stands there instead.

        equivalent: Why no answer can differ; empty where one can.
    """

    file: str
    function: str
    old: str
    new: str
    equivalent: str = ""

    @property
    def name(self) -> str:
        return f"{self.file.removesuffix('.lua')}:{self.function}: {_line(self.old)} -> {_line(self.new) or 'nothing'}"

    def text(self) -> str:
        """
        Return the whole file with the mistake in it.
        """
        source = files(PACKAGES.get(self.file, WINDOWS)).joinpath(self.file).read_text(encoding="utf-8")
        begin, end = self._where(source)
        if source.count(self.old, begin, end) != 1:
            raise MutantError(f"{self.name}: the old text stands {source.count(self.old, begin, end)} times in there")
        at = source.index(self.old, begin, end)
        return source[:at] + self.new + source[at + len(self.old) :]

    def _where(self, source: str) -> tuple[int, int]:
        if not self.function:
            return 0, len(source)
        header = re.search(rf"^(local )?function {re.escape(self.function)}\(", source, re.MULTILINE)
        if header is None:
            raise MutantError(f"{self.name}: there is no such function")
        return header.start(), source.index("\nend\n", header.start())


def _line(text: str) -> str:
    return " ".join(text.split())


def _of(file: str, *changes: tuple[str, ...]) -> list[Mutant]:
    return [Mutant(file, *change) for change in changes]


THE_LONG_WAY = "what fits exactly goes the long way then, which answers the same"
BELOW_EMPTY = "a level below 0 is as empty as 0, and the next charge starts anew"

STRICT_LOG = _of(
    "strict_log.lua",
    ("log.peek", "state[i] <= gone", "state[i] < gone"),
    ("log.peek", "params[1] * params[2]", "params[1] * (params[2] - 1)"),
    ("log.peek", "(math.floor(now / params[1]) + 1)", "math.floor(now / params[1])"),
    ("log.peek", "used = used - state[i + 1]", "used = used"),
    ("log.take", "used > most", "used >= most", THE_LONG_WAY),
    ("log.take", "used > most", "false"),
    ("log.take", "state[2] <= now - length", "state[2] < now - length"),
    ("log.take", "now >= slot", "now > slot"),
    (
        "log.take",
        "now < slot - params[1]",
        "now <= slot - params[1]",
        "at the first microsecond of a slot the long way answers, and answers the same",
    ),
    ("log.take", "state[n] + cost", "state[n]"),
    ("log.take", "slot + length", "slot + length - params[1]"),
    ("log.charge", "amount > 0 and ", ""),
    ("log.charge", "forget(state, gone)", ""),
    (
        "log.charge",
        "slot > gone",
        "slot >= gone",
        "an entry whose end has left counts nowhere: readers leave it out, and the next charge forgets it",
    ),
    ("forget", "state[dead + 2] <= gone", "state[dead + 2] < gone"),
    ("forget", "state[1] = state[1] - state[dead + 3]", "state[1] = state[1]"),
    ("forget", "dead = dead + 2", "dead = dead + 4"),
    ("add", "state[i + 1] + amount ~= 0", "true"),
    ("place", "state[i - 2] >= slot", "state[i - 2] > slot"),
    ("log.give_back", "-math.min(amount, state[i + 1])", "-amount"),
    ("log.give_back", "if state[i] == slot then", "if state[i] then"),
    ("log.credit", "math.min(amount, state[#state])", "state[#state]"),
    (
        "log.credit",
        "math.min(amount, state[#state])\n    add(state, state[#state - 1], -part)",
        "math.min(amount, state[3])\n    add(state, state[2], -part)",
    ),
    ("log.credit", "amount = amount - part", "amount = 0"),
    ("log.frees_at", "excess <= 0", "excess < 0"),
    ("log.frees_at", "state[i] > now - length", "state[i] >= now - length"),
    ("log.frees_at", "state[i] + length", "state[i] + length - 1"),
    (
        "log.empty_at",
        "math.max(now, state[#state - 1] + params[1] * params[2])",
        "state[#state - 1] + params[1] * params[2]",
    ),
    ("log.lifetime", "(params[2] + 1)", "params[2]"),
)

CALENDAR = _of(
    "calendar.lua",
    ("period", "now >= last", "now > last"),
    ("period", "first, last = last, params[3]", "first, last = last, last"),
    ("period", "state[2] >= first", "state[2] > first"),
    ("period", "state[2] >= first", "true"),
    ("calendar.peek", "state[2] == first and state[1] or 0", "state[1]"),
    ("calendar.take", "first ~= params[1] or ", ""),
    ("calendar.take", "now >= params[2]", "now > params[2]"),
    ("calendar.take", "used > most", "used >= most", THE_LONG_WAY),
    ("calendar.take", "state[1] > 0 and math.max(now, state[3]) or now", "math.max(now, state[3])"),
    ("calendar.take", "math.max(now, state[3])", "state[3]"),
    ("calendar.charge", "= 0, first, last", "= state[1], first, last"),
    ("calendar.charge", "if slot == first then", "if true then"),
    ("calendar.give_back", "if state[2] == slot then", "if true then"),
    ("calendar.give_back", "math.min(amount, state[1])", "amount"),
    ("calendar.credit", "math.max(0, state[1] - amount)", "state[1] - amount"),
    ("calendar.frees_at", "math.max(now, last)", "last"),
    ("calendar.frees_at", "excess <= 0", "excess < 0"),
    ("calendar.lifetime", "params[3] - now", "params[2] - now"),
)

CONCURRENT = _of(
    "concurrent.lua",
    ("", "releases = true", "releases = false"),
    ("concurrent.take", "used > most", "used >= most", THE_LONG_WAY),
    ("concurrent.give_back", "math.max(0, state[1] - amount)", "state[1] - amount"),
    ("concurrent.credit", "math.max(0, state[1] - amount)", "state[1] - amount"),
    ("concurrent.frees_at", "excess > 0", "excess >= 0", "it is only asked where something is too much"),
    ("concurrent.empty_at", "state[1] > 0", "state[1] >= 0"),
)

GCRA = _of(
    "gcra.lua",
    ("left", "math.max(0, state[1] - math.floor(", "math.max(-99, state[1] - math.floor("),
    ("left", "math.floor(", "math.ceil("),
    ("left", "(state[4] / state[3])", "state[4] / state[3]"),
    ("leaked_at", "while math.floor(moment * rate) < amount do", "while false do"),
    ("leaked_at", "math.floor((moment - 1) * rate) >= amount", "false"),
    ("gcra.take", "used == 0 or ", ""),
    ("gcra.take", "used > most", "used >= most", THE_LONG_WAY),
    ("gcra.take", " or state[3] ~= params[1]", ""),
    ("gcra.take", " or state[4] ~= params[2]", ""),
    ("gcra.charge", "rest == 0 or ", ""),
    ("gcra.charge", "= rest, now,", "= 0, now,"),
    ("gcra.charge", "now - slot < params[1]", "now - slot <= params[1]"),
    ("gcra.give_back", "slot >= state[2]", "slot > state[2]"),
    ("gcra.give_back", "math.min(amount, state[1])", "amount", BELOW_EMPTY),
    ("gcra.credit", "math.max(0, state[1] - amount)", "state[1] - amount", BELOW_EMPTY),
    ("gcra.frees_at", "state[1] - left(state, now) + excess", "excess"),
    ("gcra.lifetime", "state and gcra.empty_at(state, params, now) - now or 0", "0"),
)

SHORT_WAY = _of(
    "redis.lua",
    ("are_whole", "n >= 0 and ", ""),
    ("are_whole", " and n <= MAX", ""),
    ("are_whole", " and n % 1 == 0", ""),
    ("outlive", "if stored[4] < moment + ttl then", "if false then"),
    ("reserve_quickly", "max(now, stored[1])", "now"),
    ("reserve_quickly", "values[2] or ", ""),
    ("reserve_quickly", "moment >= stored[2]", "moment > stored[2]"),
    ("reserve_quickly", "(values[3] and i == holder)", "false"),
    ("reserve_quickly", "if holder > charged and run('HEXISTS', KEYS[holder], 'b') == 1 then", "if false then"),
    ("reserve_quickly", "stored[3] >= MAX_OPEN", "stored[3] > MAX_OPEN"),
    (
        "reserve_quickly",
        "found and call[at + 7]",
        "found",
        "a shadow check that fits is charged on either way; one that does not sends the request the long way",
    ),
    (
        "reserve_quickly",
        "need == 0 and MAX or cap - need",
        "cap - need",
        "what costs nothing and finds the limit passed goes the long way, where it fits",
    ),
    ("reserve_quickly", "need == 0 and MAX or cap - need", "cap - cost"),
    (
        "reserve_quickly",
        "holds[n + 3], holds[n + 4] = window, name, slot, cost",
        "holds[n + 3], holds[n + 4] = window, name, slot, 0",
    ),
    ("reserve_quickly", "max(counter[4], algorithm.lifetime(params, moment) + lease)", "lease"),
    ("reserve_quickly", "max(0, cap - used - cost)", "cap - used - cost"),
    ("reserve_quickly", "empty_at - now", "empty_at - moment"),
    ("reserve_quickly", "stored[1] = moment\n", ""),
    ("reserve_quickly", "stored[2] == 0 and holds[1] or math.min(stored[2], holds[1])", "holds[1]"),
    ("reserve_quickly", "stored[3] = stored[3] + 1", ""),
)

LONG_WAY = _of(
    "redis_long.lua",
    ("load", "max(now, stored[1])", "now"),
    ("load", "#stored < FIRST", "false"),
    ("state_of", "for i = 1, #tail do", "for i = 2, #tail do"),
    ("state_of", "{head[1], head[2], head[3]}", "head"),
    ("store_state", "n > HEAD", "n >= HEAD", "a tail of nothing is put back as nothing"),
    ("store_state", "for i = 4, n - 2 do", "for i = 4, n - 3 do"),
    ("store_state", "if stored[at + 2] == 1 then", "if false then"),
    ("store_state", "stored[at + 1], stored[at + 2] = state, 0", "stored[at + 1] = state"),
    ("give_back", "with_requests or not is_kept(window)", "true"),
    ("give_back", "counter.dirty[window] = true", ""),
    ("finish", "counter.stored[3] = counter.stored[3] - 1", ""),
    ("finish", "counter.lease, counter.ended = nil, ends", ""),
    ("finish", "remembered < MANY and ", ""),
    ("finish", "table.insert(counter.writes, ends)", "table.insert(counter.writes, '0')"),
    ("sweep", "held[1] <= counter.moment", "held[1] < counter.moment"),
    ("sweep", " and #ended < BATCH", ""),
    ("sweep", "due == 0 or held[1] < due", "due == 0"),
    ("sweep", "tonumber(all[i + 1]) + DAY < counter.moment", "false"),
    ("sweep", "counter.stored[2] = due", ""),
    ("sweep", "counter.stored[1] = counter.moment", ""),
    ("save", "if #counter.drops > 0 then", "if false then"),
    ("save", "ends < counter.moment + counter.ttl or ends == 0", "ends == 0"),
    ("save", "run('PEXPIRE'", "run('PTTL', counter.key) local _ = ('PEXPIRE'"),
    ("answer", "check.need <= check.cap", "check.need < check.cap"),
    ("answer", "used + check.need - check.cap", "used + check.cost - check.cap"),
    ("answer", "max(0, check.cap - used)", "check.cap - used"),
    ("look", "check.need == 0 or ", ""),
    ("look", "<= check.cap", "< check.cap"),
    ("charge", "counter.dirty[check.window] = true", ""),
    ("charge", "+ lease)", ")"),
    ("repeated", "fitted or charged >= 0", "fitted"),
    ("hold", "stored[2] == 0 and ends or math.min(stored[2], ends)", "ends"),
    ("hold", "stored[3] = stored[3] + 1", ""),
    ("hold", "if lease > 0 then", "if true then"),
    ("turned_away", "counters[holder].moment < bar[1]", "counters[holder].moment <= bar[1]"),
    ("turned_away", "check.is_booked and ", ""),
    ("turned_away", "i - 1", "i"),
    ("are_crowded", ">= MAX_OPEN", "> MAX_OPEN"),
    ("reserve", "admitted = admitted and (fitted or not check.enforced)", "admitted = fitted or not check.enforced"),
    ("reserve", "shadowed = shadowed and (fitted or check.enforced)", "shadowed = fitted or check.enforced"),
    (
        "reserve",
        "if is_charged and admitted and (shadowed or check.enforced) then",
        "if is_charged and (fitted or admitted) then",
    ),
    ("reserve", "if is_charged and admitted then", "if is_charged then"),
    ("reserve", "used + check.cost, true, slot", "used, true, slot"),
    ("move", " and not counter.is_new", ""),
    ("move", "is_kept(check.window)", "false"),
    ("move", "algorithm.releases and -held or check.actual - held", "check.actual - held"),
    ("move", "elseif more < 0 then", "elseif false then"),
    ("move", "counter.ttl = max(counter.ttl, algorithm.lifetime(check.params, counter.moment, state))", ""),
    ("settle", "counter.lease or counter.ended or counter.is_new", "true"),
    ("settle", "counter.lease or counter.ended or counter.is_new", "counter.lease or counter.ended"),
    ("settle", "counter.lease or counter.ended or counter.is_new", "counter.lease or counter.is_new"),
    ("settle", "counter.lease and 'l' .. id or 'e' .. id", "'l' .. id"),
    ("settle", "(counter.lease and 1 or 0)", "1"),
    ("settle", "counter.stored[1] = counter.moment", ""),
    ("abandon", "give_back(counter, counter.lease, true)", "give_back(counter, counter.lease)"),
    ("abandon", "counter.stored[3] = counter.stored[3] - 1", ""),
    ("credit", "if place(counter.stored, check.window) then", "if true then"),
    ("renew", "ends > counter.lease[1]", "true"),
    ("renew", "counter.ttl = lease", ""),
    ("seed", "not place(counter.stored, check.window) and ", ""),
    ("seed", " and not counter.dirty[check.window]", ""),
    ("bar", "{counter.moment + lease, id}", "{counter.moment, id}"),
    ("bar", "counter.ttl = lease", ""),
)

MUTANTS = (*STRICT_LOG, *CALENDAR, *CONCURRENT, *GCRA, *SHORT_WAY, *LONG_WAY)
