"""What layer generation is told by its environment: the keys of model servers, by the names of variables.

The only module of the package that reads environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType


def keys_from(environment: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return the variables that endpoints may name (`api_key_env`), the process's own by default."""
    return MappingProxyType(dict(os.environ if environment is None else environment))
