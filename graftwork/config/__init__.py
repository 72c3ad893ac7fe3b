"""Settings: one file (`graft.toml`), `GRAFT_*` variables and flags, read the same way by every service.

`file` reads the file, `settings` is the base of each service's class, `shared` says which settings several services have in
common, `tell` shows all of them to `graft config` from a process of its own (this package imports no service), `across` holds
what one service's settings mean for another's, `reference` writes docs/configuration.md.
"""

from graftwork.config.errors import ConfigError
from graftwork.config.fields import Initial, Secret, Unit
from graftwork.config.file import CONFIG_VARIABLE, ConfigFile
from graftwork.config.settings import ServiceSettings

__all__ = ["CONFIG_VARIABLE", "ConfigError", "ConfigFile", "Initial", "Secret", "ServiceSettings", "Unit"]
