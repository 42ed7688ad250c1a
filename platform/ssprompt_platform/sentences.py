"""Sentences in the terminal: lines to be copied, and lines to be read."""

from __future__ import annotations

import textwrap

from rich.console import Console


def say(console: Console, text: str = "") -> None:
    """Print a line as it is, whatever its length: a path or a command is to be copied."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def tell(console: Console, sentence: str) -> None:
    """Print a sentence, folded between words in a terminal, in one line elsewhere (for grep).

    Lines that follow are indented by two more columns than the first.
    """
    if not console.is_terminal:
        say(console, sentence)
        return
    words = sentence.lstrip()
    indent = sentence[: len(sentence) - len(words)]
    folded = textwrap.wrap(
        words,
        max(40, console.width),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    say(console, "\n".join(folded))
