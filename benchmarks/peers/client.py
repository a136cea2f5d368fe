"""Sends a wave to an OpenAI-style server and notes when each token came.

The requests are pdrt.bench's. Prompts are token ids and so are answers: nobody's tokenizer is in
the figures but for turning tokens to text.
"""

from __future__ import annotations

from benchmarks.peers.load import Answer, Wave
from pdrt.bench.load.api import Target
from pdrt.bench.load.driver import Load, run_load
from pdrt.bench.load.records import Record
from pdrt.bench.load.sessions import Session, Turn
from pdrt.errors import PdrtError

# Token ids tell the count, so no server is asked to write its usage into every chunk.
FIELDS = {"return_token_ids": True, "stream_options": None}


def ask(url: str, wave: Wave) -> Answer:
    """Sends all prompts of the wave at once to the server at `url`.

    Raises:
        PdrtError: the server answered with an error or with another number of tokens, or went away.
    """
    sessions = [Session((Turn(prompt, wave.max_tokens),)) for prompt in wave.prompts]
    records = run_load(Target(url, extra_body=FIELDS), Load(sessions)).records
    for record in records:
        _check(record)
    return Answer(
        [record.token_ids for record in records], [record.token_times for record in records]
    )


def _check(record: Record) -> None:
    if record.error:
        raise PdrtError(f"the server failed: {record.error}")
    if record.wanted_tokens != len(record.token_ids) or record.wanted_tokens != record.seen_tokens:
        given = len(record.token_ids)
        raise PdrtError(f"the server gave {given} token ids of {record.wanted_tokens}")
