#!/usr/bin/env python3
"""Compares the results of run.sh with expected.json. Worse, or missing: exit code 1. `--update` takes them over. With
`--quick` the cases that suite.py then leaves out are not missed."""
import json
import pathlib
import sys

RANK = {"OK": 0, "NON-STRICT": 1, "INFORMATIONAL": 1, "UNCLEAN": 2, "WRONG CODE": 2, "UNIMPLEMENTED": 3, "FAILED": 4}
HERE = pathlib.Path(__file__).parent


def left_out_when_quick(case):
    section, _, number = (int(part) for part in (case + ".0").split(".")[:3])
    return section in (12, 13) and 8 <= number <= 18


def main():
    found = {}
    for index in sorted(pathlib.Path(sys.argv[1]).glob("[0-9]*/index.json")):
        for case, result in json.loads(index.read_text()).get("stentor", {}).items():
            found[case] = [result["behavior"], result["behaviorClose"]]
    found = dict(sorted(found.items(), key=lambda item: [int(part) for part in item[0].split(".")]))
    file = HERE / "expected.json"
    if "--update" in sys.argv:
        lines = ",\n".join(f' "{case}": {json.dumps(result)}' for case, result in found.items())
        file.write_text("{\n" + lines + "\n}\n")
        print(f"{len(found)} cases taken over")
        return 0
    expected = json.loads(file.read_text())
    if "--quick" in sys.argv:
        expected = {case: result for case, result in expected.items() if not left_out_when_quick(case)}
    rank = lambda result: [RANK.get(word, 9) for word in result]
    worse = [case for case in expected if case not in found or rank(found[case]) > rank(expected[case])]
    better = [case for case in expected if case in found and rank(found[case]) < rank(expected[case])]
    for case in worse:
        print(f"worse:  {case}: {found.get(case, 'missing')}, expected {expected[case]}")
    for case in better:
        print(f"better: {case}: {found[case]}, expected {expected[case]}: run compare.py --update")
    new = [case for case in found if case not in expected]
    print(f"{len(found)} cases, {len(worse)} worse, {len(better)} better, {len(new)} new")
    return 1 if worse or new else 0


if __name__ == "__main__":
    sys.exit(main())
