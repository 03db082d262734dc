import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.rules.routes import RouteTable, is_preflight, normalise, readings
from tokenbudget_mw.values import Facts, Route

CHAT = Route("/v1/chat/completions", format="openai.chat")
ASSISTANT = Route("/assistant/*")
EVERYTHING = Route("/v1/*")

OTHER_SPELLINGS = [
    "/v1/chat/completions",
    "//v1/chat/completions",
    "/v1//chat///completions",
    "/v1/chat/completions/",
    "/v1/chat/completions//",
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/../v1/chat/completions",
    "/V1/Chat/COMPLETIONS",
    "\\v1\\chat\\completions",
    "/v1\\chat/completions",
    "/v1/chat/completions\n",
    "/v1/chat/completions \r\n",
    "/v1/chat/completions/.",
    "/v1/chat/completions/x/..",
    "v1/chat/completions",
]


@pytest.mark.parametrize("path", OTHER_SPELLINGS)
def test_a_metered_path_is_metered_in_every_spelling(path):
    """
    What a server or a framework may take for the metered path is metered as it.
    """
    assert RouteTable([CHAT]).match("POST", path) is CHAT


URLS = [
    "http://test/v1/chat/completions",
    "HTTP://test:80//V1/chat/./completions/",
    "https://user@test/v1/chat/completions;x=1?y#z",
    "http:///v1/chat/completions",
    "x:v1/chat/completions",
    "http://test/v1/ch\nat/completions",
    "\x01http://test/v1/chat/completions",
    "/v1/chat/completions#a",
]


@pytest.mark.parametrize("path", URLS)
def test_a_metered_path_is_metered_in_a_whole_url(path):
    """
    Some servers hand over a target in absolute form or with a fragment as it came, and some frameworks look for the path in it.
    """
    assert RouteTable([CHAT]).match("POST", path) is CHAT


def test_a_mount_is_cut_off_in_a_whole_url():
    """
    Below a root, too.
    """
    assert RouteTable([CHAT]).match("POST", "http://test/api/v1/chat/completions;x", "/api") is CHAT


def test_a_url_that_is_none_is_a_path_like_another():
    """
    What no reader of URLs takes is looked up as it stands.
    """
    assert RouteTable([CHAT]).match("POST", "http://[test/v1/chat/completions") is None
    assert RouteTable([Route("*")]).match("POST", "http://[test/v1/chat/completions") == Route("*")


@pytest.mark.parametrize(
    "path",
    [
        "/assistant",
        "/assistant/",
        "/assistant/a/b",
        "//assistant/a",
        "/assistant/../other",
        "/assistant/..",
        "/other/../assistant/a",
        "/ASSISTANT/A",
        "/assistant\\a",
    ],
)
def test_a_metered_prefix_cannot_be_walked_around(path):
    """
    Dots count both ways: an app may resolve them, or hand them to the handler of the prefix.
    """
    assert RouteTable([ASSISTANT]).match("POST", path) is ASSISTANT


@pytest.mark.parametrize(
    "path", ["/", "", "/v1", "/v1/chat", "/v1/chat/completions/x", "/v1/chat/completionsx", "/assistants"]
)
def test_other_paths_are_not_metered(path):
    """
    A route covers its own path and no other.
    """
    assert RouteTable([CHAT, ASSISTANT]).match("POST", path) is None


def test_exact_routes_come_first_and_then_the_longest_prefix():
    """
    The most particular route wins, in whatever order they are given.
    """
    deep, bare = Route("/v1/chat/*"), Route("*")
    table = RouteTable([bare, EVERYTHING, deep, CHAT])

    assert table.match("POST", "/v1/chat/completions") is CHAT
    assert table.match("POST", "/v1/chat/other") is deep
    assert table.match("POST", "/v1/models") is EVERYTHING
    assert table.match("POST", "/") is bare


def test_a_prefix_without_a_slash_covers_whatever_begins_so():
    """
    `/v1*` covers `/v1beta`, and `/v1/*` does not.
    """
    assert RouteTable([Route("/v1*")]).match("GET", "/v1beta/x") is not None
    assert RouteTable([EVERYTHING]).match("GET", "/v1beta/x") is None


def test_without_routes_everything_is_metered_as_a_request():
    """
    No routes means every path.
    """
    assert RouteTable().match("GET", "/anything") == Route("*")


def test_protect_meters_what_no_route_names():
    """
    Under `protect` an unknown path is metered as a request.
    """
    assert RouteTable([CHAT], "protect").match("GET", "/unknown") == Route("*")
    assert RouteTable([CHAT], "protect").match("GET", "/v1/chat/completions") is CHAT


@pytest.mark.parametrize("path", ["/healthz/", "//healthz", "/HEALTHZ", "/healthz\n", "/x/../healthz"])
def test_exemptions_hold_in_one_spelling_only(path):
    """
    An exempt path is the exact one; another spelling of it is metered.
    """
    table = RouteTable([], exempt=["/healthz"])

    assert table.match("GET", "/healthz") is None
    assert table.match("GET", path) is not None


@pytest.mark.parametrize(
    ("methods", "method", "covered"),
    [
        ((), "PURGE", True),
        ((), "WEBSOCKET", True),
        (("POST",), "POST", True),
        (("POST",), "GET", False),
        (("GET",), "HEAD", True),
        (("POST",), "HEAD", False),
        (("PUT",), "POST", True),
        (("GET",), "POST", False),
    ],
)
def test_methods_narrow_a_route(methods, method, covered):
    """
    A route with methods covers those, HEAD with GET, and POST where it may stand for a method override.
    """
    table = RouteTable([Route("/x", methods=frozenset(methods))])

    assert (table.match(method, "/x") is not None) == covered


def test_two_routes_may_share_a_path_by_method():
    """
    The method chooses between routes of one path, and a less particular route takes what they leave.
    """
    read, write = Route("/x", methods=frozenset({"GET"})), Route("/x", methods=frozenset({"POST"}))
    table = RouteTable([read, write, Route("*")])

    assert table.match("GET", "/x") is read
    assert table.match("POST", "/x") is write
    assert table.match("DELETE", "/x") == Route("*")


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/api/v1/chat/completions", "/api"),
        ("/api//v1/chat/completions/", "/api"),
        ("/api//v1/chat/completions", "/api/"),
        ("/apiv1/chat/completions", "/api"),
        ("/x/api/v1/chat/completions", "/api"),
        ("/API/api/v1/chat/completions", "/api"),
        ("/v1/chat/completions", "/api"),
    ],
)
def test_a_metered_path_is_metered_below_a_root(path, root):
    """
    A server or an app that is mounted hands over the whole path, of which its router takes what is below the mount: Starlette
    a beginning, asgiref also one without a slash behind it, Litestar what follows wherever it stands.
    """
    assert RouteTable([CHAT]).match("POST", path, root) is CHAT


def test_a_whole_path_names_a_route_too():
    """
    The path may be written with the mount; what is not below it, and in no other spelling a route, is none.
    """
    table = RouteTable([Route("/api/v1/chat/completions"), ASSISTANT])

    assert table.match("POST", "/api/v1/chat/completions", "/api") is table.routes[0]
    assert table.match("POST", "/api/other", "/api") is None
    assert table.match("POST", "/api/assistant/a", "/" + "x" * 600) is None


def test_exemptions_hold_below_a_root_where_no_route_is():
    """
    A path below the mount is exempt as it stands, unless a route covers it in any reading.
    """
    assert RouteTable(exempt=["/health"]).match("GET", "/api/health", "/api") is None
    assert RouteTable(exempt=["/health"]).match("GET", "/api//health", "/api") is not None
    assert RouteTable([EVERYTHING], exempt=["/health"]).match("GET", "/v1/health", "/v1") is EVERYTHING


def test_a_long_path_is_matched_and_not_remembered():
    """
    Paths of any length are matched; only short ones take room in memory.
    """
    table = RouteTable([EVERYTHING])

    assert table.match("GET", "/v1/" + "x" * 100_000) is EVERYTHING
    assert table.match("GET", "/v1/" + "/" * 100_000) is EVERYTHING
    assert table._remembered.cache_info().currsize == 0


SEGMENT = st.text(st.sampled_from("aZ.~%* \n\\é"), max_size=4)


@given(st.lists(SEGMENT, max_size=6))
def test_a_normalised_path_is_plain(segments):
    """
    A normalised path begins with a slash, and has no dots, double slashes or backslashes to resolve.
    """
    plain = normalise("/".join(segments))

    assert plain.startswith("/")
    assert "//" not in plain
    assert "\\" not in plain
    assert not {".", ".."} & set(plain.split("/"))
    assert normalise(plain.rstrip()) == normalise(plain)


@given(st.lists(st.sampled_from(["a", "B", "c.d"]), min_size=1, max_size=4), st.data())
def test_noise_in_a_path_changes_no_match(segments, data):
    """
    Slashes, dots and case put anywhere into a metered path leave it metered.
    """
    route = Route("/" + "/".join(segments))
    noise = st.sampled_from(["/", "//", "/./", "/x/../", "\\", "/.//"])
    path = "".join(data.draw(noise) + data.draw(st.sampled_from([part, part.upper()])) for part in segments)

    assert RouteTable([route]).match("POST", path + data.draw(st.sampled_from(["", "/", "\n", "/."]))) is route


@given(st.text())
def test_any_text_has_readings(path):
    """
    No path raises, whatever is in it.
    """
    assert all(reading.startswith("/") for reading in readings(path))


PREFLIGHT = (("origin", "https://app.example"), ("access-control-request-method", "POST"))


def test_a_preflight_passes():
    """
    A browser's preflight is told by its method and headers.
    """
    assert is_preflight(Facts("OPTIONS", "/v1/chat/completions", PREFLIGHT))
    assert is_preflight(Facts("OPTIONS", "/", (*PREFLIGHT, ("content-length", "0"))))


@pytest.mark.parametrize(
    "facts",
    [
        Facts("POST", "/", PREFLIGHT),
        Facts("OPTIONS", "/"),
        Facts("OPTIONS", "/", PREFLIGHT[:1]),
        Facts("OPTIONS", "/", PREFLIGHT[1:]),
        Facts("OPTIONS", "/", (*PREFLIGHT, ("content-length", "12"))),
        Facts("OPTIONS", "/", (*PREFLIGHT, ("transfer-encoding", "chunked"))),
        Facts("OPTIONS", "/", (*PREFLIGHT, ("authorization", "Bearer x"))),
    ],
)
def test_what_only_looks_like_a_preflight_is_metered(facts):
    """
    A request with a body or credentials is no preflight, because some frameworks run a view on OPTIONS.
    """
    assert not is_preflight(facts)
