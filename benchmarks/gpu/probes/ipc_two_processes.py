"""Does the legacy CUDA IPC handle work between two processes here, and what is forbidden?

A maker fills a slab, an importer finds its bytes and writes others, and the maker finds those. The
same is done with a descriptor, to compare; and it is tried whether one process may fetch another's
descriptor (pidfd_getfd), which some libraries need for sharing and containers often refuse.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from choreography import Child
from probe import Findings, attempt, main

QUESTION = "does legacy CUDA IPC carry memory between two processes, bit for bit"
NUM_BYTES = 256 << 20
SYS_PIDFD_GETFD = 438


def ask(device: int) -> Findings:
    return {
        "num_bytes": NUM_BYTES,
        "ipc": attempt(both_ways, "ipc", device, NUM_BYTES),
        "vmm": attempt(both_ways, "vmm", device, NUM_BYTES),
        "surroundings": surroundings(),
    }


def both_ways(kit: str, device: int, num_bytes: int) -> Findings:
    """Bytes from the maker to the importer and back."""
    with (
        Child("memory_child.py", kit, str(device)) as maker,
        Child("memory_child.py", kit, str(device)) as importer,
    ):
        maker.ask("create", num_bytes=num_bytes)
        maker.ask("fill", seed=1)
        hand_over(maker, importer, num_bytes)
        there = importer.ask("check", seed=1)
        importer.ask("fill", seed=2)
        back = maker.ask("check", seed=2)
    return {"exact": there == back == 0, "wrong_words_there": there, "wrong_words_back": back}


def hand_over(maker: Child, importer: Child, num_bytes: int) -> None:
    shared = maker.ask("share")
    if isinstance(shared, str):
        importer.ask("attach", num_bytes=num_bytes, handle=shared)
        return
    _, (fd,) = shared
    try:
        importer.ask("attach", fd, num_bytes=num_bytes)
    finally:
        os.close(fd)


def surroundings() -> Findings:
    """What may forbid sharing: namespaces, seccomp, ptrace scope, the sandbox's kernel."""
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return {
        "kernel": os.uname().release,
        "user": os.geteuid(),
        "seccomp": status.get("Seccomp", "unknown"),
        "no_new_privs": status.get("NoNewPrivs", "unknown"),
        "ptrace_scope": scope.read_text().strip() if scope.exists() else "none",
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "ipc_namespace": os.readlink("/proc/self/ns/ipc"),
        "pidfd_getfd": attempt(descriptor_fetched),
    }


def descriptor_fetched() -> Findings:
    """Whether pidfd_getfd takes a descriptor out of a child of ours. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as child:
        pidfd = os.pidfd_open(child.pid)
        try:
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, 0, 0)
            if fd < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            os.close(fd)
            return {"allowed": True}
        finally:
            os.close(pidfd)
            child.kill()


if __name__ == "__main__":
    sys.exit(main(ask, QUESTION))
