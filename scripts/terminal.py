"""Terminals as they are: some cannot print every letter, some are closed, full or gone, and work goes on."""

import codecs
import io
import logging
import os
import sys
import unicodedata
from contextlib import suppress

PLAIN = {"…": "...", "–": "-", "—": "-", "×": "x", "→": "->", "≥": ">=", "≤": "<=", "·": "*", "“": '"', "”": '"'}
"""Letters that ASCII lacks → what says the same. Boxes and bars are drawn with -, | and +."""


def prepare() -> None:
    """Makes stdout and stderr take whatever is printed.

    A letter that the terminal's encoding lacks is printed in other letters. What was closed (`>&-`) goes nowhere.
    stderr, for progress and errors, never ends the work: what cannot be written there is lost.
    """
    _open_what_is_closed()
    codecs.register_error("plain", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")
    if type(sys.stderr) is io.TextIOWrapper and sys.stderr is sys.__stderr__:
        own, buffer = sys.stderr, sys.stderr.buffer
        sys.stderr = _Patient(buffer, own.encoding, "plain", line_buffering=True, write_through=True)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells in a dozen lines that HOME cannot be written


def let_go() -> None:
    """Writes out what is left to be written; what cannot be goes nowhere, or Python would complain of it at the end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Patient(io.TextIOWrapper):
    """Loses what cannot be written, except where the reader is gone."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError:
            pass


def _open_what_is_closed() -> None:
    """Or the next file to be opened would take the number of stdout, and be written into."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - as long as we live


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_plain, letters)), error.end


def _plain(letter: str) -> str:
    if letter in PLAIN:
        return PLAIN[letter]
    if "\u2500" <= letter <= "\u257f":  # the lines of boxes
        return {"─": "-", "━": "-", "═": "-", "│": "|", "┃": "|", "║": "|"}.get(letter, "+")
    if "\u2580" <= letter <= "\u259f":  # the blocks of bars
        return "#"
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()  # ² → 2, ä → a
    return plain or "?"
