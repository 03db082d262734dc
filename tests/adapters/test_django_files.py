"""Files that a Django view sends: a server that can send them by itself still does."""

from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import django_rig
from django.core.handlers.wsgi import WSGIHandler


def serve(key: str, **changes: Any) -> Any:
    """What the server gets of the view that sends a file."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/plain/filed",
        "HTTP_X_SUBJECT": key,
        "wsgi.input": BytesIO(),
    }
    setup_testing_defaults(environ)
    return WSGIHandler()(environ | changes, lambda status, headers, exc_info=None: None)


def test_a_file_goes_out_in_the_servers_wrapper() -> None:
    """Its stream was replaced, so that no server could send a file by itself; now it is booked, and passes as it is."""
    given = serve("k-file", **{"wsgi.file_wrapper": FileWrapper})
    content = b"".join(given)
    given.close()

    (row,) = django_rig.rows("k-file")
    assert type(given) is FileWrapper
    assert content == Path(django_rig.__file__).read_bytes()
    assert (row["status"], row["settle_reason"]) == (200, "complete")


def test_a_file_is_streamed_where_there_is_no_wrapper() -> None:
    """Elsewhere it is read chunk by chunk, and booked when it has passed."""
    given = serve("k-streamed")
    content = b"".join(given)
    given.close()

    (row,) = django_rig.rows("k-streamed")
    assert content == Path(django_rig.__file__).read_bytes()
    assert (row["status"], row["settle_reason"]) == (200, "complete")
