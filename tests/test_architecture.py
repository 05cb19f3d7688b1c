"""The shape of the source: who may import whom, what files are called, how long they are."""

import ast
import pathlib
import sys

import pytest

from trainer.cli import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("configs", "pipelines", "trainer")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}

# What a package, or a part of one, may import of the project.
ALLOWED = {
    "configs": ["configs"],
    "pipelines": ["configs", "pipelines"],
    "trainer": ["configs", "trainer"],
    "trainer.optimizers": ["configs", "trainer.optimizers", "trainer.addons"],
    "trainer.embeddings": ["configs", "trainer.embeddings", "trainer.optimizers", "trainer.kernels"],
    "trainer.kernels": ["configs", "trainer.kernels", "trainer.polyak"],
    "trainer.engines": ["configs", "trainer.engines"],
    "trainer.models": ["configs", "trainer.models", "trainer.embeddings", "trainer.losses"],
    "trainer.indexes": ["configs", "trainer.indexes"],
    "trainer.launchers": [
        *("configs", "trainer.launchers", "trainer.startup", "trainer.local_state", "trainer.vm"),
    ],
    "trainer.startup": ["trainer.vm", "trainer.vm_files", "trainer.vm_log", "trainer.vm_slice"],
    "trainer.vm": ["trainer.vm_files", "trainer.vm_log", "trainer.vm_slice"],
    "trainer.vm_files": [],
    "trainer.vm_log": [],
    "trainer.vm_slice": ["trainer.vm_files"],
    "trainer.addons": ["configs"],
    "trainer.losses": ["trainer.kernels"],
    "trainer.polyak": ["configs"],
}
# Registries whose keys are file names.
REGISTRIES = {
    "trainer/models": ("trainer.models", "MODELS", {"base", "drawn"}),
    "trainer/optimizers": (
        "trainer.optimizers",
        "ROW_OPTIMIZERS",
        {
            *("rows", "schedules", "variables", "slots", "checks", "clipping"),
            *("keras_shell", "sm3_variables", "sm3_maths"),
        },
    ),
    "trainer/indexes": ("trainer.indexes", "MODULES", {"base", "recall", "scann_package"}),
    "trainer/launchers": (
        "trainer.launchers",
        "LAUNCHERS",
        {"base", "tpu_api", "api_errors", "tpu_slices", "processes"},
    ),
    "pipelines/sources": (
        "pipelines.sources",
        "MODULES",
        {"files", "patterns", "identity", "compression", "lines", "quoting", "text", "parquet_types"}
        | {"reader"},
    ),
}


def imports(path: pathlib.Path, top_only: bool = False) -> set[str]:
    """Modules a file imports, with the imported name appended where it is a module of the project."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & set(SOURCES)) or {node.module}
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_one_way(module):
    allowed = ALLOWED[max((rule for rule in ALLOWED if within(module, rule)), key=len)]
    ours = {name for name in imports(SOURCES[module]) if name.split(".")[0] in PACKAGES}
    wrong = {name for name in ours if not any(within(name, package) for package in allowed)}
    assert not wrong


@pytest.mark.parametrize("module", SOURCES)
def test_files(module):
    path = SOURCES[module]
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc")
    text = path.read_text()
    assert text.count("\n") <= 400
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{module} does not say what it is for"


@pytest.mark.parametrize("module", SOURCES)
def test_public_functions_and_classes_say_what_they_do(module):
    # In `add_arguments` and `run` the contract of a sub-command: trainer/cli.py describes it.
    for node in ast.parse(SOURCES[module].read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


@pytest.mark.parametrize("module", SOURCES)
def test_functions_are_short(module):
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{module}.{node.name} has {length} lines"


@pytest.mark.parametrize("command", COMMANDS)
def test_entry_points_import_heavy_libraries_inside_functions(command):
    """Also through what they import at the top."""
    module = COMMANDS[command][0]
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        for imported in imports(SOURCES[name], top_only=True):
            package = imported.partition(".")[0]
            assert package not in ("tensorflow", "tf_keras", "apache_beam"), f"{name} imports {imported}"
            parents = [imported.rpartition(".")[0]] if imported in SOURCES else []
            todo += [
                m
                for n in (imported, *parents)
                for m in (n, n + ".__init__")
                if m in SOURCES and m not in seen
            ]


@pytest.mark.parametrize("folder", REGISTRIES)
def test_keys_of_registries_are_file_names(folder):
    module, name, others = REGISTRIES[folder]
    path = ROOT / folder / "__init__.py"
    values = [
        node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == name
    ]
    assert len(values) == 1, f"{module} holds one registry, {name}"
    keys = {key.value for key in values[0].keys}
    files = {file.stem for file in path.parent.glob("*.py")} - {"__init__"} - others
    assert keys == files


JOBS = (
    *("submit", "submit_checks", "wheel", "startup", "jobs", "jobs_text", "job_record", "job_logs"),
    *("local_state", "supervise", "launchers.__init__", "launchers.base", "launchers.local"),
    *("launchers.cloud_tpu", "launchers.tpu_api", "launchers.api_errors", "launchers.tpu_slices"),
    *("launchers.processes", "job_config", "job_decisions", "job_watch", "machine_files", "output_claim"),
    *("vm", "vm_files", "vm_log", "vm_slice"),
)


@pytest.mark.parametrize("module", JOBS)
def test_jobs_need_neither_tensorflow_nor_beam(module):
    """Not inside functions either: `lazytower plan` asks TensorFlow in a process of its own."""
    packages = {name.partition(".")[0] for name in imports(SOURCES[f"trainer.{module}"])}
    assert not packages & {"tensorflow", "tf_keras", "apache_beam"}


@pytest.mark.parametrize("module", ["vm", "vm_files", "vm_log", "vm_slice"])
def test_what_runs_on_a_bare_machine_needs_the_standard_library_only(module):
    packages = {name.partition(".")[0] for name in imports(SOURCES[f"trainer.{module}"])}
    assert packages <= set(sys.stdlib_module_names) | {"trainer"}


def test_only_one_file_imports_addons():
    users = {
        name
        for name, path in SOURCES.items()
        for imported in imports(path)
        if imported.partition(".")[0] == "tensorflow_addons"
    }
    assert users <= {"trainer.addons"}
