"""What the import contracts in pyproject.toml cannot say of the packages."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusi_pipeline import workers

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("fusi_pipeline", "layer_generation")
MODULES = sorted(
    path.relative_to(REPOSITORY) for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")
)
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def parsed(module: Path) -> ast.Module:
    return ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))


def uses_of_the_environment(module: Path) -> Iterator[str]:
    """Yield how a module touches the environment: `read`, or the name of a method called on it."""
    tree = parsed(module)
    called = {
        id(node.func.value): node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            yield called.get(id(node), "read")
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from ("read" for alias in node.names if alias.name in ENVIRONMENT)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_settings_reads_the_environment(module: Path) -> None:
    uses = set(uses_of_the_environment(module))
    if module.name == "settings.py":
        assert uses
    elif module == Path("fusi_pipeline/workers.py"):
        assert uses == {"update"}, "a worker's environment is set, and never read"
    else:
        assert not uses


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_says_what_it_is_about(module: Path) -> None:
    charter = ast.get_docstring(parsed(module))
    assert charter, "the first paragraph of a file says which noun or verb it is about"
    assert re.search(r"[.:]$", charter.splitlines()[0].strip()) or len(charter.splitlines()) > 1


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_prints_but_what_a_person_runs(module: Path) -> None:
    calls = {
        node.func.id
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in calls


@pytest.mark.parametrize("name", workers.PRELOAD)
def test_what_workers_are_told_by_name_exists(name: str) -> None:
    assert callable(importlib.import_module(name).start)


@pytest.mark.parametrize("module", ["build_run", "merge_run", "deep"])
def test_the_functions_workers_are_told_by_name_exist(module: str) -> None:
    text = (REPOSITORY / "fusi_pipeline" / f"{module}.py").read_text(encoding="utf-8")
    worker = importlib.import_module(str(importlib.import_module(f"fusi_pipeline.{module}")._WORKER))
    functions = re.findall(r'f"\{_WORKER\}:(\w+)"', text)
    assert functions
    assert all(callable(getattr(worker, function)) for function in functions)


def test_the_layers_drawn_in_the_document_are_those_of_the_contracts() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    held = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = [block.split("\n")[:-1] for block in re.findall(r"^```layers\n(.*?)^```", text, re.M | re.S)]
    assert drawn == held


def test_every_contract_on_layers_is_exhaustive() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    assert all(contract.get("exhaustive") for contract in contracts if contract["type"] == "layers")
    forbidden = {name for contract in contracts for name in contract.get("forbidden_modules", [])}
    assert {"dagster", "rasterio", "numba", "layer_generation", "fusi_pipeline.*"} <= forbidden
