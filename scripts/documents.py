"""The state documents of every package with the schema version that this program knows, by file name below state/."""

from __future__ import annotations

from collections.abc import Mapping

TRANSIENT = frozenset({"runner.json", "operator.json", "emergency.json"})
"""Told by a living process about itself; worth nothing after it."""


def known_versions() -> Mapping[str, int]:
    from cognitive import circuit_breakers, memory_file
    from config import pin
    from core.backup import PENDING_FILE
    from core.restore import PENDING
    from data.providers import multi_source
    from data.quality import quarantine
    from execution import starts
    from execution.observe import alert_memory
    from llm import token_budget
    from portfolio.state_manager import DOCUMENTS
    from scripts import wiring

    managed = {f"{name}.json": schema.version for name, schema in DOCUMENTS.items()}
    return {
        **managed,
        "config_pin.json": pin.SCHEMA_VERSION,
        "starts.json": starts.SCHEMA_VERSION,
        alert_memory.FILE: alert_memory.SCHEMA_VERSION,
        circuit_breakers.FILE: circuit_breakers.SCHEMA.version,
        memory_file.FILE: memory_file.SCHEMA.version,
        multi_source.STATS_FILE: multi_source.SCHEMA_VERSION,
        token_budget.FILE: token_budget.SCHEMA_VERSION,
        PENDING_FILE: PENDING.version,
        quarantine.FILE: quarantine.SCHEMA.version,
        "replay.json": wiring.REPLAY_SCHEMA,
    }
