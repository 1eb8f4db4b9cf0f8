"""Small pieces of the tear sheet's HTML: escaped text, tables that become cards on a phone, the page around them.

`Html` is text that may go into the page as it is; anything else is escaped on its way in.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from portfolio.backtest.words import LABELS, figure_parts


class Html(str):
    """Markup made here, not to be escaped again."""

    __slots__ = ()


def esc(value: object) -> Html:
    """Text as HTML; what is already HTML stays. Signs that a page may not hold become the replacement sign."""
    if isinstance(value, Html):
        return value
    text = "".join(c if c in "\t\n\u00a0" or c.isprintable() else "\ufffd" for c in str(value))
    return Html(html.escape(text, quote=True))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """<name …>children</name>; `class_` and `data_label` become class and data-label; None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{esc(value)}"' for key, value in attributes.items() if value is not None
    )
    return Html(f"<{name}{said}>{joined(children)}</{name}>")


def joined(parts: Iterable[object]) -> Html:
    return Html("".join(esc(part) for part in parts))


def paragraph(*words: object, class_: str | None = None) -> Html:
    return tag("p", *words, class_=class_)


def absent(what: str, code: str, advice: str = "") -> Html:
    """A block that the folder does not have: said, never filled in."""
    return paragraph(f"{what}: absent (", tag("code", code), f"). {advice}".rstrip(), class_="absent")


def figure(name: str, row: Mapping[str, Any] | None) -> Html:
    """A figure in a cell: the value, below it the interval and N."""
    if row is None:
        return tag("span", "-", class_="none")
    value, beside = figure_parts(name, row)
    return joined([tag("b", value), small(beside)])


def small(words: str) -> Html:
    """What stands beside a figure, broken where a number does not lose what it counts."""
    return tag("small", ", ".join(part.replace(" ", "\u00a0", 3) for part in words.split(", ")))


def tile(name: str, label: str, row: Mapping[str, Any] | None) -> Html:
    return tag("div", tag("span", label), figure(name, row), class_="tile")


def table(head: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str = "", cards: bool = True) -> Html:
    """On a phone every row becomes a card whose cells carry their head, or the table scrolls by itself (cards False).

    Two columns fit anywhere and stay as they are.
    """
    body = [
        tag("tr", *(
            tag("th" if k == 0 else "td", cell, scope="row" if k == 0 else None, data_label=head[k])
            for k, cell in enumerate(row)
        ))
        for row in rows
    ]  # fmt: skip
    made = tag(
        "table",
        tag("caption", caption) if caption else "",
        tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
        tag("tbody", *body),
        class_="plain" if len(head) == 2 else "cards" if cards else "grid",
    )
    return tag("div", made, class_="scroll", tabindex=None if cards else "0")


def figures_table(first: str, rows: Sequence[tuple[object, Mapping[str, Any]]], names: Sequence[str]) -> Html:
    """One row a thing, one column a figure."""
    head = [first, *(LABELS.get(name, name) for name in names)]
    return table(head, [[label, *(figure(name, row.get(name)) for name in names)] for label, row in rows])


def answer(holds: object) -> Html:
    """pass / fail / unknown and yes / no, told by the word and not by its colour alone."""
    word = {True: "yes", False: "no"}.get(holds, str(holds)) if isinstance(holds, bool) else str(holds)
    kind = {"pass": "good", "yes": "good", "fail": "bad", "no": "bad"}.get(word, "open")
    return tag("span", word, class_=f"answer {kind}")


def page(title: str, body: Iterable[object]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{CSP}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/><link rel="icon" href="data:,"/>'
        f"<title>{esc(title)}</title><style>{CSS}</style></head>\n<body>{joined(body)}</body></html>\n"
    )


CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

CSS = """
:root{--bg:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--panel:#f6f8fa;--ours:#0b5cad;--theirs:#a04800;
--good:#116329;--bad:#a40e26;--open:#7a5200;--goodbg:#e6f4ea;--badbg:#fdeaec;--openbg:#fff5db;--up:17,99,41;--down:164,14,38}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--ink:#e6e9ec;--soft:#a3adb7;--line:#3a424a;--panel:#1d2227;
--ours:#79b8ff;--theirs:#f0a45d;--good:#7ee2a0;--bad:#ff9aa5;--open:#f2cc60;--goodbg:#12301d;--badbg:#3a1519;
--openbg:#33290d;--up:80,200,120;--down:255,110,120}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:75rem;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:break-word}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0}
h2{font-size:1.2rem;margin:2.2rem 0 .6rem;padding-bottom:.2rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{margin:.4rem 0;max-width:70ch}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
nav{margin:.8rem 0;font-size:.95rem}nav a{color:var(--ours);margin-right:.9rem;display:inline-block;padding:.15rem 0}
.soft,.note,figcaption,caption{color:var(--soft);font-size:.875rem}
.absent{color:var(--soft);font-style:italic}
.simulated{display:inline-block;background:var(--openbg);color:var(--open);border:1px solid currentColor;
border-radius:.3rem;padding:0 .4rem;font-size:.8rem;font-weight:700;letter-spacing:.05em;vertical-align:middle}
.verdict{border:2px solid var(--bad);background:var(--badbg);border-radius:.5rem;padding:.8rem 1rem;margin:1rem 0}
.verdict.good{border-color:var(--good);background:var(--goodbg)}
.verdict p{margin:.3rem 0}.verdict .head{font-size:1.15rem;font-weight:700}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:.6rem;margin:1rem 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:.4rem;padding:.5rem .7rem}
.tile span,.tile b,.tile small{display:block}.tile span{color:var(--soft);font-size:.875rem}.tile b{font-size:1.35rem}
small{color:var(--soft);font-size:.8rem}
td b,th b{font-weight:600;font-variant-numeric:tabular-nums}td small{display:block}
.answer{font-weight:700;white-space:nowrap}.answer.good{color:var(--good)}.answer.bad{color:var(--bad)}
.answer.open{color:var(--open)}.none{color:var(--soft)}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
caption{text-align:left;padding:.2rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;font-weight:400;
border-bottom:1px solid var(--line)}
.plain th:first-child{width:50%}
thead th{color:var(--soft);font-size:.8rem;vertical-align:bottom}tbody th{font-weight:600}
.grid th,.grid td{text-align:right;padding:.2rem .35rem;white-space:nowrap;font-variant-numeric:tabular-nums}
.grid th:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
.grid td.up{background:rgba(var(--up),var(--a))}.grid td.down{background:rgba(var(--down),var(--a))}
figure{margin:.8rem 0}svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg .axis{stroke:var(--line);stroke-width:1}svg .ours{stroke:var(--ours)}svg .theirs{stroke:var(--theirs)}
svg path{fill:none;stroke-width:1.6;stroke-linejoin:round}svg .theirs{stroke-dasharray:5 3}
svg rect.ours{fill:var(--ours);stroke:none}svg rect.theirs{fill:none;stroke:var(--theirs);
stroke-width:1.4;stroke-dasharray:none}
svg .mark{fill:var(--open);font-weight:700}
.key i{display:inline-block;width:1.6rem;border-top:3px solid var(--ours);vertical-align:middle;margin:0 .3rem 0 .8rem}
.key i:first-child{margin-left:0}.key i.theirs{border-top-style:dashed;border-color:var(--theirs)}
.narrow{display:none}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.2rem}
footer{margin-top:2.5rem;border-top:1px solid var(--line);padding-top:.6rem}
@media (max-width:44rem){.wide{display:none}.narrow{display:block}.pair{grid-template-columns:1fr}
.tiles{grid-template-columns:1fr 1fr}
.cards,.cards tbody,.cards tr,.cards th,.cards td{display:block}.cards thead{display:none}
.cards tr{border:1px solid var(--line);border-radius:.4rem;padding:.4rem .6rem;margin:.5rem 0}
.cards th,.cards td{border:0;padding:.15rem 0;display:grid;grid-template-columns:40% 1fr;column-gap:.6rem}
.cards caption{display:block}.cards th{display:block;font-size:1rem}
.cards td::before{content:attr(data-label);color:var(--soft);font-size:.85rem;grid-row:span 2}
.cards td>*{grid-column:2}
.grid{font-size:.8rem}}
@media print{:root{--bg:#fff;--ink:#000;--soft:#444;--line:#bbb;--panel:#fff;--ours:#0b5cad;--theirs:#a04800;
--good:#116329;--bad:#a40e26;--open:#7a5200;--goodbg:#fff;--badbg:#fff;--openbg:#fff;--up:17,99,41;--down:164,14,38}
body{max-width:none;padding:0;font-size:11px}nav{display:none}.wide{display:block}.narrow{display:none}
h2{break-after:avoid}tr,figure,.tile,.verdict{break-inside:avoid}.scroll{overflow:visible}
.grid{font-size:8px}svg{max-height:9cm}.pair{grid-template-columns:1fr 1fr}}
"""
