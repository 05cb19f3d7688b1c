"""README.md and docs/ name only commands, files and variables that exist, and their pages are readable."""

import argparse
import ast
import contextlib
import pathlib
import re
import shlex

import pytest
import yaml

from configs.load import parse_config
from trainer import cli
from trainer.commands import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
)
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
pytestmark = pytest.mark.any_python
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
# Stands for the rest of a command.
_ELLIPSIS = {"...", "…"}


def blocks(page: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Words of all shell commands of a block, without comments and with continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def quoted_commands(path: pathlib.Path) -> list[list[str]]:
    """`lazytower ...` in running text and comments, where flags are given or the name is a sub-command."""
    text = re.sub(r"\n(# ?)?\s*", " ", path.read_text())
    found = [shlex.split(quoted) for quoted in re.findall(r"`(lazytower [^`]+)`", text)]
    return [words for words in found if not _ELLIPSIS & set(words)]


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of the innermost sub-command, and the words after it."""
    assert words[1] in COMMANDS, f"lazytower has no {words[1]}"
    parser, rest = cli._parser(words[1]), words[1:]
    while rest:
        nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not nested or rest[0] not in nested[0].choices:
            break
        parser, rest = nested[0].choices[rest[0]], rest[1:]
    return parser, rest


def check_flags(words: list[str]) -> None:
    """Every flag is one of the sub-command's. Required ones may be missing, as in prose."""
    parser, rest = parser_of(words)
    known = {option for action in parser._actions for option in action.option_strings}
    for word in rest:
        if word.startswith("--") and words[1] != "prepare":  # whose other flags are Beam's
            assert word.partition("=")[0] in known, f"{shlex.join(words)}: no flag {word}"


@EVERY_PAGE
def test_commands_in_blocks_parse(page):
    for block in blocks(page, "bash"):
        for words in commands(block):
            if words[0] == "lazytower" and not _ELLIPSIS & set(words):
                check_flags(words)
                with contextlib.suppress(SystemExit) if "--explain" in words else contextlib.nullcontext():
                    cli.parse(words)
            elif words[0].startswith("scripts/"):
                assert (ROOT / words[0]).is_file(), words[0]


@pytest.mark.parametrize("path", [*PAGES, *CONFIGS, *SCRIPTS], ids=lambda path: path.name)
def test_quoted_commands_exist(path):
    for words in quoted_commands(path):
        check_flags(words)


def test_a_wrong_flag_and_a_wrong_command_are_found():
    with pytest.raises(AssertionError, match="no flag --sloth"):
        check_flags(["lazytower", "train", "--sloth"])
    with pytest.raises(AssertionError, match="has no tame"):
        check_flags(["lazytower", "tame"])


@EVERY_PAGE
def test_paths_exist(page):
    """In backticks, such as `trainer/cli.py` or `docs/`; and targets of links."""
    text = page.read_text()
    named = re.findall(r"`((?:configs|docker|docs|pipelines|scripts|tests|trainer|\.github)/[\w./-]*)`", text)
    for path in named:
        assert (ROOT / path).exists() or "NAME" in path, f"{page.name}: {path} does not exist"
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target} does not exist"


@EVERY_PAGE
def test_lines_are_short(page):
    """At most 120 characters, outside of tables and code."""
    text = re.sub(
        r"^```.*?^```$", lambda code: "\n" * code[0].count("\n"), page.read_text(), flags=re.M | re.S
    )
    long = [n for n, line in enumerate(text.splitlines(), 1) if len(line) > 120 and not line.startswith("|")]
    assert not long, f"{page.name}: lines {long}"


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^\| \[([\w.]+)\]", index, re.MULTILINE)) == pages


# docs/architecture.md


def where_is_it() -> list[tuple[str, list[str]]]:
    """(question, paths) of the table."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ([^|]+\?) \| ([^|]+) \|$", text, re.MULTILINE)
    return [(question, re.findall(r"`([^`]+/[^`]*)`", answer)) for question, answer in rows]


# What is found in the file at the first path of an answer, or in the __init__.py of a folder.
THINGS = {
    "Where is the bias correction of Adam?": "def bias_correction_factor(",
    "What writes `COMMITTED`?": "write_bytes(storage.join(path, COMMITTED)",
    "Where do I add a ranking metric?": "AT_CUTOFF",
    "Where do I add a metric of lists of recommended items?": "OF_ITEMS",
    "Where are users and items divided for `evaluate.by`?": "def segment_tables(",
    "Where do I add a metric of predictions?": "OF_SUMS",
    "Where is the AUC made exact beyond memory?": "class SortedSums",
    "Where do I add a model?": "MODELS",
    "Where do I add an optimizer?": "ROW_OPTIMIZERS",
    "Where do I add a source?": "MODULES",
    "Where do I add a launcher?": "LAUNCHERS",
    "Where do I add an index?": "MODULES",
    "Where do I add a kind of embedding?": "TABLE_KINDS",
    "Where do I add a sub-command?": "COMMANDS",
    "Where do I add a benchmark?": "BENCHES",
    "What decides which checkpoint is deleted?": "def prune(",
    "Which checkpoint is the best?": "class BestRecord",
    "Where is the next action of a job decided?": "def next_action(",
    "What runs on the machine of a job?": "heartbeat",
    "Where are TPU slices requested and deleted?": "class CloudTpu",
    "Where is the JobSet of a job on Kubernetes?": "def jobset(",
    "Where are crosses and dot products?": "INTERACTIONS",
    "Where do tasks share layers?": "HEADS",
    "Where is the in-batch softmax?": "def in_batch_softmax(",
    "Where are train, valid and test rows separated?": "def temporal(",
    "Which reasons are there to reject a row?": "missing_",
    "What are the keys of the YAML?": "class RunConfig(",
    "What is in `dataset.json`?": "class Dataset(",
    "How does a run stop on SIGTERM?": "signal.SIGTERM",
    "Where are the signatures of the served model?": "recommend",
    "Where is the memory of a run forecast?": "def peak_bytes(",
    "Where is a new day accepted or refused?": "def decide",
    "Where is it decided what a sweep tries next, and what it stops?": "def stops_at",
    "Where do a sweep's trials become jobs?": "def _submitted",
    "Where is the interval of a difference between runs?": "def differences",
    "Where do popularity and the other baselines come from?": "opularity",
    "What does the report look like?": "def page(",
    "Where is gs:// read and written?": "gs://",
    "What does `prepare` print at its end?": "def row_lines(",
    "What is in `COMMITTED`?": "class CheckpointManifest(",
    "Where is the version?": "lazytower --version",
    "Where are rows matched with those of another run?": "def match_tables(",
    "Where is the population stability index?": "def stability_index(",
    "Where is a chain of datasets folded?": "def compact(",
    "Where do I add something to score, or a format of its files?": "TABLES",
    "Where are rows copied aside while a checkpoint is written?": "Snapshot::Keep",
    "Where are the best items of many users found?": "TopK",
    "What makes a batch output continue after a kill?": "class Target",
    "Where is the transformer over the history?": "class SequenceTower(",
    "Which rows train with an ordered history?": "def window_ends(",
    "Where do I add a loss of two-tower models?": "TOWER_LOSSES",
    "Which host holds a row?": "class ClusterTable(",
    "Where is a lost host noticed?": "def host_losses(",
}


def test_there_are_twenty_questions():
    assert len(where_is_it()) >= 20
    assert {question for question, _ in where_is_it()} == set(THINGS)


@pytest.mark.parametrize(("question", "paths"), where_is_it(), ids=lambda value: str(value)[:40])
def test_answers_are_true(question, paths):
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
    file = ROOT / paths[0]
    text = (file / "__init__.py" if file.is_dir() else file).read_text()
    thing = THINGS[question]
    assert re.search(rf"^{thing}(: .*)? = {{", text, re.MULTILINE) if thing.isupper() else thing in text


def test_the_tree_names_what_is_there():
    """Every package of trainer and pipelines, and no other."""
    tree = blocks(ROOT / "docs" / "architecture.md", "")[0]
    for package in ("trainer", "pipelines"):
        part = tree[tree.index(f"{package}/") :]
        named = set()
        for line in part.splitlines()[1:]:
            if not line.startswith(" "):
                break
            named |= set(re.findall(r"^  (\w+)/", line))
        there = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert named == there, package


# docs/extending.md


def test_recipes_name_registries_and_unions():
    text = (ROOT / "docs" / "extending.md").read_text()
    rows = re.findall(r"^\| an? [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert len(rows) == 10
    for written, registries, section in rows:
        path = ROOT / re.search(r"`([^`]+\.py)`", written)[1]
        registry_file = path if path.exists() else path.parent / "__init__.py"
        for registry in re.findall(r"`(\w+)`", registries):
            assert re.search(rf"^{registry}(: .*)? = {{", registry_file.read_text(), re.MULTILINE), registry
        if section != "none":
            file, union = re.findall(r"`([^`]+)`", section)
            assert re.search(rf"^{union} = Annotated\[", (ROOT / file).read_text(), re.MULTILINE), union


# docs/environment.md


def documented_variables() -> set[str]:
    text = (ROOT / "docs" / "environment.md").read_text()
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


# Of the shell, of Python and of pyenv.
_OF_THE_SYSTEM = {"PYENV_ROOT", "HOME", "PATH", "PWD", "BASH_SOURCE", "SECONDS", "VIRTUAL_ENV"}


def python_variables() -> set[str]:
    """Names that Python code takes from the environment or puts there, constants of the modules included."""
    found = set()
    for top in ("configs", "pipelines", "trainer"):
        for path in (ROOT / top).rglob("*.py"):
            tree = ast.parse(path.read_text())
            constants = {
                target.id: node.value.value
                for node in tree.body
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                found |= _names(node, constants)
    return found


def _names(node: ast.AST, constants: dict) -> set[str]:
    """Names in os.environ[...], os.environ.get(...) and the like, os.getenv(...)."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
        name = node.slice
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
        *(f"os.environ.{method}" for method in ("get", "setdefault", "pop")),
        "os.getenv",
    ):
        name = node.args[0]
    else:
        return set()
    value = name.value if isinstance(name, ast.Constant) else constants.get(getattr(name, "id", None))
    return {value} if isinstance(value, str) else set()


def script_variables() -> set[str]:
    """${NAME:-default} and ${NAME} of scripts, but for names that scripts assign."""
    text = "\n".join(re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE) for path in SCRIPTS)
    optional = set(re.findall(r"\$\{([A-Z][A-Z_0-9]+):?[-+]", text))
    used = set(re.findall(r"\$\{?([A-Z][A-Z_0-9]+)", text))
    return optional | (used - set(re.findall(r"\b([A-Z][A-Z_0-9]+)=", text)))


def image_variables() -> set[str]:
    """Of lazytower, or arguments of the build."""
    text = "\n".join(path.read_text() for path in (ROOT / "docker").glob("*.Dockerfile"))
    return set(re.findall(r"^ARG (\w+)", text, re.M)) | set(re.findall(r"^ENV (LAZYTOWER_\w+)", text, re.M))


def ours_anywhere() -> set[str]:
    """LAZYTOWER_... in any source, script, test or Dockerfile."""
    files = [
        path
        for top in ("configs", "pipelines", "trainer", "scripts", "docker", "tests")
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".sh", ".c", ".Dockerfile")
    ]
    return {name for path in files for name in re.findall(r"\bLAZYTOWER_[A-Z_]*[A-Z]\b", path.read_text())}


@pytest.mark.parametrize("collect", [python_variables, script_variables, image_variables, ours_anywhere])
def test_every_environment_variable_is_documented(collect):
    names = collect() - _OF_THE_SYSTEM
    assert names, "nothing was found: the search is broken"
    assert names <= documented_variables()


def test_documented_variables_are_used():
    sources = "\n".join(
        path.read_text()
        for top in ("configs", "pipelines", "trainer", "scripts", "docker", "tests")
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".sh", ".c", ".Dockerfile") and path.name != "test_documentation.py"
    )
    assert not {name for name in documented_variables() if not re.search(rf"\b{name}\b", sources)}


# Others


def test_documents_of_the_readme_are_valid_runs():
    first, second = blocks(ROOT / "README.md", "yaml")
    document = yaml.safe_load(first)
    parse_config(document, "README.md")
    document["source"]["paths"] = ["gs://bucket/events.csv"]
    document["dataset"]["path"], document["output"]["path"] = "gs://bucket/shop", "gs://bucket/run"
    assert parse_config(document | yaml.safe_load(second), "README.md").launch.kind == "cloud_tpu"


def test_ci_runs_the_scripts():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    [job] = workflow["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs == ["scripts/test.sh"]
    newest = int(re.search(r'python_requires=">=3.\d+,<3.(\d+)"', (ROOT / "setup.py").read_text())[1]) - 1
    assert job["strategy"]["matrix"]["python"] == list(dict.fromkeys(["3.11", f"3.{newest}"]))
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert {"name", "description", "body"} <= set(yaml.safe_load(form.read_text()))
    assert "lazytower doctor --json" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug_report.yml").read_text()


@pytest.mark.parametrize("package", ["configs", "pipelines", "trainer"])
def test_packages_ship_their_types(package):
    assert (ROOT / package / "py.typed").read_text() == ""
    [call] = [
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Expr) and getattr(getattr(node.value, "func", None), "id", "") == "setup"
    ]
    [data] = [ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "package_data"]
    assert "py.typed" in data[package]
