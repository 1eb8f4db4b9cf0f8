"""The files outside the home that decide what is traded: name in a backup -> where each lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def settings_files() -> Mapping[str, Path]:
    """Never raises: settings that cannot be read name no universe, and then its default place counts."""
    from config.loader import load_settings, settings_path
    from config.settings_schema import UniverseSettings
    from config.strategy_params import FROZEN_PARAMS_PATH
    from core.errors import ConfigError
    from core.paths import REPO_ROOT

    try:
        universe = load_settings().universe.path
    except ConfigError:  # a backup must work also on the day the settings do not
        universe = UniverseSettings.model_validate({}).path
    return {
        "settings.yaml": settings_path(),
        FROZEN_PARAMS_PATH.name: FROZEN_PARAMS_PATH,
        "universe.csv": REPO_ROOT / universe,
    }
