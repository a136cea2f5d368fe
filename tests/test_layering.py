"""Imports point down only, some modules never import torch, and settings are read at the edge.

Walks the source with ast, so an import inside a function counts too; one for type checkers does
not.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up. A module may import its own layer and those below.
LAYERS: list[tuple[str, ...]] = [
    (
        "pdrt.errors",
        "pdrt.config",
        "pdrt.sampling_params",
        "pdrt.request",
        "pdrt.messages",
        "pdrt.loading_messages",
        "pdrt.wire",
        "pdrt.metrics",
        "pdrt.token_metrics",
    ),
    (
        "pdrt.inputs",
        "pdrt.byte_tokens",
        "pdrt.tokenizer",
        "pdrt.detokenizer",
        "pdrt.chat_template",
        "pdrt.template_sandbox",
        "pdrt.template_costs",
        "pdrt.template_syntax",
        "pdrt.template_limits",
        "pdrt.machine",
        "pdrt.mps",
    ),
    ("pdrt._C", "pdrt._C_cuda", "pdrt.kernels", "pdrt.devices"),
    ("pdrt.kv", "pdrt.sched"),
    ("pdrt.model", "pdrt.runner"),
    ("pdrt.worker",),
    (
        "pdrt.updates",
        "pdrt.movement",
        "pdrt.records",
        "pdrt.telling",
        "pdrt.waiting",
        "pdrt.router",
        "pdrt.stream",
    ),
    ("pdrt.engine", "pdrt.frontend", "pdrt.background", "pdrt.startup", "pdrt.stats"),
    ("pdrt.bench.load", "pdrt.bench.suite"),
    ("pdrt.serve", "pdrt.bench", "pdrt.doctor"),
]

TORCH_ALLOWED = (
    "pdrt.doctor.sharing",
    "pdrt.bench.gpu_bench",
    "pdrt.bench.gpu_timing",
    "pdrt.bench.predictions",
    "pdrt.bench.profile",
    "pdrt.bench.quantization",
    "pdrt.bench.reader",
    "pdrt.kernels",
    "pdrt.kv.pool",
    "pdrt.model.batch",
    "pdrt.model.decoder",
    "pdrt.model.dummy",
    "pdrt.model.kernels",
    "pdrt.model.rotary",
    "pdrt.model.weights",
    "pdrt.runner",
)

ENVIRONMENT_ALLOWED = ("pdrt.config", "pdrt.serve", "pdrt.bench.__main__")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kernels":
        parts = ("pdrt", *parts)
    return ".".join(parts).removesuffix(".__init__")


SOURCES = {
    module_name(path): path
    for folder in ("pdrt", "kernels")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "kernels" not in path.relative_to(ROOT / folder).parts  # the link pdrt/kernels
}


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        yield node
        if not is_for_type_checkers(node):
            yield from nodes(node)


def imports(path: Path) -> set[str]:
    """Modules that a file imports; `from pdrt.kernels import cpu` is pdrt.kernels.cpu."""
    found = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else str(node.module) for name in whole}
    return found


def is_module(name: str) -> bool:
    return name in SOURCES or name in ("pdrt._C", "pdrt._C_cuda")


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def layer_of(module: str) -> int:
    for number, packages in enumerate(LAYERS):
        if within(module, packages):
            return number
    raise AssertionError(f"{module} has no layer; name it in LAYERS of {__file__}")


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "pdrt"])
def test_imports_point_down_only(module: str) -> None:
    for imported in imports(SOURCES[module]):
        if imported == "pdrt" or not imported.startswith("pdrt"):
            continue
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}, a layer above"


def test_torch_stays_where_tensors_are() -> None:
    users = {
        module
        for module, path in SOURCES.items()
        if any(name.partition(".")[0] == "torch" for name in imports(path))
    }
    assert users, "the walk found no import of torch at all"
    assert {user for user in users if not within(user, TORCH_ALLOWED)} == set()


def test_environment_and_arguments_are_read_at_the_edge_only() -> None:
    readers = {
        module
        for module, path in SOURCES.items()
        for node in nodes(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("os.environ", "os.getenv", "sys.argv")
    }
    assert {reader for reader in readers if not within(reader, ENVIRONMENT_ALLOWED)} == set()


KERNELS_ALONE = """
import sys
import pdrt.kernels.cpu
print(*sorted(name for name in sys.modules if name.startswith("pdrt")))
"""


def test_kernels_can_be_used_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KERNELS_ALONE], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = done.stdout.split()
    assert "pdrt.kernels.cpu" in loaded
    assert [name for name in loaded if not within(name, ("pdrt._C", "pdrt.kernels"))] == ["pdrt"]


def test_there_is_no_package_named_kernels() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
