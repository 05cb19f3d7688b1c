"""Spelling, and words that are never plain English here (CONTRIBUTING.md, "Style")."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CHECKED = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "setup.py", "pyproject.toml", ".github"),
    *("configs", "docker", "docs", "pipelines", "scripts", "tests", "trainer"),
)
pytestmark = pytest.mark.any_python
SUFFIXES = (".py", ".md", ".sh", ".yaml", ".yml", ".cc", ".h", ".c", ".Dockerfile")
# What to write instead, by pattern.
WRONG = {
    r"mend(s|ed|ing)?": "fix",
    r"whoever": "name who: the user, a process, another run",
    r"for ever": "forever",
    r"is no (number|multiple|file|directory|value|time|feature|label)": "is not a ...",
    r"are no (numbers|multiples|files|directories|values|features|labels)": "are not ...",
    r"(is|are|was|were|be|been) told(?! apart)": "knows, is configured, is reported",
    r"tells? of": "reports",
    r"at hand": "available",
    r"in vain": "without success",
    r"thereof|wherein": "of it, in which",
    r"made anew": "recreated",
    r"is out of (its|their) reach of": "cannot reach",
    r"of its own accord": "by itself",
}
_PATTERN = re.compile(
    rf"\b({'|'.join(f'(?P<w{i}>{word})' for i, word in enumerate(WRONG))})\b", re.IGNORECASE
)


def files() -> list[pathlib.Path]:
    found = []
    for name in CHECKED:
        path = ROOT / name
        found += [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in SUFFIXES]
    return sorted(path for path in found if path != pathlib.Path(__file__).resolve())


def wrong_words(text: str) -> list[tuple[int, str, str]]:
    """(line, words, what to write instead)."""
    advice = list(WRONG.values())
    return [
        (number, match[0], advice[int(next(n for n, v in match.groupdict().items() if v)[1:])])
        for number, line in enumerate(text.splitlines(), 1)
        for match in _PATTERN.finditer(line)
    ]


def test_words_are_plain():
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {words!r}: write {instead!r}"
        for path in files()
        for line, words, instead in wrong_words(path.read_text())
    ]
    assert not hits, "\n" + "\n".join(hits)


def test_spelling():
    """codespell; pyproject.toml has its exceptions."""
    names = [name for name in CHECKED if (ROOT / name).exists()]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *names], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, "\n" + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nIt is mended.", [(2, "mended", "fix")]),
        ("It waits For ever", [(1, "For ever", "forever")]),
        ("recommend, commended, a forever loop, the number is not odd", []),
    ],
)
def test_wrong_words_are_found(text, words):
    assert wrong_words(text) == words
