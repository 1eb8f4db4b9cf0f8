"""The models of a home as rows: what each one is, and whether its files can be believed."""

from __future__ import annotations

from typing import Any

from core.paths import Home
from ml_advanced.model_store import ModelRefused, Standing, load


def rows_of(home: Home, found: Standing) -> list[dict[str, Any]]:
    """In the order they were trained. `code`: OK, or why the files are refused."""
    rows = []
    for model_id in found.trained or {}:
        row: dict[str, Any] = {"model": model_id, "is": _what(model_id, found), "code": "OK"}
        row |= {"learned_until": None, "expires": None, "gate": None, "earned": None}
        try:
            manifest = load(home, model_id, known=found.trained).manifest
            row |= {name: manifest.get(name) for name in ("learned_until", "expires", "earned")}
            row["gate"] = manifest.get("finding")
        except ModelRefused as error:
            row["code"] = error.code
        rows.append(row)
    return rows


def _what(model_id: str, found: Standing) -> str:
    if model_id == found.champion:
        return "champion"
    if model_id == found.shadow:
        return f"in shadow until {found.shadow_until}"
    if model_id in found.earlier:
        return "former champion"
    return "passed" if model_id in found.passed else "refused"
