"""What assets, sensors and schedules are handed: the plain settings of the environment."""

import dagster as dg

from fusi_pipeline.settings import Settings, settings_from


@dg.resource
def settings(_context: dg.InitResourceContext) -> Settings:
    """Return the settings of the process's environment, read when a run or a tick begins.

    Raises SettingInvalid.
    """
    return settings_from()
