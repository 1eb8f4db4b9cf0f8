"""What every script shares: one way to end, one way to print."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfoNotFoundError

from core import logs
from core.canonical import canonical_json
from core.errors import Exit, KobeError
from core.paths import home
from core.secrets import mask_secrets

_NO_WAY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})  # said of a path
_NO_ROOM = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
PIPE_CLOSED = 141  # what a shell reports for a program that wrote to a closed pipe: not a success, and nothing to say

_ASCII = str.maketrans({
    "✓": "ok", "✔": "ok", "✗": "x", "✘": "x", "—": "-", "–": "-", "−": "-", "…": "...", "→": "->", "←": "<-", "≤": "<=",
    "≥": ">=", "×": "x", "·": "*", "•": "*", "│": "|", "─": "-", "≈": "~", "±": "+/-",
    "“": '"', "”": '"', "‘": "'", "’": "'",
})  # fmt: skip


def run(main: Callable[[], int]) -> int:
    """Call `main` and turn however it ends into an exit code and at most one line on stderr.

    KobeError: "kobe: CODE: message — advice" and its exit code. Interrupted, by Ctrl-C or SIGTERM: 130. Usage
    (argparse): its own code. A KOBE_HOME that cannot be written, or no time zones: 10. Anything else is a bug: 70,
    traceback in logs/errors.jsonl.
    """
    with _terminable():
        return _run(main)


def _run(main: Callable[[], int]) -> int:
    try:
        code = int(main())
        sys.stdout.flush()  # a closed pipe must show here, not in the interpreter's shutdown
        return code
    except KobeError as error:
        logs.error_event("command_failed", code=error.code, message=str(error), exit_code=int(error.exit_code))
        complain(f"kobe: {error.code}: {error} — {error.advice}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        complain("kobe: interrupted")
        return int(Exit.INTERRUPTED)
    except SystemExit as error:
        return _code_of(error)
    except BrokenPipeError:
        _silence(sys.stdout)
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the process boundary: the one place that may
        if refusal := _refused(error):
            complain(refusal)
            return int(Exit.CONFIG)
        logs.error_event("command_crashed", code="BUG", message=repr(error), traceback=traceback.format_exc())
        complain(f"kobe: BUG: {type(error).__name__}: {error} — see logs/errors.jsonl")
        return int(Exit.BUG)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command like Ctrl-C, through its `finally` blocks; the runner installs its own way to stop."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: nothing to install
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refused(error: Exception) -> str | None:
    """The line for what is wrong with the machine and not with us; None for a bug."""
    if isinstance(error, ZoneInfoNotFoundError):
        return f"kobe: TZDATA_MISSING: {error.args[0]} — python -m pip install -r requirements.lock.txt"
    return _home_refused(error) if isinstance(error, OSError) else None


def _home_refused(error: OSError) -> str | None:
    """The line for a run-time folder that cannot be written; None for any other trouble, which is a bug."""
    if error.errno not in _NO_ROOM and error.errno not in _NO_WAY:
        return None
    root, named = home().root, error.filename
    if error.errno in _NO_WAY and (not isinstance(named, str) or not _of_home(root, Path(named))):
        return None
    return (
        f"kobe: HOME_UNWRITABLE: {named or root}: {error.strerror} — set KOBE_HOME to a folder that can be written, "
        "or free the disk"
    )


def _of_home(root: Path, named: Path) -> bool:
    """Whether `named` lies in the home or is a folder above it."""
    return root in (named, *named.parents) or named in root.parents


def _code_of(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return int(error.code or 0)
    complain(str(error.code))
    return int(Exit.NO)


def _silence(stream: TextIO) -> None:
    """Point a broken stream at nothing, so that Python's last flush is quiet too."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def complain(text: str) -> None:
    """One masked line on stderr; never raises."""
    with contextlib.suppress(OSError, ValueError):
        _print(" ".join(text.split()), sys.stderr)


def out(text: str) -> None:
    """A result on stdout. On a console or pipe that cannot spell it, the nearest ASCII."""
    _print(text, sys.stdout)


def print_json(obj: Any) -> None:
    """One line of canonical JSON on stdout: sorted keys, ASCII. NaN raises ValueError."""
    _print(canonical_json(obj), sys.stdout)


def _print(text: str, stream: TextIO) -> None:
    stream.write(printable(mask_secrets(text), stream.encoding) + "\n")
    stream.flush()  # also into a pipe: whoever waits there sees that something began


def printable(text: str, encoding: str | None) -> str:
    """`text` if `encoding` can spell it, else with the usual signs in ASCII and "?" for the rest."""
    chosen = encoding or "ascii"
    try:
        text.encode(chosen)
        return text
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(chosen, "replace").decode(chosen)
    except LookupError:
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, width: int = 80) -> str:
    """Plain aligned columns, two spaces apart; numbers to the right. The widest columns shrink until `width` fits."""
    cells = [[_cell(value) for value in row] for row in rows]
    sizes = [max([len(head), *(len(row[i]) for row in cells)]) for i, head in enumerate(headers)]
    least = [min(size, 6) for size in sizes]
    while sum(sizes) + 2 * (len(sizes) - 1) > width and sizes != least:
        widest = max(range(len(sizes)), key=lambda i: (sizes[i] > least[i], sizes[i]))
        sizes[widest] -= 1
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(headers))]
    lines = [list(headers), ["-" * size for size in sizes], *cells]
    return "\n".join(_joined(line, sizes, right) for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())


def _is_number(value: object) -> bool:
    text = _cell(value).replace(",", "").rstrip("%").lstrip("$+-")
    return text == "" or text.replace(".", "", 1).isdigit()


def _joined(line: Sequence[str], sizes: Sequence[int], right: Sequence[bool]) -> str:
    parts = []
    for text, size, to_right in zip(line, sizes, right, strict=True):
        cut = text if len(text) <= size else text[: max(size - 1, 0)] + "~"
        parts.append(cut.rjust(size) if to_right else cut.ljust(size))
    return "  ".join(parts).rstrip()


@contextlib.contextmanager
def progress(*, enabled: bool = True) -> Iterator[Callable[..., None]]:
    """Hand out `tick(*parts)`, which rewrites one line on stderr; silent when disabled or not on a terminal."""
    stream = sys.stderr
    shown = enabled and stream is not None and stream.isatty()

    def tick(*parts: object) -> None:
        if shown:
            with contextlib.suppress(OSError, ValueError):
                text = printable(mask_secrets(" ".join(str(part) for part in parts)), stream.encoding)
                stream.write(f"\r{text[:78]:<78}")
                stream.flush()

    try:
        yield tick
    finally:
        if shown:
            with contextlib.suppress(OSError, ValueError):
                stream.write("\r" + " " * 78 + "\r")
                stream.flush()


def day(text: str) -> date:
    """An argument's type."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date, for instance 2026-10-23") from None


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dotenv", type=Path, help="another .env file")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
