"""
The contract of adapters: one set of cases for every framework, over real sockets.

A test subclasses `AdapterContract` and gives it a running server by overriding `server`. The served app must be metered
with these routes and plans, find its subject in the header ``x-subject`` (``key`` or ``key:plan``), and answer:

* ``POST /v1/chat/completions``, ``/v1/messages``: as `FakeProvider` answers, ``x-pause`` seconds between chunks;
* ``POST /assistant/charge``: ``current().charge(…)`` for each of the body's ``charges``;
* ``POST /assistant/reserve``: ``current().reserve(model, prompt, max_output)``, then ``charge(usage)`` if there is one;
* ``POST /assistant/raise``: raises; ``GET /assistant/limited``: limited to 2 requests/minute;
* ``POST /flush`` (not metered): writes what waits to the SQLite file.
"""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
import struct
import time
from typing import Any

from tokenbudget_mw.testing.talk import (
    CHAT,
    LONGEST_WAIT,
    MESSAGES,
    Answered,
    Running,
    chat,
    eventually,
    usage_of,
)

__all__ = ["AdapterContract", "Answered", "Running"]


class AdapterContract:
    """
    What every adapter must do. Subclass it, and override `server` with a fixture.
    """

    app_error_reasons = frozenset({"app_error", "status_5xx"})
    """How a handler's exception may be named on its row: frameworks turn some into responses themselves."""

    def call(self, server: Running, path: str, body: Any = None, *, subject: str | None, **headers: str) -> Answered:
        """
        Send one request, and read its response whole.
        """
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONGEST_WAIT)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if subject is not None:
            sent["x-subject"] = subject
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("content-type", "application/json")
        connection.request("GET" if body is None else "POST", path, data, sent)
        response = connection.getresponse()
        answered = Answered(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answered

    def rows(self, server: Running, key: str) -> list[dict[str, Any]]:
        """
        Return the usage rows of *key*, oldest first.
        """
        assert self.call(server, "/flush", {}, subject=None).status == 200
        connection = sqlite3.connect(server.database)
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT * FROM tokenbudget_usage WHERE key_id = ? ORDER BY sequence", (key,))
        rows = [dict(row) for row in found]
        connection.close()
        return rows

    def row(self, server: Running, key: str) -> dict[str, Any]:
        """
        Return the one usage row of *key*.
        """
        rows = eventually(lambda: self.rows(server, key))
        assert len(rows) == 1, rows
        return dict(rows[0])

    # -- passing ---------------------------------------------------------------------------------------------------

    def test_unary(self, server: Running) -> None:
        """
        A unary response passes, carries the limits' headers, and is booked with the provider's figures.
        """
        answered = self.call(server, CHAT, chat(), subject="unary")

        usage = answered.json()["usage"]
        row = self.row(server, "unary")
        assert answered.status == 200
        assert '"requests-minute";r=999' in answered.headers["ratelimit"]
        assert '"tokens-minute";q=1000000' in answered.headers["ratelimit-policy"]
        assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert (row["settle_reason"], row["usage_source"], row["status"]) == ("complete", "provider", 200)
        assert row["cost_pico"] == row["input_tokens"] * 2_500_000 + row["output_tokens"] * 10_000_000

    def test_stream(self, server: Running) -> None:
        """
        A stream passes to its last byte, and is booked with the usage of its last chunk.
        """
        answered = self.call(server, CHAT, chat(stream=True), subject="stream")

        row = self.row(server, "stream")
        assert answered.body.endswith(b"data: [DONE]\n\n")
        assert (row["output_tokens"], row["usage_source"], row["is_stream"]) == (12, "provider", 1)
        assert row["first_byte_us"] <= row["duration_us"]

    def test_stream_keeps_its_time(self, server: Running) -> None:
        """
        A chunk reaches the client when it is sent, not when the stream has ended.
        """
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONGEST_WAIT)
        headers = {"x-subject": "slow-stream", "x-pause": "0.02", "content-type": "application/json"}
        connection.request("POST", CHAT, json.dumps(chat(stream=True)), headers)
        response = connection.getresponse()
        first = response.read1()
        begun = time.monotonic()
        rest = response.read()
        connection.close()

        assert first.startswith(b"data:")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert time.monotonic() - begun > 0.1  # of 12 pauses and more

    def test_anthropic(self, server: Running) -> None:
        """
        Anthropic's messages are booked, unary and streamed.
        """
        body = {"model": "claude-opus-5", "max_tokens": 50, "messages": [{"role": "user", "content": "a b c"}]}

        unary = self.call(server, MESSAGES, body, subject="claude")
        self.call(server, MESSAGES, body | {"stream": True}, subject="claude")

        rows = self.rows(server, "claude")
        assert unary.json()["usage"]["output_tokens"] == 12
        assert [row["output_tokens"] for row in rows] == [12, 12]
        assert [row["provider"] for row in rows] == ["anthropic", "anthropic"]
        assert rows[0]["cost_pico"] == rows[1]["cost_pico"] > 0

    def test_t05_stream_and_unary_share_counters(self, server: Running) -> None:
        """
        A stream takes from the same counter as a unary call.
        """
        self.call(server, CHAT, chat(stream=True), subject="shared")
        answered = self.call(server, CHAT, chat(), subject="shared")

        assert '"requests-minute";r=998' in answered.headers["ratelimit"]

    def test_stream_without_usage_is_counted(self, server: Running) -> None:
        """
        A stream whose provider sends no usage is booked with the tokens of the text that passed.
        """
        self.call(server, CHAT, chat(stream=True, include_usage=False), subject="uncounted")

        row = self.row(server, "uncounted")
        assert (row["usage_source"], row["settle_reason"]) == ("counted", "no_usage")
        assert row["input_tokens"] == 11
        assert row["output_tokens"] > 0

    def test_compressed_response(self, server: Running) -> None:
        """
        A gzip-encoded response passes as it is, and is booked all the same.
        """
        answered = self.call(server, CHAT, chat(), subject="gzip", x_fake='{"gzip": true}')

        assert answered.headers["content-encoding"] == "gzip"
        assert self.row(server, "gzip")["output_tokens"] == 12

    # -- ending otherwise ------------------------------------------------------------------------------------------

    def test_t08_app_raises(self, server: Running) -> None:
        """
        A handler that raises gives the framework's own 500, and one row that charges nothing.
        """
        answered = self.call(server, "/assistant/raise", {}, subject="raises:one")

        row = self.row(server, "raises")
        assert answered.status == 500
        assert row["settle_reason"] in self.app_error_reasons
        assert (row["cost_pico"], row["input_tokens"]) == (0, 0)
        assert self.call(server, CHAT, chat(), subject="raises:one").status == 200

    def test_t08_upstream_error(self, server: Running) -> None:
        """
        A provider's error is passed on and charges nothing.
        """
        answered = self.call(server, CHAT, chat(), subject="upstream", x_fake='{"status": 503}')

        row = self.row(server, "upstream")
        assert answered.status == 503
        assert (row["settle_reason"], row["cost_pico"], row["status"]) == ("status_5xx", 0, 503)

    def test_t07_client_goes_away(self, server: Running) -> None:
        """
        A client that leaves in the middle of a stream is booked once, for what had passed, and its slot is free.
        """
        body = json.dumps(chat(stream=True, output=4000)).encode()
        fake = b'{"output_tokens": 4000, "usage": "always"}'
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nx-subject: leaver:one\r\nx-pause: 0.01\r\n"
            b"x-fake: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (fake, len(body))
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=LONGEST_WAIT) as connection:
            connection.sendall(head + body)
            while b"data:" not in connection.recv(4096):
                pass
            # closed with a reset: the server sees it at its next write
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        row = self.row(server, "leaver")
        assert row["settle_reason"] == "client_gone"
        assert 0 < row["output_tokens"] < 4000
        assert self.call(server, CHAT, chat(), subject="leaver:one").status == 200

    # -- refusing --------------------------------------------------------------------------------------------------

    def test_refusal(self, server: Running) -> None:
        """
        A refused request gets 429 with the wait, never reaches the handler, and charges nothing.
        """
        passed = [self.call(server, CHAT, chat(), subject="tight:tight").status for _ in range(2)]
        refused = self.call(server, CHAT, chat(), subject="tight:tight")

        row = self.rows(server, "tight")[-1]
        assert (passed, refused.status) == ([200, 200], 429)
        assert 0 < int(refused.headers["retry-after"]) <= 61
        assert refused.headers["cache-control"] == "no-store"
        assert "requests-minute" in refused.json()["error"]["message"]
        assert (row["decision"], row["limit_name"], row["cost_pico"]) == ("refused", "requests-minute", 0)

    def test_t06_reservation_holds_the_asked_output(self, server: Running) -> None:
        """
        A call whose largest output does not fit beside another is refused until that one is settled.
        """
        first = self.call(server, CHAT, chat(output=480), subject="tokens:tokens")
        second = self.call(server, CHAT, chat(output=480), subject="tokens:tokens")
        third = self.call(server, CHAT, chat(output=400), subject="tokens:tokens")

        assert (first.status, second.status, third.status) == (200, 429, 200)

    def test_spent_money_refuses(self, server: Running) -> None:
        """
        A spent budget refuses for good, and tells SDKs not to retry.
        """
        self.call(server, "/assistant/charge", {"charges": [usage_of(1000, 1000)]}, subject="poor:poor")

        refused = self.call(server, "/assistant/charge", {"charges": []}, subject="poor:poor")

        assert refused.status == 429
        assert refused.headers["x-should-retry"] == "false"

    def test_unknown_caller(self, server: Running) -> None:
        """
        A request without credentials is a 401, and nobody's usage.
        """
        answered = self.call(server, CHAT, chat(), subject=None)

        assert answered.status == 401
        assert answered.headers["www-authenticate"].startswith("Bearer")

    def test_malformed_body(self, server: Running) -> None:
        """
        A body that makes no sense is a 400 that says what is wrong with it.
        """
        answered = self.call(server, CHAT, b'{"model": "gpt-4o", "messages": 7}', subject="malformed")

        assert answered.status == 400
        assert "messages" in answered.json()["error"]["message"]

    def test_shadow(self, server: Running) -> None:
        """
        A shadow limit refuses nobody, and says on the row whom it would have refused.
        """
        statuses = [self.call(server, CHAT, chat(), subject="shade:shade").status for _ in range(3)]

        rows = self.rows(server, "shade")
        assert statuses == [200, 200, 200]
        assert [row["decision"] for row in rows] == ["admitted", "shadow_refused", "shadow_refused"]
        assert rows[1]["limit_name"] == "requests-minute"

    # -- what handlers say -----------------------------------------------------------------------------------------

    def test_charge(self, server: Running) -> None:
        """
        A handler's charges are booked to its caller: a row for each model, with the request's tags.
        """
        charges = [usage_of(10, 20), usage_of(1, 2), usage_of(5, 5, model="gpt-4o-mini")]

        said = self.call(server, "/assistant/charge", {"charges": charges}, subject="charger").json()

        rows = self.rows(server, "charger")
        assert said["account"] == "tenant:tenant-of-charger"
        assert [(row["response_model"], row["input_tokens"], row["output_tokens"]) for row in rows] == [
            ("gpt-4o", 11, 22),
            ("gpt-4o-mini", 5, 5),
        ]
        assert rows[0]["id"] == said["id"]
        assert {row["correlation_id"] for row in rows} == {said["id"]}
        assert json.loads(rows[0]["tags"]) == {"feature": "contract"}

    def test_charge_counts(self, server: Running) -> None:
        """
        What a handler charged is gone from the caller's limits at the next request.
        """
        self.call(server, "/assistant/charge", {"charges": [usage_of(300, 200)]}, subject="counted:tokens")

        assert self.call(server, "/assistant/charge", {"charges": []}, subject="counted:tokens").status == 429

    def test_reserve(self, server: Running) -> None:
        """
        A reservation is settled at what the call used.
        """
        body = {"model": "gpt-4o", "prompt": 100, "max_output": 200, "usage": usage_of(90, 40)}

        answers = [self.call(server, "/assistant/reserve", body, subject="reserver:tokens").status for _ in range(2)]

        rows = self.rows(server, "reserver")
        assert answers == [200, 200]
        assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(90, 40), (90, 40)]

    def test_reserve_refused(self, server: Running) -> None:
        """
        A refused reservation that the handler lets through becomes the middleware's own refusal.
        """
        body = {"model": "gpt-4o", "prompt": 400, "max_output": 300, "usage": usage_of(300, 150)}

        first = self.call(server, "/assistant/reserve", body, subject="exceeder:tokens")
        second = self.call(server, "/assistant/reserve", body, subject="exceeder:tokens")

        rows = self.rows(server, "exceeder")
        assert (first.status, second.status) == (200, 429)
        assert "tokens-minute" in second.json()["error"]["message"]
        assert [(row["decision"], row["output_tokens"]) for row in rows] == [("admitted", 150), ("refused", 0)]

    def test_reserve_without_charge(self, server: Running) -> None:
        """
        A block that ends well without a charge is charged as reserved; one that raises is not charged.
        """
        body = {"model": "gpt-4o", "prompt": 10, "max_output": 20}

        self.call(server, "/assistant/reserve", body, subject="silent")
        failed = self.call(server, "/assistant/reserve", body | {"fail": True}, subject="silent")

        rows = self.rows(server, "silent")
        assert failed.status == 500
        assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(10, 20), (0, 0)]
        assert rows[0]["usage_source"] == "estimated"

    def test_endpoint_limit(self, server: Running) -> None:
        """
        A limit on one endpoint refuses there, for that caller, and nowhere else.
        """
        statuses = [self.call(server, "/assistant/limited", subject="visitor").status for _ in range(3)]

        assert statuses == [200, 200, 429]
        assert self.call(server, "/assistant/limited", subject="another").status == 200
        assert self.call(server, CHAT, chat(), subject="visitor").status == 200
