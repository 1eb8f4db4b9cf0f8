"""What a model is and how much it knows, told whether it is good or not: one JSON document and one HTML page. Pure.

The page needs nothing from anywhere: styles and the drawing are in it, scripts are not. Every text is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.canonical import plain
from ml_advanced.dataset import Dataset
from ml_advanced.ensemble.calibrators import log_losses
from ml_advanced.ensemble.members import Floats
from ml_advanced.gate import Verdict, auc
from ml_advanced.training import OutOfFold, Recipe, Trained

_BINS = 10
NO_BETTER = "no better than the base rate: not promoted"


# ---------------------------------------------------------------- numbers
def card(data: Dataset, trained: Trained, verdict: Verdict, recipe: Recipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """facts : what only the caller knows (id, source, simulated, libraries, expiry, counts ...)."""
    record = trained.out_of_fold
    rows = record.rows
    p, y = record.judged[rows], data.y[rows]
    made: dict[str, Any] = plain({
        "schema_version": 1, **facts,
        "finding": finding(verdict),
        "data": {
            **facts.get("data", {}), "sha256": data.sha256, "rows": len(data), "symbols": len(set(data.symbols)),
            "first": str(data.starts.min()), "last": str(data.ends.max()), "won": int(data.y.sum()),
            "base_rate": float(data.y.mean()), "median_r": float(np.median(data.r)), "judged_rows": len(rows),
            "strategies": {name: data.strategies.count(name) for name in sorted(set(data.strategies))},
        },
        "features": list(data.names),
        "unknown_share": {n: float(u) for n, u in zip(data.names, np.isnan(data.x).mean(axis=0), strict=True) if u},
        "members": {voice.name: {"weight": voice.weight, "calibrator": voice.calibrator.kind}
                    for voice in trained.ensemble.voices},
        "recipe": recipe,
        "gate": verdict.to_json(),
        "calibration": calibration(p, y),
        "folds": [_fold_row(data, record, number) for number in range(len(trained.folds))],
        "purged": [fold.purged for fold in trained.folds],
        "alone": {name: _alone(data, record, k) for k, name in enumerate(recipe.members)},
        "importance": dict(sorted(trained.importance.items(), key=lambda item: (-item[1], item[0]))),
        "paths": [auc(said, data.y)[0] for said in trained.paths],
        "controls": [
            _quality(c.judged[c.rows], c.base[c.rows], labels[c.rows])
            for c, labels in zip(trained.controls, trained.control_labels, strict=True)
        ],
    })  # fmt: skip
    return made


def finding(verdict: Verdict) -> str:
    """One sentence."""
    if verdict.passed:
        return f"better than the base rate: passed, and earns {verdict.earned:.0%} of the model's points"
    missed = ", ".join(c.name for c in verdict.criteria if not c.met)
    if verdict.code == "MODEL_NO_BETTER":
        return f"{NO_BETTER} (missed: {missed})"
    return f"not promoted: {verdict.code} (missed: {missed})"


def calibration(p: Floats, y: Floats) -> dict[str, Any]:
    """Brier score, expected calibration error, and bins of equal size: what was said, what came, how many."""
    if not p.size:
        return {"brier": None, "ece": None, "bins": []}
    bins = []
    for part in np.array_split(np.argsort(p, kind="stable"), min(_BINS, p.size)):
        bins.append({"said": float(p[part].mean()), "came": float(y[part].mean()), "rows": len(part)})
    ece = sum(abs(b["said"] - b["came"]) * b["rows"] for b in bins) / p.size
    return {"brier": float(((p - y) ** 2).mean()), "ece": float(ece), "bins": bins}


def _fold_row(data: Dataset, record: OutOfFold, number: int) -> dict[str, Any]:
    rows = np.flatnonzero(record.fold == number)
    judged = rows[np.isfinite(record.judged[rows])]
    span = {"first": str(data.starts[rows].min()), "last": str(data.starts[rows].max()), "rows": len(rows)}
    return span | _quality(record.judged[judged], record.base[judged], data.y[judged])


def _quality(p: Floats, base: Floats, y: Floats) -> dict[str, Any]:
    if not p.size:
        return {"auc": None, "gain": None}
    return {"auc": auc(p, y)[0], "gain": float((log_losses(base, y) - log_losses(p, y)).mean())}


def _alone(data: Dataset, record: OutOfFold, member: int) -> float | None:
    rows = record.rows
    return auc(record.raw[member, rows], data.y[rows])[0] if rows.size else None


# ---------------------------------------------------------------- the page
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.15rem .8rem .15rem 0;text-align:left;
border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}.no{color:#a00}.yes{color:#070}code{font-size:.9em}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#444}.no{color:#f88}
.yes{color:#8d8}}"""


def page(found: Mapping[str, Any]) -> str:
    """The card as one HTML document."""
    gate, data = found["gate"], found["data"]
    kind = "yes" if gate["passed"] else "no"
    span = f"{data['first']} to {data['last']}, {data['rows']} ended trades of {data['symbols']} symbols"
    measured = [(n, m["value"], m["low"], m["high"], m["bound"]) for n, m in gate["measures"].items()]
    asked = [(c["name"], c["observed"], c["asked"], "yes" if c["met"] else "NO") for c in gate["criteria"]]
    members = [(n, m["weight"], m["calibrator"], found["alone"].get(n)) for n, m in found["members"].items()]
    folds = [(f["first"], f["last"], f["rows"], f["auc"], f["gain"]) for f in found["folds"]]
    paths = list(enumerate(found["paths"], start=1))
    controls = [(k, c["auc"], c["gain"]) for k, c in enumerate(found["controls"], start=1)]
    sections = [
        ("The gate", _table(("criterion", "observed", "asked", "met"), asked)),
        ("Measured out of fold", _table(("measure", "value", "low", "high", "bound"), measured)
         + "<p>low and high: 90 % interval, blocks of sessions. bound: what the gate asks. Gains are over the base "
           "rate known at the time, in nats (log_loss) and squared error (brier); r_… in R after costs, cut at 3."
           " The intervals are of blocks of neighbouring sessions.</p>"),
        ("Calibration", calibration_plot(found["calibration"]["bins"])
         + f"<p>Brier {_said(found['calibration']['brier'])}, expected calibration error "
           f"{_said(found['calibration']['ece'])}.</p>"),
        ("Members", _table(("member", "weight", "calibrator", "AUC alone"), members)),
        ("Folds", _table(("first signal", "last", "rows", "AUC", "gain"), folds)),
        ("Other orders of history", _table(("path", "AUC of the logistic member"), paths)
         + "<p>Combinatorial purged folds: each path tests every row once, also with later years for a teacher. How "
           "far they lie apart is what a single walk-forward may owe to luck. No gate asks them.</p>"),
        ("Random labels", _table(("round", "AUC", "gain"), controls)
         + "<p>The same training, shown the outcomes of other signals: what luck looks like.</p>"),
        ("What a feature is worth", _table(("feature", "nats lost when shuffled"), list(found["importance"].items()))),
        ("Where it comes from", _table(("what", "value"), _origin(found))),
    ]  # fmt: skip
    body = "".join(f"<h2>{html.escape(title)}</h2>{content}" for title, content in sections)
    name = html.escape(str(found.get("id", "model")))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f'</head><body><h1>{name}</h1><p class="{kind}"><strong>{html.escape(found["finding"])}</strong></p>'
        f"<p>{html.escape(span)}</p>{body}</body></html>\n"
    )


def _origin(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    data = found["data"]
    rows = [(f"data {name}", data[name]) for name in sorted(data) if not isinstance(data[name], dict)]
    rows += [(name, found[name]) for name in ("expires", "learned_until", "code_sha256", "libraries") if name in found]
    return [*rows, ("recipe", found["recipe"]), ("features", ", ".join(found["features"]))]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(_said(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"


def _said(value: Any) -> str:
    if value is None:
        return "not known"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def calibration_plot(bins: Sequence[Mapping[str, Any]]) -> str:
    """Said against came, as SVG; the line is where both agree."""
    if not bins:
        return "<p>nothing was judged</p>"
    values = [b[key] for b in bins for key in ("said", "came")]
    low, high = max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.05)

    def at(value: float) -> float:
        place: float = round(30 + 270 * (value - low) / max(1e-9, high - low), 1)
        return place

    dots = "".join(
        f'<circle cx="{at(b["said"])}" cy="{330 - at(b["came"])}" r="4" fill="#36c"><title>said {b["said"]:.3f}, came '
        f"{b['came']:.3f}, {b['rows']} rows</title></circle>"
        for b in bins
    )
    return (
        '<svg viewBox="0 0 330 330" width="330" height="330" role="img" aria-label="calibration plot">'
        '<rect x="30" y="30" width="270" height="270" fill="none" stroke="#999"/>'
        f'<line x1="30" y1="300" x2="300" y2="30" stroke="#999" stroke-dasharray="4"/>{dots}'
        f'<text x="30" y="318" font-size="11" fill="#888">{low:.2f}</text>'
        f'<text x="275" y="318" font-size="11" fill="#888">{high:.2f} said</text>'
        f'<text x="30" y="24" font-size="11" fill="#888">came {high:.2f}</text></svg>'
    )
