"""Fixtures of all tests; each area keeps its own in tests/fixtures_*.py."""

pytest_plugins = [
    "tests.fixtures_checkpoints",
    "tests.fixtures_ledger",
    "tests.fixtures_server",
]
