"""Itera-Lite: tiny language models that anybody can train, shrink and run on a CPU."""

__version__ = "0.1.0"
