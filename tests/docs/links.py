#!/usr/bin/env python3
"""Every relative link in the Markdown files leads to a file that exists, and every anchor to a heading; every Markdown file that
the sources name exists: links.py"""
import os
import re
import sys
from urllib.parse import unquote

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = {".git", ".cache", "target", "node_modules"}
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|^\s*\[[^\]]+\]:\s+<?(\S+?)>?\s*$|\b(?:src|href)=\"([^\"]+)\"")
NAMED_FILE = re.compile(r"\b((?:docs|loadtest|deploy)/[\w/-]+\.md|(?<![\w/.-])[A-Z]{5,}\.md)\b")
NAMING = (".rs", ".sh", ".py", ".mjs", ".toml", ".yml", ".service")


def files(*endings):
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(endings):
                yield os.path.join(folder, name)


def lines(path):
    """Numbered lines outside of fenced code, without inline code."""
    fence = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            mark = re.match(r"\s*(```+|~~~+)", line)
            if mark and fence is None:
                fence = mark[1]
            elif mark and mark[1].startswith(fence):
                fence = None
            elif fence is None:
                yield number, line


def anchors(path):
    """As GitHub makes them of headings."""
    found, counts = set(), {}
    for _, line in lines(path):
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*\s*$", line)
        if heading:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            count = counts.get(slug, 0)
            counts[slug] = count + 1
            found.add(f"{slug}-{count}" if count else slug)
        found.update(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
    return found


def check(path, target):
    """What is wrong with a link from the file `path`, or nothing."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
        return None
    name, _, anchor = target.partition("#")
    goal = os.path.normpath(os.path.join(os.path.dirname(path), unquote(name))) if name else path
    if not os.path.exists(goal):
        return "there is no such file"
    if os.path.relpath(goal, ROOT).startswith(".."):
        return "leads out of the repository"
    if anchor and goal.endswith(".md") and unquote(anchor) not in anchors(goal):
        return "there is no such heading"
    return None


def main():
    problems, count = [], 0
    for path in files(".md"):
        for number, line in lines(path):
            for link in LINK.finditer(re.sub(r"`[^`]*`", "", line)):
                target = next(filter(None, link.groups()))
                count += 1
                problem = check(path, target)
                if problem:
                    problems.append(f"{os.path.relpath(path, ROOT)}:{number}: {target}: {problem}")
    for path in files(*NAMING):
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                for name in NAMED_FILE.findall(line):
                    count += 1
                    if not os.path.exists(os.path.join(ROOT, name)):
                        problems.append(f"{os.path.relpath(path, ROOT)}:{number}: {name}: there is no such file")
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{count} links, {len(problems)} broken")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
