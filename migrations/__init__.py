"""Numbered SQL files, one folder a database; installed as ``perfgate_server.migrations``."""
