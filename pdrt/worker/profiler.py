"""The one-shot process that finds out what a worker of one role takes of a GPU.

    python -m pdrt.worker.profiler        started by the keeper, never by hand

It maps the weights as a worker does, and runs what a worker runs before its first request: graphs,
and the largest steps of its role, in a pool of a single page. What is missing on the device then is
what a worker takes: context, kernels, libraries' workspaces, graphs and activations. It is measured
at the device and not in torch, which knows only of the last. The process ends with its answer, and
gives it all back.
"""

from __future__ import annotations

from pathlib import Path

from pdrt.loading_messages import Peak, Probe
from pdrt.model.layout import WeightFormat
from pdrt.runner.executors import scratch_executor
from pdrt.runner.rehearsal import rehearse
from pdrt.runner.shape import ServerShape
from pdrt.worker import process
from pdrt.worker.slabs import attach_weights, device_number


def main() -> None:
    keeper, probe, fds = process.begin("profiler", Probe)
    process.begin_work(f"profiler of {probe.worker.role}", probe.server.log_level)
    try:
        keeper.send(measure(probe, probe.handles[0] if probe.handles else fds[0]))
    except Exception as error:
        keeper.send(process.failure(error))
        raise SystemExit(1) from None


def measure(probe: Probe, weights: int | bytes) -> Peak:
    """Runs the largest steps; what this process holds after them.

    Args:
        weights: their descriptor or handle.
    """
    server, role = probe.server, probe.worker.role
    shape = ServerShape.of(server)
    memory = attach_weights(server, weights)
    executor = scratch_executor(Path(server.folder), WeightFormat.of(server), memory, shape)
    executor.warm_up(role)
    if server.device == "cpu":
        rehearse(executor, shape, role)  # which is part of the warm-up only where kernels compile
        return Peak(own_memory(), executor.graph_bytes)
    from pdrt._C_cuda import device_report

    left = device_report(device_number(server.device)).memory_free
    return Peak(max(0, probe.memory_free - left), executor.graph_bytes)


def own_memory() -> int:
    """Bytes of the machine's memory that this process shares with none."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
