"""What programs need of a machine, such as a GPU or a built extension, and whether it is there.

Like `parts`, imports nothing but the standard library: it must run where all else is missing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 60.0  # seconds for an answer


@dataclass(slots=True)
class Conditions:
    """Answers whether a condition holds by running a line of Python, once, when first asked.

    Attributes:
        tests: by name, the code, which fails where the condition does not hold, and the sentence
            that says so.
    """

    tests: Mapping[str, tuple[str, str]]
    environment: Mapping[str, str] | None
    directory: Path
    answers: dict[str, str | None] = field(default_factory=dict)

    def missing(self, name: str) -> str | None:
        if name not in self.answers:
            self.answers[name] = self._ask(*self.tests[name])
        return self.answers[name]

    def _ask(self, code: str, sentence: str) -> str | None:
        command = [sys.executable, "-c", code]
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{sentence} (no answer within {TIMEOUT:g} s)"
        return sentence if done.returncode else None
