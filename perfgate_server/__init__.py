"""A server that keeps performance baselines."""

from perfgate_server.app import create_app
from perfgate_server.config import ServerConfig
from perfgate_server.keys import Role
from perfgate_server.server import run_server

__all__ = ["Role", "ServerConfig", "create_app", "run_server"]
