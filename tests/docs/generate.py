#!/usr/bin/env python3
"""Writes the tables that the server prints of itself into docs/: generate.py STENTOR. Unit tests in src/config/markdown.rs and
src/metrics/markdown.rs fail when a table is out of date."""
import os
import re
import subprocess
import sys

DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "docs")

for name, command in [("configuration.md", "config"), ("metrics.md", "metrics")]:
    table = subprocess.run([sys.argv[1], command, "--markdown"], check=True, capture_output=True, text=True).stdout
    path = os.path.join(DOCS, name)
    with open(path, encoding="utf-8") as file:
        document = file.read()
    begin = rf"(<!-- written by tests/docs/generate.py from `stentor {command} --markdown` -->\n)"
    written, count = re.subn(begin + r"(?:.*\n)*?(<!-- end -->)", lambda it: it[1] + table + it[2], document)
    if count != 1:
        sys.exit(f"{path}: the marks around the table are missing")
    with open(path, "w", encoding="utf-8") as file:
        file.write(written)
