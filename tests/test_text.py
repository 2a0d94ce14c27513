"""What others' messages become: one line that ends where a sentence or a word does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnexport import text

LONG = "The first sentence tells what is wrong with the file. " + "The second one goes on and on about it " * 8


def test_whole_sentences_where_they_fit() -> None:
    assert text.shortened("Short.  And\nplain.", 300) == "Short. And plain"
    assert text.shortened(LONG, 80) == "The first sentence tells what is wrong with the file"


def test_a_cut_is_at_a_word_and_shown() -> None:
    words = "one_two three " * 50
    made = text.shortened(words, 101)
    assert made.endswith("...") and len(made) <= 104 and set(made[:-3].split()) == {"one_two", "three"}
    assert text.shortened("x" * 500, 100) == "x" * 100 + "...", "a word that is longer than all"


@pytest.mark.parametrize(("said", "told"), [
    ("Exception encountered when calling A.call().\n\n\x1b[1mIt does not fit.\x1b[0m\n\nGiven: x", "It does not fit"),
    ("These are not supported:\n['options']\nSave it otherwise.", "These are not supported: ['options']"),
    ("A layer was given\nthe wrong shape\n\nArguments received: 3", "A layer was given the wrong shape"),
    ("Done.\nand more", "Done"),
    ("", "ValueError"),
])
def test_the_line_that_says_something(said: str, told: str) -> None:
    assert text.one_line(ValueError(said)) == told


def test_the_whole_text() -> None:
    assert text.all_in_line(ValueError("  two\nlines. ")) == "two lines"
    assert text.all_in_line(ValueError("")) == "ValueError"


def test_no_message_is_cut_anywhere_else() -> None:
    for file in Path(text.__file__).parent.rglob("*.py"):
        assert not re.search(r"(str\(error\)|\.split\(\)\))[^\n]*\[:\d", file.read_text(encoding="utf-8")), file
