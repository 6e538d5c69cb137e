"""``python -m perfgate_server`` is ``perfgate-server``."""

from perfgate_server.cli import main

main()
