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

PACKAGES = dict.fromkeys(("quick.lua", "counters.lua", "long.lua"), "tokenbudget_mw.backends.redis")
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
GONE = "an entry that has left counts nowhere, however much more is added to it; and none is made on the quick way"
LEFT_OUT = "an entry whose end has left counts nowhere: readers leave it out, and the next charge forgets it"
NOTHING_ASKED = "what asks for nothing fits, and is told no wait"
BELOW_EMPTY = "a level below 0 is as empty as 0, and the next charge starts anew"

STRICT_LOG = _of(
    "strict_log.lua",
    ("log.peek", "state[i] <= gone", "state[i] < gone"),
    ("log.peek", "params[1] * params[2]", "params[1] * (params[2] - 1)"),
    ("log.peek", "(math.floor(now / params[1]) + 1)", "math.floor(now / params[1])"),
    ("log.peek", "used = used - state[i + 1]", "used = used"),
    ("log.charge", "amount > 0 and ", ""),
    ("log.charge", "forget(state, gone)", ""),
    ("log.charge", "slot > gone", "slot >= gone", LEFT_OUT),
    ("forget", "state[dead + 2] <= gone", "state[dead + 2] < gone", LEFT_OUT),
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
    ("period", "now < math.min(first, state[3])", "false"),
    ("period", "now < math.min(first, state[3])", "now < first"),
    ("calendar.peek", "state[2] == first and state[1] or 0", "state[1]"),
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
    ("leaked_at", "return state[2] + FAR", ""),
    ("gcra.charge", "rest == 0 or ", ""),
    ("gcra.charge", "= rest, now,", "= 0, now,"),
    ("gcra.charge", "now - slot < params[1]", "now - slot <= params[1]"),
    ("gcra.give_back", "slot >= state[2]", "slot > state[2]"),
    ("gcra.give_back", "math.min(amount, state[1])", "amount", BELOW_EMPTY),
    ("gcra.credit", "math.max(0, state[1] - amount)", "state[1] - amount", BELOW_EMPTY),
    ("gcra.frees_at", "state[1] - left(state, now) + excess", "excess"),
    ("gcra.lifetime", "state and gcra.empty_at(state, params, now) - now or 0", "0"),
)

QUICK_LOG = [
    *_of(
        "strict_log_take.lua",
        ("", "if first > gone and moment < last", "if first >= gone and moment < last"),
        ("", "moment < last and", "moment <= last and"),
        ("", "moment >= last - first_param and size > 1", "size > 1"),
        ("", "if used <= most then", "if used < most then", THE_LONG_WAY),
        ("", "if used <= most then", "if true then"),
        ("", "used + cost, n[o + 5] + cost\n      slot", "used + cost, n[o + 5]\n      slot"),
        ("", "(math.floor(moment / first_param) + 1) * first_param", "math.floor(moment / first_param) * first_param"),
        ("", "if size > 1 and new < last then", "if false then"),
        ("", "last <= gone then", "last < gone then"),
        ("", "slot, empty_at = new, moment", "slot, empty_at = new, moment + length"),
        ("", "tails[key][o] = ''", "", "the tail of a short state is never read"),
        ("", "while first <= gone do", "while first < gone do"),
        ("", "used, size, at = used - amount, size - 2, at + 7 + width", "used, at = used - amount, at + 7 + width"),
        ("", "used, size, at = used - amount, size - 2, at + 7 + width", "size, at = size - 2, at + 7 + width"),
        ("", "if used > most then", "if used >= most then", THE_LONG_WAY),
        ("", "if used > most then", "if false then"),
        ("", "slot, empty_at = new, last + length", "slot, empty_at = new, new + length"),
        ("", "tail = sub(tail, 1, 1) .. sub(tail, at)", ""),
        (
            "",
            "if new == last then",
            "if false then",
            "two entries of one slot count and leave as one; it takes a change of slots to get there",
        ),
        ("", "n[o + 5] >= 256 ^ width", "false"),
        ("", "pack(format, last, n[o + 5])", "pack(format, new, n[o + 5])"),
        ("", "size + 2, new, cost", "size, new, cost"),
        ("", "size, used + cost, first", "size, n[o + 2] + cost, first"),
        ("", "lifetime, used = length + first_param", "lifetime, used = 0"),
    ),
    *_of(
        "strict_log_look.lua",
        ("", "last > gone", "last >= gone"),
        ("", "n[o + 2], last + length", "n[o + 2], last"),
        ("", "while first <= gone do", "while first < gone do"),
        ("", "used, at = used - amount", "used, at = used"),
        ("", "if need > 0 and excess > 0 then", "if excess > 0 then", NOTHING_ASKED),
        ("", "excess <= 0 then", "excess < 0 then"),
        ("", "frees_at = first + length", "frees_at = first + length - 1"),
        ("", "excess = excess - amount", "excess = excess - 1"),
    ),
    *_of(
        "strict_log_move.lua",
        ("", "(more > 0 and slot <= moment - first_param * second_param)", "false", GONE),
        ("", "slot <= moment - first_param", "slot < moment - first_param", GONE),
        ("", "is_moved = more < 0 -- forgotten", "is_moved = true"),
        ("", "is_moved = n[o + 5] + more > 0", "is_moved = true"),
        ("", "n[o + 2] + more, n[o + 5] + more", "n[o + 2], n[o + 5] + more"),
        ("", "is_moved = more < 0\n  while", "is_moved = true\n  while"),
        ("", "is_moved = amount > 0 and amount < 256 ^ width", "is_moved = amount < 256 ^ width"),
        ("", "is_moved = amount > 0 and amount < 256 ^ width", "is_moved = amount > 0"),
        ("", "n[o + 2] = n[o + 2] + more\n        tails", "tails"),
        ("", "low = middle + 1", "low = middle + 2"),
    ),
]

QUICK_OTHERS = [
    *_of(
        "calendar_take.lua",
        ("", "n[o + 1] > 1 and n[o + 3] == first_param", "n[o + 1] > 1"),
        ("", "moment < second_param", "moment <= second_param"),
        ("", "used <= most", "used < most", THE_LONG_WAY),
        ("", "used <= most", "true"),
        ("", "used + cost > 0 and max(moment, n[o + 5]) or moment", "max(moment, n[o + 5])"),
        ("", "max(moment, n[o + 5])", "n[o + 5]"),
    ),
    *_of(
        "calendar_look.lua",
        ("", "moment >= last then", "moment > last then"),
        ("", "n[o + 1] > 1 and (n[o + 3] >= first or", "n[o + 1] > 1 and (true or"),
        ("", "moment < math.min(first, n[o + 5])", "false"),
        ("", "moment < math.min(first, n[o + 5])", "moment < first"),
        ("", "used, last = n[o + 2], n[o + 5]", "used = n[o + 2]"),
        ("", "if used > 0 then", "if used >= 0 then"),
    ),
    *_of(
        "calendar_move.lua",
        ("", "n[o + 1] > 1 and n[o + 3] == slot", "n[o + 1] > 1"),
        ("", "moment < second_param", "moment <= second_param"),
        ("", "max(0, n[o + 2] + more)", "n[o + 2] + more"),
        ("", "if is_moved and is_counted then", "if is_moved then"),
    ),
    *_of(
        "concurrent_take.lua",
        ("", "used <= most", "used < most", THE_LONG_WAY),
        ("", "used <= most", "true"),
        ("", "used + cost > 0 and moment + 1000000 or moment", "moment"),
    ),
    *_of("concurrent_look.lua", ("", "used > 0", "used >= 0"), ("", "moment + 1000000", "moment")),
    *_of("concurrent_move.lua", ("", "max(0, n[o + 2] - cost)", "n[o + 2] - cost"), ("", "- cost)", "+ more)")),
    *_of(
        "gcra_take.lua",
        ("", "used = max(0, level - math.floor(", "used = max(0, level - math.ceil("),
        ("", "if used <= most then", "if used < most then", THE_LONG_WAY),
        ("", "if used <= most then", "if true then"),
        ("", "used == 0 or ", ""),
        ("", "n[o + 4] ~= first_param or ", ""),
        ("", " or n[o + 5] ~= second_param", ""),
        ("", "level, since = used, moment", "level, since = 0, moment"),
        ("", "math.floor(leaked * rate) < level do", "false do"),
        ("", "leaked < far and leaked or far", "leaked"),
        ("", "math.floor((leaked - 1) * rate) >= level", "false"),
        ("", "if lifetime < empty_at - moment then", "if false then"),
    ),
    *_of(
        "gcra_look.lua",
        ("", "max(0, level - math.floor((moment", "max(0, level - math.ceil((moment"),
        ("", "math.floor(leaked * rate) < amount do", "false do"),
        ("", "leaked < far and leaked or far", "leaked"),
        ("", "math.floor((leaked - 1) * rate) >= amount", "false"),
        ("", "level - used + max(0, used + need - cap)", "max(0, used + need - cap)"),
    ),
    *_of(
        "gcra_move.lua",
        ("", "is_moved = more <= 0", "is_moved = true"),
        ("", "slot >= n[o + 3]", "slot > n[o + 3]"),
        ("", "slot >= n[o + 3]", "true"),
        ("", "max(0, n[o + 2] + more)", "n[o + 2] + more", BELOW_EMPTY),
    ),
]

QUICK_WAY = _of(
    "quick.lua",
    ("", "holder > charged and try('HEXISTS', KEYS[holder], 'b') ~= 0", "false"),
    ("", "not is_ours(s) or ", ""),
    ("is_ours", "version == VERSION and ", ""),
    ("is_ours", "names > 2 and ", ""),
    ("is_ours", " and byte(s, names) == 0", ""),
    ("", "not values[2] ~= is_reserved or ", ""),
    ("", "(values[3] and key == holder)", "false"),
    ("", "if now > n[4] then", "if true then"),
    ("", "n[4] >= n[5]", "n[4] > n[5]"),
    ("", "(is_reserved and lease > 0 and n[6] >= MAX_OPEN)", "false"),
    ("", "n[6] >= MAX_OPEN", "n[6] > MAX_OPEN"),
    ("", "byte(values[2], 9) ~= (places and #places or n[2])", "false"),
    ("", "cost < 0 or cost > MAX or second < 0 or third < 0 or third > MAX", "false"),
    ("", "second == 0 and MAX or third - second", "third - cost"),
    ("", "left > 0 and left or 0, empty_at - now, slot", "left, empty_at - now, slot"),
    ("", "left > 0 and left or 0, empty_at - now, slot", "left > 0 and left or 0, empty_at - moment, slot"),
    ("", "held[values + 3] = algorithm, slot, cost", "held[values + 3] = algorithm, slot, 0"),
    ("", "if lifetime > counter[6] then", "if false then"),
    ("", "if not is_moved then", "if false then"),
    ("", "counter[1] = {unpacked(counter[3], counter[9])}", ""),
    ("", "need == 0 or used + need <= cap", "used + need <= cap"),
    ("", "used + need <= cap, 0", "used + need < cap, 0"),
    ("", "need <= cap and frees_at - now or -1", "frees_at - now"),
    ("", "n[6] = n[6] - 1", ""),
    ("", "if n[7] < n[4] + ttl then", "if false then"),
    ("", "counter[6] + lease", "counter[6]"),
    ("", "n[6] = n[6] + 1", ""),
    ("", "if n[5] == 0 or holds[1] < n[5] then", "if true then"),
    ("", "if n[5] == 0 or holds[1] < n[5] then", "if n[5] == 0 then"),
    ("", "run('HDEL', KEYS[key], lease_field)", ""),
    ("name_at", "o < HEAD", "o <= HEAD"),
    ("places_of", "if not found[name] then", "if false then"),
)

COUNTERS = _of(
    "counters.lua",
    ("load", "max(now, counter.seen)", "now"),
    ("load", "counter.is_new = #counter.names == 0", "counter.is_new = false"),
    ("state_of", "for i = 2, size - 3, 2 do", "for i = 2, size - 5, 2 do"),
    ("packed_tail", "width = width + 2", "width = width"),
    ("packed_tail", "while width < 7 and state[i] >= 256 ^ width do", "while false do"),
    (
        "packed_tail",
        "width < 7 and ",
        "",
        "no amount is stored that takes more than seven bytes; in nine it is the same",
    ),
    ("packed_tail", "math.min(state[i + 1], WIDEST)", "math.min(state[i + 1], MAX)"),
    ("store_state", "elseif head and head[1] > 4 then", "elseif false then"),
    ("give_back", "with_requests or not is_kept(one.window)", "true"),
    ("give_back", "counter.dirty[one.window] = true", ""),
    ("finish", "counter.open = counter.open - 1", ""),
    ("finish", "counter.lease, counter.ended = nil, ends", ""),
    ("finish", "remembered < MANY and ", ""),
    ("sweep", "ends <= counter.moment", "ends < counter.moment"),
    ("sweep", " and #ended < BATCH", ""),
    ("sweep", "due == 0 or ends < due", "due == 0"),
    ("sweep", "tonumber(all[i + 1]) + DAY < counter.moment", "false"),
    ("sweep", "counter.due = due", ""),
    ("sweep", "counter.seen = counter.moment", ""),
    ("save", "if #drops > 0 then", "if false then"),
    ("save", "if counter.ends <= counter.moment + counter.ttl then", "if counter.ends == 0 then"),
    ("save", "run('PEXPIRE'", "run('PTTL', counter.key) local _ = ('PEXPIRE'"),
)

LONG_WAY = _of(
    "long.lua",
    ("answer", "check.need <= check.cap", "check.need < check.cap"),
    ("answer", "used + check.need - check.cap", "used + check.cost - check.cap"),
    ("answer", "max(0, check.cap - used)", "check.cap - used"),
    ("look", "check.need == 0 or ", ""),
    ("look", "<= check.cap", "< check.cap"),
    ("charge", "counter.dirty[check.window] = true", ""),
    ("charge", "+ lease)", ")"),
    ("repeated", "fitted or charged_at >= 0", "fitted"),
    ("hold", "counter.due == 0 and ends or math.min(counter.due, ends)", "ends"),
    ("hold", "counter.open = counter.open + 1", ""),
    ("hold", "if lease > 0 then", "if true then"),
    ("turned_away", "counters[holder].moment < bar.ends", "counters[holder].moment <= bar.ends"),
    ("turned_away", "check.is_booked and ", ""),
    ("turned_away", "i - 1", "i"),
    ("are_crowded", ">= MAX_OPEN", "> MAX_OPEN"),
    (
        "reserve",
        "admitted = admitted and (fitted or not check.is_enforced)",
        "admitted = fitted or not check.is_enforced",
    ),
    ("reserve", "shadowed = shadowed and (fitted or check.is_enforced)", "shadowed = fitted or check.is_enforced"),
    (
        "reserve",
        "if is_charged and admitted and (shadowed or check.is_enforced) then",
        "if is_charged and (fitted or admitted) then",
    ),
    ("reserve", "used + check.cost, true, slot", "used, true, slot"),
    ("reserve", "if #counters[i].holds > 0 then", "if is_charged and admitted then"),
    ("is_known", "for i = 1, charged do", "for i = 1, 1 do"),
    ("move", " and not counter.is_new", ""),
    ("has_it", "unpacked('<d', started) > lease", "true"),
    ("has_it", "unpacked('<d', started) > lease", "false"),
    ("move", "is_kept(check.window)", "false"),
    ("move", "algorithm.releases and -held or check.actual - held", "check.actual - held"),
    ("move", "elseif more < 0 and", "elseif false and"),
    ("move", "(not counter.lease or holds(counter.lease, check.window))", "true"),
    ("holds", "one.window == window", "true"),
    ("move", "counter.ttl = max(counter.ttl, algorithm.lifetime(check.params, counter.moment, state))", ""),
    ("settle", "counter.lease or counter.ended or counter.is_new", "true"),
    ("settle", "counter.lease or counter.ended or counter.is_new", "counter.lease or counter.ended"),
    ("settle", "counter.lease or counter.ended or counter.is_new", "counter.lease or counter.is_new"),
    ("settle", "(counter.lease and 'l' or 'e') .. id", "'l' .. id"),
    ("settle", "(counter.lease and 1 or 0)", "1"),
    ("settle", "counter.seen = counter.moment", ""),
    ("abandon", "give_back(counter, counter.lease, true)", "give_back(counter, counter.lease)"),
    ("abandon", "counter.open = counter.open - 1", ""),
    ("forget", "not windows[one.window]", "true"),
    ("forget", "not windows[one.window]", "false"),
    ("credit", "if counter.heads[check.window] then", "if true then"),
    ("credit", "if used == 0 then", "if true then"),
    ("renew", "ends > counter.lease.ends", "true"),
    ("renew", "counter.ttl = lease", ""),
    ("seed", "counter.heads[check.window] or counter.dirty[check.window]", "counter.dirty[check.window]"),
    ("seed", "counter.heads[check.window] or counter.dirty[check.window]", "counter.heads[check.window]"),
    ("bar", "counter.moment + lease", "counter.moment"),
    ("bar", "counter.ttl = lease", ""),
)

MUTANTS = (*STRICT_LOG, *CALENDAR, *CONCURRENT, *GCRA, *QUICK_LOG, *QUICK_OTHERS, *QUICK_WAY, *COUNTERS, *LONG_WAY)
