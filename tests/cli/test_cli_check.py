"""
``check``: problems all at once, or what the settings mean.
"""

from __future__ import annotations

import json

GOOD = {
    "backend": "memory://",
    "pepper": "canary-pepper",
    "routes": [{"path": "/v1/chat/completions", "format": "openai.chat"}],
    "plans": {"free": ["60 requests/minute", "40k tokens/minute"]},
}


def config(tmp_path, settings):
    path = tmp_path / "budget.json"
    path.write_text(json.dumps({"database": f"sqlite:///{tmp_path / 'x.db'}", **settings}))
    return path


def test_good_settings_are_explained(run, tmp_path):
    """Settings without fault end with 0, in sentences that name the limits and no secret."""
    ran = run("check", config(tmp_path, GOOD))

    assert ran.code == 0
    assert "40k tokens" in ran.out
    assert "canary-pepper" not in ran.out


def test_json_has_sentences_and_warnings_apart(run, tmp_path):
    """With --json the sentences and the warnings are lists of their own."""
    result = run("check", config(tmp_path, {**GOOD, "workers": 4}), "--json").json

    assert result["ok"] is True
    assert any("40k tokens" in sentence for sentence in result["means"])
    assert any("workers" in warning for warning in result["warnings"])
    assert not any(sentence.startswith("Warning") for sentence in result["means"])


def test_every_problem_is_listed(run, tmp_path):
    """Wrong settings end with 1 and a line for each fault."""
    bad = {**GOOD, "backed": "x", "plans": {"free": ["60 tokes/minute"]}, "mode": "strict"}

    ran = run("check", config(tmp_path, bad))
    result = run("check", config(tmp_path, bad), "--json").json

    assert ran.code == 1
    assert len(result["problems"]) == 3
    assert result["ok"] is False
    assert "did you mean 'tokens'" in ran.out
    assert "3 problems." in ran.out


def test_what_shows_only_when_plugged_together_is_found(run, tmp_path):
    """An unknown backend and an identify path that cannot be imported are problems, too."""
    backend = run("check", config(tmp_path, {**GOOD, "backend": "reddis://x"}))
    identify = run("check", config(tmp_path, {**GOOD, "identify": "no_such_module.subject_of"}))

    assert backend.code == identify.code == 1
    assert "redis" in backend.out
    assert "no_such_module" in identify.out


def test_an_unreadable_file_is_no_problem_of_the_settings(run):
    """A file that is not there cannot be checked."""
    ran = run("check", "missing.toml")

    assert ran.code in (1, 2)
    assert "missing.toml" in ran.out + ran.err


def test_without_a_file_the_environment_is_checked(run, monkeypatch, tmp_path):
    """No argument checks TOKENBUDGET_* variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENBUDGET_LIMITS", '["7 requests/hour per key"]')

    ran = run("check")

    assert ran.code == 0
    assert "7 requests" in ran.out


def test_nothing_is_connected_to(run, tmp_path):
    """Services that are away do not matter: a check opens nothing."""
    away = {**GOOD, "backend": "redis://127.0.0.1:1/0", "database": "postgresql://127.0.0.1:1/x"}

    assert run("check", config(tmp_path, away)).code == 0
