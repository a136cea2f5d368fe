"""Frames over a socketpair: order, descriptors, full sockets, peers that are gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from pdrt.messages import Admit, Failed, Look, Offer, Report, Stop
from pdrt.wire import decode, encode
from pdrt.worker.channel import MAX_QUEUED_FRAMES, Channel, pair


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    a, b = pair()
    yield a, b
    a.close()
    b.close()


def test_frames_arrive_whole_and_in_order(channels: tuple[Channel, Channel]) -> None:
    a, b = channels
    frames = [Admit(1, 2), Offer(3, 4), Look(), Report((5, 6), True), Failed("ModelError", "é")]
    for frame in frames:
        assert a.send(frame)
    assert [message for message, _ in b.receive(most=1)] == frames[:1]
    assert [message for message, _ in b.receive()] == frames[1:]
    assert b.receive() == []


def test_descriptors_travel_beside_their_frame(channels: tuple[Channel, Channel]) -> None:
    a, b = channels
    fd = os.memfd_create("passed")
    os.write(fd, b"seen")
    a.send(Stop(), [fd])
    os.close(fd)
    ((_, (received,)),) = b.receive()
    assert os.pread(received, 4, 0) == b"seen"
    assert not os.get_inheritable(received)
    os.close(received)


def test_what_the_socket_does_not_take_waits_and_keeps_its_order(
    channels: tuple[Channel, Channel],
) -> None:
    a, b = channels
    sent = [Report(tuple(range(i, i + 500))) for i in range(1000)]
    for frame in sent:
        assert a.send(frame)
    assert a.wants_write, "the socket took everything; the test is too small"
    received = []
    while len(received) < len(sent):
        received += [message for message, _ in b.receive()]
        a.flush()
    assert received == sent and not a.wants_write


def test_a_peer_that_does_not_read_has_a_bounded_queue(channels: tuple[Channel, Channel]) -> None:
    a, b = channels
    taken = sum(a.send(Report(tuple(range(2000)))) for _ in range(MAX_QUEUED_FRAMES + 500))
    assert MAX_QUEUED_FRAMES <= taken < MAX_QUEUED_FRAMES + 500
    assert not a.closed


def test_a_peer_that_is_gone_swallows_frames_and_says_so(
    channels: tuple[Channel, Channel],
) -> None:
    a, b = channels
    b.close()
    assert not a.send(Look())
    assert a.closed and not a.wants_write


def test_the_last_words_of_a_peer_are_heard(channels: tuple[Channel, Channel]) -> None:
    a, b = channels
    a.send(Failed("EngineDead", "because"))
    a.close()
    assert [message for message, _ in b.receive()] == [Failed("EngineDead", "because")]
    assert b.closed


@pytest.mark.parametrize("garbage", [b"\xc1", b"hello", b"\x92\xa5Admit\x01", b"\x91\xa4Boom"])
def test_garbage_closes_the_channel_and_raises_nothing(garbage: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(theirs)
    ours.send(garbage)
    assert channel.receive() == [] and channel.closed
    ours.close()
    channel.close()


def test_a_frame_too_large_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError):
        encode(Failed("EngineDead", "x" * 70_000))


def test_unknown_frames_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode(["Nonsense", 1]))
