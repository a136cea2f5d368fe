"""Which device a server runs on. Asks the driver for names only: no context is made here."""

from __future__ import annotations

from pdrt.errors import ConfigError

CPU = "cpu"


def choose_device(wanted: str) -> str:
    """cpu or cuda:N for what was asked: auto, cpu, cuda or cuda:N.

    auto takes the first GPU that CUDA shows (CUDA_VISIBLE_DEVICES), where there is one.

    Raises:
        ConfigError: a GPU was asked for by name, and there is none of that number, no driver or no
            CUDA build; says which.
    """
    if wanted == CPU:
        return CPU
    problem = cuda_problem()
    if problem is not None:
        if wanted == "auto":
            return CPU
        raise ConfigError(f"--device is {wanted}, but {problem}; python -m pdrt.doctor says more")
    number = int(wanted.partition(":")[2] or 0)
    count = num_gpus()
    if number >= count:
        raise ConfigError(f"--device is {wanted}; CUDA shows {count}: give cuda:0 to {count - 1}")
    return f"cuda:{number}"


def cuda_problem() -> str | None:
    """Why no GPU can be used, in a sentence; None where one can."""
    try:
        from pdrt import _C_cuda
    except ImportError:
        return "this build has no CUDA extension (it is built where nvcc is)"
    reason = _C_cuda.unavailable()
    if reason is not None:
        return reason
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed (a CUDA build of torch brings it)"
    return None


def num_gpus() -> int:
    from pdrt import _C_cuda

    return _C_cuda.num_devices()
