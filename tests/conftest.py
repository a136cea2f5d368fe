"""Fixtures of all tests; each area keeps its own in tests/fixtures_*.py."""

import os

# Before torch is imported: two threads that spin for each other on a busy machine take forever.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# No test asks the hub for anything; those of the hub bring one of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = [
    "tests.fixtures_checkpoints",
    "tests.fixtures_hub",
    "tests.fixtures_kernels",
    "tests.fixtures_ledger",
    "tests.fixtures_server",
]
