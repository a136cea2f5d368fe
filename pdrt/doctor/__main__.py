"""Examines the machine: `python -m pdrt.doctor [--json]`.

One line for each subject: ok, missing (and what to do) or note. Nothing is changed; memory of a
device is shared between two processes for a moment, and a private MPS daemon is started and ended,
where there are such. The exit code is 0: what is missing may not be needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from pdrt.doctor import gpu, host
from pdrt.doctor.finding import Finding, examined


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pdrt.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    as_json = parser.parse_args().json
    findings = examine()
    print(json.dumps([asdict(found) for found in findings]) if as_json else report(findings))
    return 0


def examine() -> list[Finding]:
    return [*examined("host", host.examine), *examined("gpu", gpu.examine)]


def report(findings: list[Finding]) -> str:
    width = max(len(found.subject) for found in findings)
    return "\n".join(found.line(width) for found in findings)


if __name__ == "__main__":
    sys.exit(main())
