"""Surroundings that are against us: few descriptors or very many, no folder, no home, no reader."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from pdrt.bench.load.servers import free_port
from pdrt.config import cache_dir, settings_of
from pdrt.errors import ConfigError, ModelError
from pdrt.loading_messages import Load
from pdrt.model.cache import make_once
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.source import resolve
from pdrt.serve.chunks import ChunkProtocol
from pdrt.serve.limits import BodyLimit
from pdrt.startup import make_plan
from pdrt.worker import process
from tests.processes import children, eventually


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_loader_whose_keeper_died_while_it_imported_loads_nothing(tiny_llama: Path) -> None:
    server = make_plan(settings_of(model=str(tiny_llama))).server
    child = process.spawn("pdrt.worker.loader", "loader")
    child.channel.send(Load(server))  # without the memory: who reads it fails
    child.channel.close()
    assert child.reap() == "exited with code 0"
    child.close()


def test_an_engine_ends_in_a_program_with_a_thousand_open_files(tiny_llama: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, resource
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        import pdrt
        engine = pdrt.Engine({str(tiny_llama)!r}, max_model_len=256, log_level="error")
        pid = engine.startup_summary()["keeper_pid"]
        engine.shutdown()
        assert not os.path.exists(f"/proc/{{pid}}")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_runs_where_the_working_directory_is_gone(
    tiny_llama: Path, tmp_path: Path
) -> None:
    script = textwrap.dedent(
        f"""
        import os
        os.rmdir(os.getcwd())
        import pdrt
        from pdrt.errors import ModelError
        with pdrt.Engine({str(tiny_llama)!r}, max_model_len=256, log_level="error") as engine:
            assert engine.generate("x", {{"max_tokens": 2}})[0].finished
        try:
            pdrt.Engine("not/there")
        except ModelError:
            pass
        """
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run([sys.executable, "-c", script], cwd=gone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_server_with_few_descriptors_and_nobody_to_read_what_it_prints(
    tiny_llama: Path, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    command = (
        f"ulimit -n 256; exec {sys.executable} -m pdrt.serve --port {port} --model {tiny_llama}"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with log.open("w") as file:
        server = subprocess.Popen(["bash", "-c", command], stdout=writer, stderr=file)
    os.close(writer)
    try:
        assert eventually(lambda: is_ready(port), 90.0), log.read_text()
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
        assert eventually(lambda: "raise ulimit -n" in log.read_text())
        _, *workers = children(server.pid)
        os.kill(workers[-1], signal.SIGKILL)  # the next one needs a descriptor of the front end
        assert eventually(lambda: log.read_text().count(" is up") == 3, 60.0)
        for connection in idle:
            connection.close()
        assert eventually(lambda: is_ready(port), 10.0), log.read_text()
        said = log.read_text()
        assert "Traceback" not in said and len(said) < 5000, said[:5000]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30.0) == 0
    finally:
        server.kill()
        server.wait()


def test_sigterm_while_the_model_is_loaded_is_heard(tiny_llama: Path) -> None:
    """The first process of a container would ignore it, if we had no handler."""
    command = [sys.executable, "-m", "pdrt.serve", "--port", "0", "--model", str(tiny_llama)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert eventually(lambda: bool(children(server.pid)), 60.0)
        family = children(server.pid)
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=30.0)
    assert server.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in said
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


@pytest.mark.parametrize(
    "sent", [b"", b"GET /hea", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_client_that_sends_no_whole_request_is_let_go(sent: bytes) -> None:
    async def scenario() -> bytes:
        config = uvicorn.Config(
            BodyLimit(PlainTextResponse("ok")),
            http=ChunkProtocol,
            lifespan="off",
            log_config=None,
            h11_max_incomplete_event_size=65536,
            timeout_keep_alive=1,
        )
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server._serve([listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(sent)
            async with asyncio.timeout(10.0):
                answer = await reader.read()
            writer.close()
            server.should_exit = True
            await serving
        return answer

    assert asyncio.run(scenario()) == b""


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        cache_dir()


def test_a_home_of_nobody_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be looked for"):
        resolve("~nobody-of-this-name/model", tmp_path)


def test_a_disk_that_is_full_is_an_error_in_one_line(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "config.json"))

    with pytest.raises(ModelError, match=r"No space left on device: .*config.json; set XDG"):
        make_once(tmp_path / "models" / "x", build)
    assert not list(tmp_path.rglob("*.partial"))


def test_weights_that_may_not_be_read_are_not_called_truncated(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    spec = read_spec(tiny_llama)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read: Permission denied"):
        locate(tiny_llama, spec)
