"""A server that keeps performance baselines."""

from typing import TYPE_CHECKING, Any

from perfgate_server.app import create_app
from perfgate_server.config import ConfigError, ServerConfig
from perfgate_server.keys import Role
from perfgate_server.storage.base import CannotOpen

__all__ = ["CannotOpen", "ConfigError", "Role", "ServerConfig", "create_app", "run_server"]

if TYPE_CHECKING:
    from perfgate_server.server import run_server
else:

    def __getattr__(name: str) -> Any:
        # A tenth of the time of an import: gunicorn, which nobody else who imports this needs.
        if name == "run_server":
            from perfgate_server.server import run_server

            return run_server
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
