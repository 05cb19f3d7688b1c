"""Registries: what their modules and keys are called, and where kinds may be told apart."""

import ast
import functools

import pytest

from tests.test_architecture import FOLDERS, ROOT, SOURCES, defined, is_class, parsed, within
from trainer.bench import BENCHES
from trainer.commands import COMMANDS

pytestmark = pytest.mark.any_python


# Registries: module, name, files beside the entries.
REGISTRIES = {
    "trainer/models": (
        "MODELS",
        {
            "base",
            "dense",
            "drawn",
            "heads",
            "interactions",
            "losses",
            "recommender",
            "sequence",
            "tower_losses",
        },
    ),
    "trainer/optimizers": (
        "ROW_OPTIMIZERS",
        {"arguments", "base", "checks", "clipping", "schedules", "sm3_maths"},
    ),
    "trainer/embeddings": ("TABLE_KINDS", {"base", "block_hash", "blocks", "pooling"}),
    "trainer/embeddings/engines": ("TABLE_ENGINES", {"stored", "tensorcore", "tpu"}),
    "trainer/tpu/engines": ("TPU_ENGINES", {"base", "layout"}),
    "trainer/indexes": ("MODULES", {"among", "base", "recall", "packages"}),
    "trainer/launchers": (
        "LAUNCHERS",
        {"base", "api_errors", "local_state", "processes", "startup", "tpu_api", "tpu_slices"},
    ),
    "trainer/commands": ("COMMANDS", set()),
    "trainer/batch/formats": ("FORMATS", {"base"}),
    "trainer/batch/tables": ("TABLES", {"base"}),
    "trainer/bench": ("BENCHES", {"timing"}),
    "pipelines/sources": (
        "MODULES",
        {"identity", "compression", "lines", "quoting", "text", "parquet_types"} | {"reader"},
    ),
}


# Keys whose modules are of another package.
ELSEWHERE = {
    "trainer/commands": {"prepare", "score", "compare-lists", "sweep", "compare"},
    "trainer/bench": {"prepare"},
}


@pytest.mark.parametrize("folder", REGISTRIES)
def test_keys_of_registries_are_file_names(folder):
    name, others = REGISTRIES[folder]
    path = ROOT / folder / "__init__.py"
    values = [
        node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in defined(node)
    ]
    assert len(values) == 1, f"{folder} holds one registry, {name}"
    keys = {key.value for key in values[0].keys}
    files = {file.stem for file in path.parent.glob("*.py")} - {"__init__"} - others
    assert keys - ELSEWHERE.get(folder, set()) == files


@pytest.mark.parametrize("folder", [folder for folder in REGISTRIES if "base" in REGISTRIES[folder][1]])
def test_interfaces_of_registries_stand_in_base(folder):
    assert [node for node in ast.parse((ROOT / folder / "base.py").read_text()).body if is_class(node)]


# Kinds without a registry of modules; the sections of configs/ hold what differs between them.
FEATURE_KINDS = {"categorical", "numeric"}


@pytest.mark.parametrize("folder", [name for name in FOLDERS if not name.startswith("configs")])
def test_kinds_are_not_tested_by_name_outside_their_registry(folder):
    """No `x.kind == "scann"`: what differs between kinds is an attribute of the registry's entry or of its
    section in configs/, so that a new kind has one place.

    Forbidden: comparing (==, !=, in, not in; or by `match`) an attribute, variable or item called `kind` or
    `engine` with a key of a registry, except in the registry's own package, and except in configs/, which
    declares the kinds. pipelines/ knows only the registry of sources. Kinds of devices, ids, splits, polyak
    averages and states of jobs are no registry and may be compared.
    """
    for module in FOLDERS[folder]:
        tested = _tested_kinds(parsed(SOURCES[module]))
        for registry in [name for name in REGISTRIES if name not in ("trainer/commands", "trainer/bench")]:
            known = within(module, "trainer") or registry.startswith("pipelines/")
            if known and not within(module, registry.replace("/", ".")):
                assert not tested & _registry_keys(registry), f"{module}: kinds of {registry}"
        if within(module, "trainer"):
            assert not tested & FEATURE_KINDS, module


def _tested_kinds(tree: ast.AST) -> set[str]:
    """Constants that anything called kind or engine is compared with."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(_called(side) in ("kind", "engine") for side in sides):
                found |= {text for side in sides if _called(side) is None for text in _texts(side)}
        if isinstance(node, ast.Match) and _called(node.subject) in ("kind", "engine"):
            found |= {text for case in node.cases for text in _texts(case.pattern)}
    return found


def _called(node: ast.AST) -> str | None:
    """What a variable, attribute, item or `get(...)` is called."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    key = node.slice if isinstance(node, ast.Subscript) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        key = node.args[0] if node.args else None
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def _texts(node: ast.AST) -> set[str]:
    return {
        inner.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    }


@functools.cache
def _registry_keys(folder: str) -> set[str]:
    name = REGISTRIES[folder][0]
    for node in ast.parse((ROOT / folder / "__init__.py").read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(targets[0], "id", None) == name:
            return {key.value for key in node.value.keys}
    raise AssertionError(f"{folder} holds no {name}")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('config.kind == "scann"', {"scann"}),
        ('"scann" != kind', {"scann"}),
        ('section["kind"] in ("local", "cloud_tpu")', {"local", "cloud_tpu"}),
        ('facts.get("engine") not in {"tfa"}', {"tfa"}),
        ('match config.kind:\n  case "robe_z" | "table": pass', {"robe_z", "table"}),
        ('name == "scann"', set()),
        ("config.kind in KINDS", set()),
        ('KINDS[config.kind] == "x"', set()),
    ],
)
def test_the_rule_of_kinds_sees_them(code, found):
    assert _tested_kinds(ast.parse(code)) == found


@pytest.mark.parametrize("registry", [COMMANDS, BENCHES], ids=["commands", "benches"])
def test_modules_of_commands_are_called_like_them(registry):
    for name, (module, _) in registry.items():
        stem = module.rpartition(".")[2]
        assert stem == name.replace("-", "_") or not module.startswith("trainer.")
