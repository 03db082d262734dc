"""Every adapter keeps the contract, behind a real server."""

from collections.abc import Iterator

import pytest
from adapter_servers import Server, serving

from tokenbudget_mw.testing.adapters import AdapterContract


@pytest.fixture(scope="class")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The running host of a contract class, as its `served` says."""
    name, module, environment = request.cls.served
    with serving(name, module, tmp_path_factory.mktemp(module), **environment) as running:
        yield running


class TestASGI(AdapterContract):
    """Plain ASGI on uvicorn."""

    served = ("uvicorn", "asgi_host", {})


class TestGranian(AdapterContract):
    """Plain ASGI on granian, whose protocol is written in another language."""

    served = ("granian", "asgi_host", {})


class TestWSGI(AdapterContract):
    """Plain WSGI on gunicorn's threads."""

    served = ("gunicorn", "wsgi_host", {})


class TestFastAPI(AdapterContract):
    """FastAPI on uvicorn."""

    served = ("uvicorn", "fastapi_host", {})


class TestFlask(AdapterContract):
    """Flask on gunicorn's sync worker."""

    served = ("gunicorn-sync", "flask_host", {})


class TestDjangoSync(AdapterContract):
    """Django's sync views on gunicorn."""

    served = ("gunicorn", "django_host", {})


class TestDjangoAsync(AdapterContract):
    """Django's async views on uvicorn."""

    served = ("uvicorn", "django_host", {"CONTRACT_ASYNC": "1"})
