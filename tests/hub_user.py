"""Someone who asks for models: a process of its own for each look-up.

The hub's client reads its environment when it is imported, so every look-up is a new process that
has exactly the variables which a user would set, and no way to anything but the hub on localhost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.hub_server import Hub

SCRIPT = """
import sys, json, logging
from pathlib import Path
from pdrt.errors import PdrtError
from pdrt.model.source import resolve
logging.basicConfig(format="%(levelname)s %(message)s")
try:
    print(resolve(sys.argv[1], Path(sys.argv[2]), **json.loads(sys.argv[3])))
except PdrtError as error:
    print(f"{type(error).__name__}: {error}")
    raise SystemExit(1)
"""


@dataclass(frozen=True)
class Found:
    """The folder, and what was said meanwhile."""

    folder: Path
    said: str


@dataclass
class User:
    """Someone with a home, an environment and a network."""

    home: Path
    hub: Hub
    environment: dict[str, str] = field(default_factory=dict)

    def look_up(self, model: str, **settings: object) -> Found:
        """What `--model` finds; fails where it is no folder."""
        done = self._run(model, settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return Found(Path(done.stdout.strip()), done.stderr)

    def fail(self, model: str, **settings: object) -> str:
        """The error, which is one line and no traceback."""
        done = self._run(model, settings)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
        return done.stdout.strip()

    def command(self, model: str, settings: dict[str, object]) -> list[str]:
        return [
            *(sys.executable, "-c", SCRIPT, model),
            *(str(self.home / "pdrt"), json.dumps(settings)),
        ]

    def variables(self) -> dict[str, str]:
        usual = {"HOME": str(self.home), "HF_ENDPOINT": self.hub.url, "PATH": os.environ["PATH"]}
        return usual | {"PYTHONPATH": os.getcwd()} | self.environment

    def _run(self, model: str, settings: dict[str, object]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(model, settings),
            env=self.variables(),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
