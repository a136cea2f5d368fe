"""Does a file descriptor alone keep device memory alive?

The keeper of pdrt holds the descriptor of the KV slab and has no CUDA context. This process plays
the keeper: it makes no context either.

1. A maker creates and fills a slab, an importer maps it and finds the bytes; both are killed -9.
   For ten seconds no process of ours has a context. Then a new importer maps the descriptor: are
   the bytes the same?
2. A maker is killed -9 while another process's kernels read its slab: do they go on, unchanged?
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from choreography import Child
from probe import Findings, attempt, main

QUESTION = "does a descriptor held without a context keep device memory through kill -9"
NUM_BYTES = 1 << 30
PAUSE = 10.0  # seconds without a context


def ask(device: int) -> Findings:
    return {
        "num_bytes": NUM_BYTES,
        "all_killed": attempt(survives_all, "vmm", device, NUM_BYTES, PAUSE),
        "maker_killed_while_read": attempt(survives_its_maker, "vmm", device, NUM_BYTES, 4),
    }


def survives_all(kit: str, device: int, num_bytes: int, pause: float) -> Findings:
    """Kills everyone who mapped the slab, waits, and lets a newcomer look."""
    with (
        Child("memory_child.py", kit, str(device)) as maker,
        Child("memory_child.py", kit, str(device)) as importer,
    ):
        _, fd = made(maker, num_bytes, seed=1)
        importer.ask("attach", fd, num_bytes=num_bytes)
        wrong_before = importer.ask("check", seed=1)
        importer.ask("fill", seed=2)
    # Both are killed and reaped here.
    before = others_on_the_card()
    time.sleep(pause)
    try:
        with Child("memory_child.py", kit, str(device)) as newcomer:
            newcomer.ask("attach", fd, num_bytes=num_bytes)
            wrong_after = newcomer.ask("check", seed=2)
    finally:
        os.close(fd)
    return {
        "survives": wrong_before == 0 and wrong_after == 0,
        "wrong_words_before": wrong_before,
        "wrong_words_after": wrong_after,
        "seconds_without_context": pause,
        "processes_on_the_card_meanwhile": before,
    }


def survives_its_maker(kit: str, device: int, num_bytes: int, seconds: float) -> Findings:
    """Kills the maker in the middle of another's reading."""
    with (
        Child("memory_child.py", kit, str(device)) as maker,
        Child("memory_child.py", kit, str(device)) as reader,
    ):
        _, fd = made(maker, num_bytes, seed=3)
        reader.ask("attach", fd, num_bytes=num_bytes)
        os.close(fd)  # so that only the reader's mapping is left
        reader.tell("read", seed=3, seconds=seconds)
        time.sleep(seconds / 2)
        maker.kill()
        read = reader.answer(timeout=60)
        read["wrong_words_later"] = reader.ask("check", seed=3)
    return {"survives": read["wrong_words"] == read["wrong_words_later"] == 0, **read}


def made(maker: Child, num_bytes: int, seed: int) -> tuple[int, int]:
    """Size and descriptor of a new slab, filled by its maker."""
    maker.ask("create", num_bytes=num_bytes)
    maker.ask("fill", seed=seed)
    size, (fd,) = maker.ask("share")
    return size, fd


def others_on_the_card() -> list[str] | None:
    """Processes that have a context on some card, as nvidia-smi sees them; None without it."""
    command = ["nvidia-smi", "--query-compute-apps=pid,process_name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main(ask, QUESTION))
