"""A real `python -m pdrt.serve` beside the test, and what tests ask of it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

START_SECONDS = 90.0  # several imports of torch on two shared cores
BUSY_STATES = ("prefilling", "sealed", "decoding", "quarantined")


class ServerProcess:
    """Starts at construction and answers when that returns; `--port 0`, so it disturbs nobody."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "pdrt.serve", "--port", "0", *flags]
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.summary = self._read_summary()
        found = re.search(r"http://[\d.]+:(\d+)", self.summary)
        assert found, f"no URL in {self.summary!r}; log: {self.log()}"
        self.url, self.port = found[0], int(found[1])
        self.client = httpx.Client(base_url=self.url, timeout=30.0)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return self._sum(self._samples(), name, labels)

    def pages(self) -> dict[str, float]:
        """KV pages by state, and their total, all of one moment."""
        samples = [sample for sample in self._samples() if sample.name == "pdrt:kv_pages"]
        return {sample.labels["state"]: sample.value for sample in samples}

    def is_idle(self) -> bool:
        """No request is known, and every page is free or cached."""
        samples = self._samples()
        busy = sum(self._sum(samples, "pdrt:kv_pages", {"state": s}) for s in BUSY_STATES)
        return busy == 0 and self._sum(samples, "pdrt:num_requests_running", {}) == 0

    def _samples(self) -> list[Sample]:
        response = self.client.get("/metrics")
        assert response.status_code == 200, response.text
        families = text_string_to_metric_families(response.text)
        return [sample for family in families for sample in family.samples]

    @staticmethod
    def _sum(samples: list[Sample], name: str, labels: dict[str, str]) -> float:
        found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        assert found, f"no {name} with {labels} in /metrics"
        return sum(found)

    def complete(self, **body: object) -> httpx.Response:
        return self.client.post("/v1/completions", json=body)

    def chat(self, **body: object) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=body)

    def events(self, path: str, **body: object) -> list[str]:
        """The data of all events of a stream, in order."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            return list(data_of(response))

    def raw(self, request: bytes) -> socket.socket:
        """Sends bytes as they are, for what no client library would send."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(request)
        return connection

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def close(self) -> None:
        """Ends the process, if it has not ended yet."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()

    def _read_summary(self) -> str:
        """Up to the curl line, which is the last; until then nothing is served."""
        assert self.process.stdout
        lines: list[str] = []
        deadline = time.monotonic() + START_SECONDS
        for line in self.process.stdout:
            lines.append(line)
            if "curl" in line or time.monotonic() > deadline:
                break
        return "".join(lines)


def data_of(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def post(path: str, body: dict[str, object]) -> bytes:
    """The bytes of a POST."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
