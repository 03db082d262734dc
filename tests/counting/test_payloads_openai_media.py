"""
Bodies of OpenAI's images and audio.
"""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.counting.payloads.forms import MAX_FIELD, check_form, read_form
from tokenbudget_mw.errors import PayloadError

TEXT = "The quick brown fox jumps over the lazy dog."


def form(files: dict[str, bytes] | None = None, **fields: str) -> bytes:
    parts = [f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    data = "\r\n".join(parts).encode()
    for name, value in (files or {}).items():
        head = (
            f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\nContent-Type: audio/mpeg\r\n\r\n'
        )
        data += b"\r\n" * bool(data) + head.encode() + value
    return data + b"\r\n--xyz--\r\n"


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"quality": "low", "size": "1024x1024"}, 272),
        ({"quality": "medium", "size": "1536x1024"}, 1_584),
        ({"quality": "low", "size": "3840x2160", "n": 2}, 2 * 2_152),
        ({"quality": "high", "size": "256x256"}, 4_160),
        ({"quality": "high", "size": ["4x4"]}, 6_240),
        ({"quality": "high", "size": "1024x1024", "n": 3}, 3 * 4_160),
        ({"quality": "auto"}, 6_240),
        ({"size": ["1024x1024"], "quality": {"a": 1}}, 6_240),
        ({"model": "dall-e-3"}, 0),
    ],
)
def test_pictures_are_reserved_by_size_and_quality(fields, most):
    """What is not said is taken for the dearest; DALL-E is not billed by tokens."""
    body = json.dumps({"model": "gpt-image-1", "prompt": TEXT, **fields}).encode()

    found = payloads.read("openai.images", body)

    assert (found.max_output, found.stream) == (most, False)
    assert 9 <= found.input.estimate <= 20


def test_pictures_to_edit_are_input():
    """A form's pictures are input, whatever their bytes say, and its letters are numbers."""
    body = form({"image[]": b"\x89PNG[{" * 9_000, "mask": b"x"}, model="gpt-image-1", n="2", stream="true", prompt=TEXT)

    found = payloads.read("openai.images", body)

    assert (found.model, found.choices, found.stream) == ("gpt-image-1", 2, True)
    assert 3_200 <= found.input.estimate <= found.input.upper <= 14_000


def test_speech_is_reserved_by_its_text():
    """The text is input; the speech that it makes is bounded by it."""
    found = payloads.read(
        "openai.audio", json.dumps({"model": "gpt-4o-mini-tts", "input": TEXT, "voice": "x"}).encode()
    )

    assert (found.max_output, found.stream) == (2 * len(TEXT) + 64, False)
    assert 9 <= found.input.estimate <= 12


def test_a_recording_is_input_by_its_size():
    """A minute of usual quality is about 600 tokens; the words in it are not known before."""
    found = payloads.read("openai.audio", form({"file": b"\x00" * 960_000}, model="gpt-4o-transcribe"))

    assert (found.model, found.max_output) == ("gpt-4o-transcribe", None)
    assert found.input.estimate == pytest.approx(600, abs=10)
    assert found.input.upper >= found.input.estimate


def test_a_long_recording_is_bounded_by_its_length():
    """A form that is not read whole is bounded by its size, and its model is found at its beginning."""
    head = form({"file": b"\x00" * 2_000}, model="whisper-1")[:1_500]

    found = payloads.bound(25_000_000, head, format="openai.audio")

    assert found.model == "whisper-1"
    assert found.input.upper == 250_000


def test_a_long_form_of_pictures_is_bounded():
    """So are pictures, of which there may be sixteen."""
    head = form({"image": b"\x00" * 2_000}, model="gpt-image-1")[:1_500]

    assert payloads.bound(30_000_000, head, format="openai.images").input.upper == 16 * 6_600


@pytest.mark.parametrize("fields", [{"n": "0"}, {"n": "many"}, {"n": "99999999999"}, {"model": "a\x00b"}])
def test_senseless_fields_of_a_form_are_refused(fields):
    """A form is checked as JSON is."""
    with pytest.raises(PayloadError):
        payloads.read("openai.images", form(**fields))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_form_or_refused(data):
    """No bytes make the reader fail in any other way."""
    read_form(data)
    with contextlib.suppress(PayloadError):
        payloads.read("openai.audio", b"--" + data)


PART = b"--x\r\n%s\r\n\r\n%s\r\n"
MODEL = b'Content-Disposition: form-data; name="model"'


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'Content-Disposition: form-data; name="file"; filename="a \\"b\\".mp3"', "file"),
        (b'content-disposition:form-data;name="file";filename=a.mp3', "file"),
        (b'Content-Type: audio/mpeg\r\nCONTENT-DISPOSITION: Form-Data; Name=file; FileName="a.mp3"', "file"),
        (b"Content-Disposition: form-data; name=file; filename*=UTF-8''a%20b.mp3", "file"),
        (b'Content-Disposition: form-data; name="file"; filename="a;b.mp3"\r\nContent-Length: 3', "file"),
    ],
)
def test_a_part_is_named_in_every_way(head, name):
    """A part is found however its header is written."""
    found = read_form(PART % (head, b"abc") + b"--x--\r\n")

    assert (found.fields, found.files, found.fault) == ({}, ((name, 3),), None)


def test_behind_its_end_a_form_has_nothing():
    """What stands behind the last boundary no app reads; another boundary there Django does, so that it is refused."""
    data = PART % (MODEL, b"whisper-1") + b"--x--\r\n"

    assert payloads.read("openai.audio", data + b"epilogue").model == "whisper-1"
    with pytest.raises(PayloadError, match="behind its end"):
        payloads.read("openai.audio", data + PART % (MODEL, b"other"))


def test_a_model_that_a_head_cuts_off_is_not_read():
    """The beginning of a name may be another model's name."""
    head = PART % (MODEL, b"gpt-4o-mini-transcribe")

    assert payloads.bound(10**7, head[:-18], format="openai.audio").model is None
    assert payloads.bound(10**7, head + b"--x\r\n", format="openai.audio").model == "gpt-4o-mini-transcribe"


@pytest.mark.parametrize(
    "data",
    [
        PART % (MODEL, b"dear") + PART % (MODEL, b"cheap"),
        PART % (MODEL, b"cheap") + PART % (b"X: " + b"x" * 5_000 + b"\r\n" + MODEL, b"dear"),
        PART % (MODEL + b'; name="other"', b"dear"),
        PART % (MODEL + b"\r\n" + MODEL.replace(b"model", b"other"), b"dear"),
        PART % (b'Content-Disposition: form-data; name="mod\\el"', b"dear"),
        PART % (b"Content-Type: text/plain", b"dear"),
        PART % (MODEL + b"".join(b"; a%d=b" % n for n in range(16)), b"dear"),
        b"".join(PART % (b'Content-Disposition: form-data; name="a%d"' % n, b"") for n in range(300)),
        PART
        % (b'Content-Disposition: form-data; name="file"; filename="f"', b"\r\n--xy\r\n" + MODEL + b"\r\n\r\ncheap"),
    ],
)
def test_a_form_that_apps_may_read_differently_is_refused(data):
    """An app must not run another model than the one that is charged, nor hear a file that is not counted."""
    for whole in (data + b"--x--\r\n", data + PART % (MODEL.replace(b"model", b"z"), b"") + b"--x--\r\n"):
        with pytest.raises(PayloadError, match="differently"):
            payloads.read("openai.audio", whole)
        with pytest.raises(PayloadError, match="differently"):
            payloads.bound(10**8, whole, format="openai.audio")


def test_lists_and_equal_values_may_come_again():
    """Lists are sent as one field many times, and a field may say twice the same; what is not metered, anything."""
    names = [b"timestamp_granularities[]", b"timestamp_granularities[]", b"n", b"n", b"tag", b"tag"]
    values = [b"word", b"segment", b"2", b"2", b"a", b"b"]
    parts = [PART % (MODEL.replace(b"model", name), value) for name, value in zip(names, values, strict=True)]

    assert payloads.read("openai.audio", b"".join(parts) + b"--x--\r\n").choices == 2


@pytest.mark.parametrize(
    "types",
    [
        (),
        ("application/json",),
        ("multipart/form-data",),
        ("multipart/form-data; boundary=y",),
        ("multipart/form-data; boundary=x; boundary=y",),
        ("multipart/form-data; boundary=x", "multipart/form-data; boundary=x"),
        ("multipart/form-data; boundary*=x'y",),
    ],
)
def test_a_form_begins_with_the_boundary_that_is_named(types):
    """What stands before it, or where two are named, the app may read another form."""
    body = PART % (MODEL, b"whisper-1") + b"--x--\r\n"

    check_form(body, ("multipart/form-data; boundary=x",))
    check_form(body, ('multipart/form-data; charset=utf-8; Boundary="x"',))
    check_form(b'{"model": "m"}', types)
    with pytest.raises(PayloadError, match="boundary"):
        check_form(body, types)


def test_a_long_field_is_measured():
    """A value too long to be read counts as a file."""
    found = read_form(form(prompt="x" * (MAX_FIELD + 1)))

    assert (found.fields, found.files) == ({}, (("prompt", MAX_FIELD + 1),))


@pytest.mark.parametrize(
    ("path", "name"),
    [("/v1/images/generations", "openai.images"), ("/v1/images/edits", "openai.images")]
    + [(f"/v1/audio/{end}", "openai.audio") for end in ("transcriptions", "translations", "speech")],
)
def test_the_path_tells(path, name):
    """The path that OpenAI serves tells."""
    assert payloads.detection.format_of(path, b"--form") == name


def test_a_deployment_in_the_path_is_the_model():
    """Azure's path names the model of a form, of one that is too long to read, too."""
    path, body = "/openai/deployments/our-whisper/audio/transcriptions", PART % (MODEL, b"whisper-1") + b"--x--\r\n"

    assert payloads.read("openai.audio", body, path=path).model == "our-whisper"
    assert payloads.bound(10**9, body, format="openai.audio", path=path).model == "our-whisper"
    assert payloads.bound(10**9, body, format="auto", path=path).model == "our-whisper"
