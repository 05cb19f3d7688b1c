"""Printed text cannot control the terminal, and errors are cut to a readable length."""

import io
import json
import sys

import pytest

from configs.system.terminal import MOST_LETTERS, bounded, escaped_output, shown, unescaped, visible

SEQUENCES = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJm\x1b\\",
    "cleared screen": "\x9b2J",
    "overwritten line": "paid\rfree",
    "backspace": "ab\b\b",
    "reversed letters": "\u202etxt.exe",
    "deleted": "\x7f",
    "another newline": "a\u2028b\x85c\x0bd",
    "half a surrogate": "a\udcff",
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_would_steer_a_terminal_is_shown(name):
    text = visible(SEQUENCES[name])
    assert text.isprintable() and "\\" in text
    assert visible(text) == text


def test_text_tabs_and_newlines_stay():
    text = "ключ\t鍵 é 👍\nnext\n"
    assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"


@pytest.mark.parametrize("name", SEQUENCES)
def test_json_stays_json(name):
    value = {"item": SEQUENCES[name] + "鍵"}
    text = visible(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert text.isprintable()


def test_standard_streams_are_escaped_inside_and_as_they_were_after(capfd):
    before = sys.stdout, sys.stderr
    with escaped_output():
        print("out \x1b[31m", flush=True)
        print("err \x9b", file=sys.stderr, flush=True)
        unescaped(sys.stdout).write("\x1b[H")
        assert sys.stdout.isatty() is False and sys.stdout.fileno() == before[0].fileno()
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr() == ("out \\x1b[31m\n\x1b[H", "err \\u009b\n")


def test_a_letter_that_the_locale_lacks_is_escaped(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    with escaped_output():
        print("é鍵", flush=True)
    assert buffer.getvalue() == b"\\u00e9\\u9375\n"


def test_errors_are_bounded():
    assert bounded("short") == "short"
    text = bounded("a" * 10**6 + "the end")
    assert len(text) < MOST_LETTERS + 100 and text.endswith("the end") and "left out" in text


def bomb():
    value = ["lol"] * 10
    for _ in range(30):
        value = [value] * 10
    return value


@pytest.mark.parametrize("value", [bomb(), {"a": bomb()}, "x" * 10**7, 1 << 10**6, b"y" * 10**7], ids=type)
def test_any_value_is_shown_briefly(value):
    """Written in full, the first two would be endless."""
    assert len(shown(value)) < 1000


def test_ordinary_values_are_shown_whole():
    for value in ("text", 12, 0.5, None, True, [1, 2], {"a": {"b": [1]}}):
        assert shown(value) == repr(value)
