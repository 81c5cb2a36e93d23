"""The exception for input that a user can correct."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# A message of more characters is cut in the middle: its end says what to do.
MAX_MESSAGE = 4000
# Unicode categories of characters that move the cursor, end a line, or are no text.
ESCAPED = ("Cc", "Cs", "Zl", "Zp")
# Characters that change the order in which a terminal shows others.
BIDIRECTIONAL = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: object) -> str:
    r"""Return a text whose control characters are escaped, so that printing it does nothing to a terminal.

    Args:
        text: any object; line ends and tabulators are kept.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return "".join(
        character
        if character in "\n\t" or (unicodedata.category(character) not in ESCAPED and character not in BIDIRECTIONAL)
        else ascii(character)[1:-1]
        for character in str(text)
    )


def quoted(text: object, length: int = 60) -> str:
    r"""Return a text of a file in quotes for a message: escaped, and cut to a length.

    Args:
        text: any object.
        length: largest number of characters, at least 4.

    Example:
        >>> quoted("synthesis.b4.const"), quoted("a" * 100, 8), quoted("\x1b[2J")
        ("'synthesis.b4.const'", "'aaaaa...'", "'\\x1b[2J'")
    """
    whole = str(text)
    return f"'{printable(whole if len(whole) <= length else whole[: length - 3] + '...')}'"


def no_rows(what: str, shape: Iterable[int]) -> str:
    """Return the sentence of latents without numbers.

    Args:
        what: the latents, in words.
        shape: their shape.

    Example:
        >>> no_rows("Latents z", (0, 128))
        'Latents z must have one row or more, received the shape (0, 128): give a row for each picture.'
    """
    return f"{what} must have one row or more, received the shape {tuple(shape)}: give a row for each picture."


def no_edits() -> LaceError:
    """Return the error of a session of edits without any."""
    return LaceError("Editing needs edits and received none: write for example 'glasses == 1', 'age == 0.8'.")


def listed(names: Iterable[object], most: int = 8) -> str:
    """Return the first names of a file for a message, escaped and cut; an empty text for none.

    Args:
        names: the names.
        most: largest number of names, at least 1.

    Example:
        >>> listed(["a", "b", "c"], 2)
        'a, b, ...'
    """
    first = [quoted(name)[1:-1] for _, name in zip(range(most + 1), names, strict=False)]
    return ", ".join([*first[:most], *(["..."] if len(first) > most else [])])


def in_one_line(error: object, length: int = 160) -> str:
    r"""Return what an error says in one line of a message: escaped, and cut to a length.

    Args:
        error: the error, or any text.
        length: largest number of characters, at least 4.

    Example:
        >>> in_one_line("size mismatch:\n\tgot 3")
        'size mismatch: got 3'
    """
    text = " ".join(str(error)[: 8 * length].split()) or type(error).__name__
    return printable(text if len(text) <= length else text[: length - 3] + "...")


class LaceError(ValueError):
    """The error for wrong input; its message says what was required, what was received and what to do.

    Args:
        message: the sentence. Control characters in it are escaped, and what is very long is cut in the middle.

    Example:
        >>> raise LaceError("A batch needs 1 sample or more, received 0: give seeds.")
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: A batch needs 1 sample or more, received 0: give seeds.
    """

    def __init__(self, message: object = "") -> None:
        text = printable(message)
        half = MAX_MESSAGE // 2
        super().__init__(text if len(text) <= MAX_MESSAGE else f"{text[:half]} ... {text[-half:]}")


def suggest(name: str, options: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the option nearest to `name`, or an empty string when none is near.

    Args:
        name: the name that was given.
        options: the names that there are.

    Example:
        >>> suggest("glases", ["smile", "glasses"])
        " Did you mean 'glasses'?"
    """
    near = difflib.get_close_matches(str(name), [str(option) for option in options], n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
