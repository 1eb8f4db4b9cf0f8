"""docs/preflight.md's table of checks, from the list itself: python tests/scripts/preflight_page.py --write"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "preflight.md"
BEGIN, END = "<!-- the checks, from scripts/checks.py -->", "<!-- end -->"


def table() -> str:
    from scripts.checks import CHECKS

    rows = [f"| `{c.name}` | {c.group} | {c.asks} | {c.forbids} |" for c in CHECKS]
    return "\n".join(["| check | group | what it asks | a failure forbids |", "|---|---|---|---|", *rows])


def rendered(page: str) -> str:
    """The page with its table made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    made = rendered(PAGE.read_text(encoding="utf-8"))
    if "--write" in sys.argv:
        PAGE.write_text(made, encoding="utf-8")
    else:
        print(made)
