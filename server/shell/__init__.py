"""The commands that talk to a running server. `commands` has them all; they need the client."""

from server.shell.commands import add_commands

__all__ = ["add_commands"]
