"""What assets, sensors and schedules are handed: the plain settings of the environment."""

from __future__ import annotations

import dagster as dg

from fusi_pipeline.settings import Settings, settings_from


class SettingsResource(dg.ConfigurableResourceFactory[Settings]):
    """The settings of the environment that the process runs in, read when a run or a tick begins."""

    def create_resource(self, context: dg.InitResourceContext) -> Settings:
        """Return the settings. Raises SettingInvalid."""
        return settings_from()
