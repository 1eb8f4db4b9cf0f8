"""Where things live. KOBE_HOME moves every run-time folder; the default is the repository root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Home:
    """The run-time folders below one root. Nothing is created until something is written."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def wf_outputs(self) -> Path:
        return self.root / "wf_outputs"

    @property
    def kill_switch(self) -> Path:
        return self.state / "KILL_SWITCH"

    @property
    def journal(self) -> Path:
        return self.state / "hash_chain.jsonl"


def home() -> Home:
    """Read at each call, so that a test or drill can move it."""
    named = os.environ.get("KOBE_HOME", "").strip()
    return Home(Path(named).expanduser().resolve() if named else REPO_ROOT)
