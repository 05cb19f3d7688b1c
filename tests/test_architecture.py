"""The shape of the source: who may import whom, what files are called, how long they are, where tests lie."""

import ast
import collections
import functools
import pathlib
import sys

import pytest

from trainer.commands import COMMANDS

pytestmark = pytest.mark.any_python

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("configs", "pipelines", "trainer")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
FOLDERS = {
    folder: [name for name, path in SOURCES.items() if path.parent == ROOT / folder]
    for folder in sorted({str(path.parent.relative_to(ROOT)) for path in FILES})
}
EVERY_FOLDER = pytest.mark.parametrize("folder", FOLDERS)

# Importers first: a package imports what stands below it, never above or beside, lazily or not.
ORDER = {
    "trainer": (
        "trainer.__main__",
        "trainer.cli",
        "trainer.commands",
        "trainer.bench",
        "trainer.sweep",
        "trainer.comparison",
        "trainer.daily",
        "trainer.preflight",
        "trainer.batch",
        "trainer.serving",
        "trainer.training",
        "trainer.evaluation",
        "trainer.jobs",
        "trainer.warm_start",
        "trainer.models",
        "trainer.resources",
        "trainer.cluster",
        "trainer.checkpoints",
        "trainer.tpu",
        "trainer.embeddings",
        "trainer.optimizers",
        "trainer.launchers",
        "trainer.indexes",
        "trainer.kernels",
        "trainer.data",
        "trainer.report",
        "trainer.vm",
        "trainer.runtime",
        "trainer.run_lock",
        "trainer.averages",
        "trainer.addons",
        "trainer.version",
    ),
    "pipelines": (
        "pipelines.bench",
        "pipelines.prepare",
        "pipelines.compact",
        "pipelines.pipeline",
        "pipelines.publish",
        "pipelines.workspace",
        "pipelines.existing",
        "pipelines.report",
        "pipelines.manifest",
        "pipelines.drift",
        "pipelines.summary",
        "pipelines.progress",
        "pipelines.file_order",
        "pipelines.runners",
        "pipelines.chain",
        "pipelines.sides",
        "pipelines.guess",
        "pipelines.stages",
        "pipelines.base",
        "pipelines.rows",
        "pipelines.sources",
        "pipelines.job",
        "pipelines.statistics",
    ),
    "configs": (
        "configs.arguments",
        "configs.explain",
        "configs.load",
        "configs.schema",
        "configs.defaults",
        "configs.rules",
        "configs.planted",
        "configs.dataset_lock",
        "configs.chain",
        "configs.manifest",
        "configs.dataset_parts",
        "configs.columns",
        "configs.transforms",
        "configs.sections",
        "configs.splitmix",
        "configs.system",
        "configs.text",
        "configs.errors",
    ),
}
# What stands in the roots of the packages beside sub-packages: all of it.
ROOT_MODULES = {
    "trainer": {"__init__", "__main__", "addons", "averages", "cli", "run_lock", "runtime", "version"},
    "configs": {"__init__", *(name.partition(".")[2] for name in ORDER["configs"])}
    - {"sections", "system", "planted", "rules"},
    "pipelines": {"__init__", *(name.partition(".")[2] for name in ORDER["pipelines"])}
    - {"runners", "guess", "chain", "sides", "stages", "base", "rows", "sources", "statistics"},
}
MOST_MODULES = 14
# What may import more, or less, than its place in the order says.
ALLOWED = {
    "configs": ["configs"],
    "pipelines": ["configs", "pipelines"],
    "trainer": ["configs", "trainer"],
    # Where both sides meet: models of the trainer on the runners, and from the sources, of the pipelines.
    "trainer.batch": ["configs", "pipelines", "trainer"],
    "trainer.optimizers": ["configs", "trainer.optimizers", "trainer.addons"],
    "trainer.kernels": ["configs", "trainer.kernels", "trainer.averages"],
    "trainer.indexes": ["configs", "trainer.indexes"],
    "trainer.vm": ["trainer.vm"],
}
# What every module of a registry has under one name, and entry points.
CONTRACT = {"add_arguments", "run", "main", "measure", "COLUMNS", "Index", "Reader", "Writer", "Table"}


@functools.cache
def parsed(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file, which nobody may change."""
    return ast.parse(path.read_text())


@functools.cache
def imports(path: pathlib.Path, top_only: bool = False) -> frozenset[str]:
    """Modules a file imports, with the imported name appended where it is a module of the project."""
    found = set()
    # What is imported for types alone is no dependency of the program.
    body = [
        node
        for node in parsed(path).body
        if not (isinstance(node, ast.If) and _names_type_checking(node.test))
    ]
    for node in body if top_only else (inner for outer in body for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & SOURCES.keys()) or {node.module}
    return frozenset(found)


def _names_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def floor_of(module: str, order: tuple[str, ...]) -> int | None:
    """Place in the order of a module or of what is imported; None: of the root itself."""
    return next((i for i, name in enumerate(order) if within(module, name)), None)


@EVERY_FOLDER
def test_imports_point_one_way(folder):
    for module in FOLDERS[folder]:
        allowed = ALLOWED[max((rule for rule in ALLOWED if within(module, rule)), key=len)]
        ours = {name for name in imports(SOURCES[module]) if name.split(".")[0] in PACKAGES}
        wrong = {name for name in ours if not any(within(name, package) for package in allowed)}
        assert not wrong, f"{module} imports {wrong}"


@EVERY_FOLDER
def test_imports_go_down(folder):
    top = pathlib.PurePath(folder).parts[0]
    order = ORDER[top]
    for module in FOLDERS[folder]:
        if module == f"{top}.__init__":
            assert imports(SOURCES[module]) <= {"lazytower_entry"}
            continue
        here = floor_of(module, order)
        assert here is not None, f"{module} has no place in the order"
        for name in imports(SOURCES[module]):
            if within(name, top):
                there = floor_of(name, order)
                assert there is not None and there >= here, f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize("top", ROOT_MODULES)
def test_roots_are_small(top):
    assert {path.stem for path in (ROOT / top).glob("*.py")} == ROOT_MODULES[top]


@EVERY_FOLDER
def test_packages_are_small(folder):
    modules = [name for name in FOLDERS[folder] if not name.endswith(".__init__")]
    assert len(modules) <= MOST_MODULES, f"{folder}: {len(modules)} modules"


def test_no_public_name_is_defined_twice_in_trainer():
    places = collections.defaultdict(set)
    for module in [name for name in SOURCES if within(name, "trainer")]:
        for node in parsed(SOURCES[module]).body:
            for name in defined(node) - CONTRACT:
                if not name.startswith("_"):
                    places[name].add(module)
    assert not {name: sorted(modules) for name, modules in places.items() if len(modules) > 1}


def test_sections_of_the_configuration_are_called_so():
    """`Config` at the end, so that they differ from the names of what is built from them."""
    from configs.load import section_types
    from configs.schema import RunConfig

    todo, seen = [RunConfig], set()
    while todo:
        section = todo.pop()
        if section not in seen:
            seen.add(section)
            for field in section.model_fields.values():
                todo += section_types(field.annotation)
    assert len(seen) > 20
    assert not [section.__name__ for section in seen if not section.__name__.endswith("Config")]


def defined(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


@EVERY_FOLDER
def test_files(folder):
    for module in FOLDERS[folder]:
        path = SOURCES[module]
        assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc")
        text = path.read_text()
        assert text.count("\n") <= 400, f"{module} is too long"
        if text.strip():
            assert ast.get_docstring(parsed(path)), f"{module} does not say what it is for"


@EVERY_FOLDER
def test_public_functions_and_classes_say_what_they_do(folder):
    # In `add_arguments` and `run` the contract of a sub-command: trainer/cli.py describes it.
    for module in FOLDERS[folder]:
        for node in parsed(SOURCES[module]).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


@EVERY_FOLDER
def test_functions_are_short(folder):
    for module in FOLDERS[folder]:
        for node in ast.walk(parsed(SOURCES[module])):
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


def is_class(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef)


JOBS = [name for name in SOURCES if within(name, "trainer.jobs") or within(name, "trainer.launchers")]
VM = [name for name in SOURCES if within(name, "trainer.vm")]


LIGHT = [*JOBS, *VM, "trainer.commands.submit", "trainer.commands.jobs"]


@pytest.mark.parametrize("module", LIGHT)
def test_jobs_need_neither_tensorflow_nor_beam(module):
    """Neither they nor what they import, even inside functions: `plan` runs in a process of its own."""
    assert not heavy_imports(module)


def test_a_heavy_import_far_below_is_found():
    assert heavy_imports("trainer.commands.train") >= {"trainer.runtime imports tensorflow"}


def heavy_imports(module: str) -> set[str]:
    """Imports of TensorFlow or Beam by a module and by all that it imports, lazily or not."""
    todo, seen, found = {module}, set(), set()
    while todo:
        name = todo.pop()
        seen.add(name)
        for imported in imports(SOURCES[name]):
            if imported.partition(".")[0] in ("tensorflow", "tf_keras", "apache_beam"):
                found.add(f"{name} imports {imported}")
            parts = imported.split(".")
            packages = {".".join([*parts[:i], "__init__"]) for i in range(1, len(parts) + 1)}
            todo |= ({imported} | packages) & SOURCES.keys() - seen
    return found


@pytest.mark.parametrize("module", VM)
def test_what_runs_on_a_bare_machine_needs_the_standard_library_only(module):
    packages = {name.partition(".")[0] for name in imports(SOURCES[module])}
    assert packages <= set(sys.stdlib_module_names) | {"trainer"}


def test_only_one_file_imports_addons():
    users = {
        name
        for name, path in SOURCES.items()
        for imported in imports(path)
        if imported.partition(".")[0] == "tensorflow_addons"
    }
    assert users <= {"trainer.addons"}


TESTS = sorted(path for package in PACKAGES for path in (ROOT / "tests" / package).rglob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_tests_mirror_the_source(path):
    """tests/<package>/.../test_<module>.py, with a suffix or not; test_<package>.py: all of it."""
    folder = ROOT / path.parent.relative_to(ROOT / "tests")
    assert folder.is_dir(), f"{path.parent}: there is no such package"
    names = {file.stem for file in folder.glob("*.py")} | {folder.name}
    tested = path.stem.removeprefix("test_")
    assert any(tested == name or tested.startswith(name + "_") for name in names), f"no module of {path.name}"


def test_support_is_no_test():
    for folder in ("support", "end_to_end"):
        files = (ROOT / "tests" / folder).glob("*.py")
        names = {path.name for path in files} - {"__init__.py", "conftest.py"}
        assert {name.startswith("test_") for name in names} <= {folder == "end_to_end"}, folder
