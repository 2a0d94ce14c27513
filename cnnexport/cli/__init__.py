"""The command line: each file parses, calls and prints for one group of commands. Heavy imports live inside them.

| module | what |
|---|---|
| ``app`` | ``main``, the group, errors to exit codes, commands in a child process |
| ``types`` | what options are given as |
| ``convert``, ``train``, ``images``, ``look``, ``verify``, ``measure``, ``quantize`` | the commands |
"""

from __future__ import annotations

from cnnexport.cli import convert, images, look, measure, quantize, train, verify
from cnnexport.cli.app import cli, main

__all__ = ["cli", "convert", "images", "look", "main", "measure", "quantize", "train", "verify"]
