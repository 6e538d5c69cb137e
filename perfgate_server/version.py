"""The version of the program; setup.cfg reads it here."""

VERSION = "0.1.0"
