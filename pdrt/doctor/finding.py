"""One line of the doctor's report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# ok       there, and enough
# missing  not there, or too little; `advice` says what to do
# note     neither good nor bad; good to know
OK, MISSING, NOTE = "ok", "missing", "note"


@dataclass(frozen=True)
class Finding:
    """What was found about one subject."""

    subject: str
    status: str  # OK, MISSING or NOTE
    found: str
    advice: str = ""

    def line(self, width: int) -> str:
        """For people; `width` is that of the subjects' column."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.status:<8}{self.subject:<{width}}  {self.found}{advice}"


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, OK, found)


def missing(subject: str, found: str, advice: str) -> Finding:
    return Finding(subject, MISSING, found, advice)


def note(subject: str, found: str, advice: str = "") -> Finding:
    return Finding(subject, NOTE, found, advice)


def examined(subject: str, examine: Callable[[], list[Finding]]) -> list[Finding]:
    """An examination that fails is a finding, not the end of the others."""
    try:
        return examine()
    except Exception as error:
        return [missing(subject, f"{type(error).__name__}: {error}", "see the error")]
