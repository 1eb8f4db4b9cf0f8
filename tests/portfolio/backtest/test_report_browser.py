"""The tear sheet in a real browser: no sideways scrolling on a phone, no console message, no request to anywhere else.

The page is shown in a frame as wide as a phone; the frame's own page measures it, since the report runs no script.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from portfolio.backtest.report import write
from tests.portfolio.backtest.test_report import FOLDS, HONEST, PARITY, WALK, changed, folder, pristine

__all__ = ["folder", "pristine"]  # fixtures

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)

_SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--virtual-time-budget=8000", "--window-size=1400,900",
)  # fmt: skip
_MEASURE = """<!DOCTYPE html><html><head><link rel="icon" href="data:,"></head><body>
<iframe id="f" src="report.html" style="width:{width}px;height:800px;border:0"></iframe><pre id="out"></pre><script>
document.getElementById("f").onload = (event) => {{
  const page = event.target.contentDocument, root = page.documentElement, frame = event.target.contentWindow;
  const shown = [...page.querySelectorAll("svg")].filter((s) => frame.getComputedStyle(s).display !== "none");
  const size = (e) => parseFloat(frame.getComputedStyle(e).fontSize);
  const small = [...page.querySelectorAll("p,td,th,small")].filter((e) => size(e) < 11);
  document.getElementById("out").textContent = ["scroll", root.scrollWidth, "client", root.clientWidth,
    "loaded", frame.performance.getEntriesByType("resource").length, "charts", shown.length, "small", small.length,
    "sections", page.querySelectorAll("section").length].join(" ");
}};</script></body></html>"""


@dataclass(frozen=True)
class Seen:
    numbers: dict[str, int]
    asked: list[str]  # paths asked of the server
    console: list[str]


class _Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(self.path)


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def look(run: Path, width: int, profile: Path) -> Seen:
    assert BROWSER is not None
    (run / "measure.html").write_text(_MEASURE.format(width=width))
    with serving(run) as (url, asked):
        done = subprocess.run(
            [BROWSER, *_SWITCHES, f"--user-data-dir={profile}", "--dump-dom", f"{url}/measure.html"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    told = re.search(r'<pre id="out">([^<]+)</pre>', done.stdout)
    assert told is not None, done.stderr[-2000:]
    parts = told.group(1).split()
    numbers = {name: int(value) for name, value in zip(parts[::2], parts[1::2], strict=True)}
    return Seen(numbers, asked, [line for line in done.stderr.splitlines() if ":CONSOLE" in line])


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_asks_for_nothing_and_complains_of_nothing(folder: Path, tmp_path: Path, width: int) -> None:
    (folder / "folds.json").write_text(json.dumps(FOLDS))
    changed(folder, honesty=HONEST, parity=PARITY, walk_forward=WALK, simulated=True)
    seen = look(folder, width, tmp_path / "profile")
    assert seen.numbers["scroll"] <= seen.numbers["client"] == width
    assert seen.numbers["loaded"] == 0 and set(seen.asked) == {"/measure.html", "/report.html"}
    assert seen.console == []
    assert seen.numbers["sections"] == 14 and seen.numbers["charts"] >= 4 and seen.numbers["small"] == 0


def test_a_page_that_overflows_loads_and_complains_is_seen(folder: Path, tmp_path: Path) -> None:
    html = write(folder).read_text(encoding="utf-8")
    bad = '<div style="width:900px">x</div><img src="away.png"/><script>1</script></body>'
    (folder / "report.html").write_text(html.replace("</body>", bad))
    seen = look(folder, 390, tmp_path / "profile")
    assert seen.numbers["scroll"] > 390 and seen.console  # the policy stops the picture and the script, and says so
    free = html.replace("</body>", bad).replace("Content-Security-Policy", "x-none")
    (folder / "report.html").write_text(free)
    assert "/away.png" in look(folder, 390, tmp_path / "profile").asked
