"""A program of WSGI's, as a view of a framework plays it."""

from programs import error_of


def read(program, source):
    """Read as the program does, and raise what it raises before it answers."""
    for word, *rest in program.before:
        if word == "read":
            source.read(rest[0])
        elif word == "readline":
            source.readline()
        elif word == "raise":
            raise error_of(rest[0])


def start_of(program):
    """The status and the headers that come first; of lengths only right ones, since frameworks set their own."""
    for step in (*program.before, *program.chunks):
        if not isinstance(step, bytes) and step[0] in ("start", "again"):
            return int(step[1][:3]), [pair for pair in step[2] if pair[0].lower() != "content-length"]
    return 200, []


def whole(program):
    """The body in one piece."""
    return b"".join(chunk for chunk in program.chunks if isinstance(chunk, bytes))


def streamed(program):
    """The body chunk by chunk, with what it raises."""
    for chunk in program.chunks:
        if isinstance(chunk, bytes):
            yield chunk
        elif chunk[0] == "raise":
            raise error_of(chunk[1])


async def astreamed(program):
    """The same on a loop."""
    for chunk in streamed(program):
        yield chunk
