"""The short way of chunks: the bytes are h11's, and so are the mistakes that it tells of."""

from __future__ import annotations

import h11
import pytest

from pdrt.serve.chunks import ChunkConnection

STREAM = h11.Response(status_code=200, headers=[("content-type", "text/event-stream")])
KNOWN_LENGTH = h11.Response(status_code=200, headers=[("content-length", "5")])
PARTS = (b"first", b"", b"x" * 70_000, memoryview(b"view"), bytearray(b"last!"))


def connections(request: bytes) -> tuple[h11.Connection, h11.Connection]:
    """h11's and ours, which have read a request."""
    pair = h11.Connection(h11.SERVER), ChunkConnection(h11.SERVER)
    for each in pair:
        each.receive_data(request + b"\r\nHost: test\r\n\r\n")
        assert type(each.next_event()) is h11.Request
        assert type(each.next_event()) is h11.EndOfMessage
    return pair


def answer(connection: h11.Connection, *events: h11.Event) -> list[bytes | None]:
    return [connection.send(event) for event in events]


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"HEAD / HTTP/1.1"])
def test_a_stream_has_the_bytes_that_h11_gives_it(request_line: bytes) -> None:
    parts = [b""] if request_line.startswith(b"HEAD") else PARTS
    events = [STREAM, *(h11.Data(data=part) for part in parts), h11.EndOfMessage()]
    theirs, ours = connections(request_line)
    assert answer(ours, *events) == answer(theirs, *events)
    assert ours.our_state is theirs.our_state


def test_a_connection_streams_again_after_an_answer_of_known_length() -> None:
    theirs, ours = connections(b"GET / HTTP/1.1")
    known = KNOWN_LENGTH, h11.Data(data=b"12345"), h11.EndOfMessage()
    stream = STREAM, h11.Data(data=b"a"), h11.EndOfMessage()
    for events in (stream, known, stream):
        assert answer(ours, *events) == answer(theirs, *events)
        for each in (theirs, ours):
            each.start_next_cycle()
            each.receive_data(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            while each.next_event() is not h11.NEED_DATA and each.their_state is not h11.DONE:
                pass


def test_more_than_the_announced_length_is_still_a_mistake() -> None:
    _, ours = connections(b"GET / HTTP/1.1")
    ours.send(KNOWN_LENGTH)
    with pytest.raises(h11.LocalProtocolError):
        ours.send(h11.Data(data=b"123456"))


def test_data_after_the_end_or_after_a_mistake_is_refused() -> None:
    _, ours = connections(b"GET / HTTP/1.1")
    answer(ours, STREAM, h11.Data(data=b"a"), h11.EndOfMessage())
    with pytest.raises(h11.LocalProtocolError):
        ours.send(h11.Data(data=b"b"))
    _, ours = connections(b"GET / HTTP/1.1")
    ours.send(STREAM)
    with pytest.raises(h11.LocalProtocolError):
        ours.send(STREAM)
    with pytest.raises(h11.LocalProtocolError):
        ours.send(h11.Data(data=b"b"))
