"""
``demo``: real servers, real sockets, a fake LLM.
"""

from __future__ import annotations

import builtins
import http.client
import json
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tokenbudget_mw.cli.demonstration.app import CHAT, MESSAGES, PLANS, make_app, make_settings
from tokenbudget_mw.cli.demonstration.server import serve
from tokenbudget_mw.cli.demonstration.traffic import Job, Traffic, jobs_of, measure
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings


@pytest.fixture(scope="module")
def shown():
    """
    One run of the demonstration, from outside.
    """
    command = [sys.executable, "-m", "tokenbudget_mw", "demo", "--json", "--requests", "90"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_demonstration_adds_up(shown):
    """Every request is a row, refused ones too; tokens and cost are there; the books agree."""
    result = json.loads(shown.stdout)

    assert shown.returncode == 0, shown.stderr
    assert result["verified"] is True
    assert result["rows"] == result["requests"] == 90 + 220
    assert result["failed"] == {}
    assert result["tokens"] == result["input_tokens"] + result["output_tokens"] > 0
    assert result["cost_pico"] > 0
    assert set(result["latency_us"]) == {"p50", "p99"}


def test_each_kind_of_limit_refuses_and_the_shadow_does_not(shown):
    """Money refuses on the tiny plan, requests or concurrency on the free one; the shadow limit only tells."""
    result = json.loads(shown.stdout)

    assert "money-month" in result["refused"]
    assert {"requests-minute", "tokens-minute", "concurrent"} & set(result["refused"])
    assert result["would_refuse"].get("shadow-requests-minute", 0) > 0
    assert "shadow-requests-minute" not in result["refused"]
    assert result["hung_up"] > 0


def test_the_first_key_comes_with_a_curl(shown):
    """Plans, limits, the first key and a command to try it are shown, and that the LLM is a fake one."""
    assert "FAKE LLM" in shown.stderr
    key = next(word for word in shown.stderr.split() if word.startswith("tb_live_"))
    assert f'-H "Authorization: Bearer {key}"' in shown.stderr
    for plan in PLANS:
        assert f"plan {plan}" in shown.stderr
    assert "90/90 requests" in shown.stderr


# a shell starts background jobs with SIGINT ignored, and their children inherit that
HEEDING = """
import signal, sys
from tokenbudget_mw.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stays_until_it_is_stopped(number):
    """With --serve the shown curl works after the summary, and Ctrl-C or SIGTERM ends it with 0."""
    command = [sys.executable, "-u", "-c", HEEDING, "demo", "--serve", "--port", "0", "--requests", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("Serving at"):
                break
        words = "".join(seen).split()
        key = next(word for word in words if word.startswith("tb_live_"))
        port = int(line.split(":")[2].split()[0])
        status, headers, body = post(port, Job(key))
        process.send_signal(number)
        assert process.wait(20) == 0

    assert status == 200
    assert "ratelimit" in headers
    assert json.loads(body)["usage"]["completion_tokens"] == 40


def post(port, job):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        headers = {"Authorization": f"Bearer {job.key}", "Content-Type": "application/json"}
        connection.request("POST", job.path, job.body, headers)
        response = connection.getresponse()
        return response.status, {name.lower() for name, _ in response.getheaders()}, response.read()


def test_the_traffic_is_mixed():
    """All keys, both formats, whole and streamed, and some clients that hang up, which need a stream to do so."""
    jobs = jobs_of(["a", "b", "c"], 60)

    assert {job.key for job in jobs} == {"a", "b", "c"}
    assert {(job.path, job.is_stream) for job in jobs} == {(p, s) for p in (CHAT, MESSAGES) for s in (True, False)}
    assert sum(job.hangs_up for job in jobs) == 6
    assert all(job.is_stream for job in jobs if job.hangs_up)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_the_app_alone_answers_streams_and_unary(path):
    """The app without middleware speaks both formats on a real server; clients may hang up."""
    seen = []
    with serve([(make_app(), 0), (make_app(), 0)]) as (port, other):
        traffic = Traffic(port, lambda traffic: seen.append(traffic.sent))
        traffic.run([Job("k", path), Job("k", path, is_stream=True), Job("k", path, is_stream=True, hangs_up=True)])
        times = measure(port, other, "k", 2)

    assert (traffic.sent, traffic.admitted, traffic.hung_up) == (3, 3, 1)
    assert not traffic.other
    assert seen == [1, 2, 3]
    assert [len(values) for values in times] == [2, 2]
    assert min(min(values) for values in times) > 0


def test_unexpected_statuses_are_counted():
    """What is neither an answer nor a refusal is kept apart by its status."""
    with serve([(make_app(), 0)]) as (port,):
        traffic = Traffic(port, lambda traffic: None)
        traffic.run([Job("k", "/v1/unknown")])

    assert dict(traffic.other) == {404: 1}


def test_a_taken_port_is_said():
    """A port that is taken is a plain error that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=str(port)), serve([(make_app(), port)]):
            pass


def test_the_demonstration_s_settings_are_what_a_user_writes():
    """The settings read as they are."""
    settings = Settings.from_mapping(make_settings("sqlite://", "pepper"))

    assert list(settings.plans) == ["pro", "free", "tiny"]


def test_a_missing_extra_says_how_to_install_it(run, monkeypatch):
    """Without FastAPI the command says which extra it wants."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("tokenbudget_mw.cli.demonstration"):
            raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    ran = run("demo")

    assert ran.code == 2
    assert "pip install 'tokenbudget-mw[demo]'" in ran.err


def test_a_negative_number_of_requests_is_refused(run):
    """`--requests` counts from 0."""
    assert run("demo", "--requests", "-1").code == 2
