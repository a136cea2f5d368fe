"""Fixtures of all tests; each area keeps its own in tests/fixtures_*.py."""

import os

# Before torch is imported: two threads that spin for each other on a busy machine take forever.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# No test asks the hub for anything; those of the hub bring one of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

# Before triton is imported: without a GPU its kernels run in Triton's interpreter, on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = [
    "tests.fixtures_checkpoints",
    "tests.fixtures_driver",
    "tests.fixtures_engine",
    "tests.fixtures_hub",
    "tests.fixtures_kernels",
    "tests.fixtures_clock",
    "tests.fixtures_ledger",
    "tests.fixtures_server",
]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
