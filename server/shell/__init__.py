"""The commands that work with models: through a running server, with the client, or in their own process.

`evaluate` adds `eval`, `commands` all others: `profile` and `bench --offline` are in `measuring`.
"""

from server.shell.commands import add_commands

__all__ = ["add_commands"]
