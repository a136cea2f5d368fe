"""Makes a folder once, for all processes: complete or not there at all.

A lock file lets one process build while the others wait; the lock goes with its holder, however
that one ends. What is built stands under a `.partial` name until it is complete, and is renamed
then; a `.partial` folder seen under the lock was left by a process that died, and is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pdrt.errors import ModelError


def make_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, after making it with `build(partial_folder)` if it is not there.

    If `build` raises, nothing is left. Parents are made private to the user (0700).

    Raises:
        ModelError: the folder, a parent or what is to be in it cannot be made or read.
    """
    try:
        if folder.is_dir():
            return folder
        for parent in reversed(folder.parents):  # mkdir(parents=True): the mode of the last only
            parent.mkdir(exist_ok=True, mode=0o700)
        with _locked(folder.with_name(folder.name + ".lock")):
            if not folder.is_dir():  # another process may have made it while this one waited
                _build(folder, build)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        raise ModelError(
            f"the cache {folder.parent} cannot be made: {error.strerror or error}{place}; set "
            "XDG_CACHE_HOME to a folder that can be written to and has room"
        ) from None
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        build(partial)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another process that is making {path.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tell(message: str) -> None:
    """One line of progress for the person at the terminal."""
    print(f"pdrt: {message}", file=sys.stderr, flush=True)
