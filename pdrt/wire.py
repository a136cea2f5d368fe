"""All that may cross between processes, as bytes: msgpack, at most MAX_FRAME_BYTES each."""

from __future__ import annotations

import msgspec

from pdrt.loading_messages import Load, Loaded, MakePool, Peak, PoolMade, Probe
from pdrt.messages import (
    Admit,
    Failed,
    Faulted,
    Look,
    Offer,
    Ready,
    Report,
    Serving,
    Start,
    Stop,
    Sweep,
    Work,
    WorkerDown,
    WorkerUp,
)

Message = (
    Start
    | Sweep
    | Stop
    | Serving
    | WorkerUp
    | WorkerDown
    | Load
    | MakePool
    | Loaded
    | PoolMade
    | Probe
    | Peak
    | Work
    | Ready
    | Faulted
    | Failed
    | Admit
    | Offer
    | Look
    | Report
)

MAX_FRAME_BYTES = 64 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    frame = _encoder.encode(message)
    assert len(frame) <= MAX_FRAME_BYTES, (type(message).__name__, len(frame))
    return frame


def decode(frame: bytes | memoryview) -> Message:
    """Raises msgspec.ValidationError or DecodeError on a frame that is none of ours."""
    return _decoder.decode(frame)
