#!/usr/bin/env python3
"""What a suite's report says, held against the list of differences that are known.

usage: compare.py PLUGIN REPORT EXPECTED ours|theirs

Fails when a spec fails that is not in the list, and when one passes that is.
"""

import json
import re
import sys


def specs_of(path):
    with open(path, encoding="utf-8") as file:
        suites = json.load(file)
    for suite in suites:
        for spec in suite["SpecReports"] or []:
            if spec["LeafNodeType"] == "It":
                spec["name"] = " ".join((spec["ContainerHierarchyTexts"] or []) + [spec["LeafNodeText"]])
                yield spec
            elif spec["State"] not in ("passed", "skipped"):
                sys.exit(f"{spec['LeafNodeType']} of the suite {spec['State']}: {failure(spec)}")


def failure(spec):
    said = spec.get("Failure", {})
    location = said.get("Location", {})
    place = f"{location.get('FileName', '').rsplit('/', 1)[-1]}:{location.get('LineNumber')}"
    return place + "\n      " + said.get("Message", "").strip().replace("\n", "\n      ")


def main():
    plugin, report, expected, whose = sys.argv[1:]
    with open(expected, encoding="utf-8") as file:
        listed = json.load(file)[plugin]
    # A difference that is ours alone is no excuse for another's binary.
    listed = [entry for entry in listed if whose == "ours" or not entry["ours"]]

    passed = silent = as_listed = skipped = 0
    wrong = []
    used = set()
    for spec in specs_of(report):
        reasons = [n for n, entry in enumerate(listed) if re.search(entry["specs"], spec["name"])]
        if spec["State"] == "skipped":
            skipped += 1
        elif spec["State"] == "passed":
            if reasons:
                wrong.append(f"  {spec['name']}\n      passes, but is listed: {listed[reasons[0]]['why']}")
            elif any(entry["Name"] == "plugin called" for entry in spec.get("ReportEntries") or []):
                passed += 1
            else:
                silent += 1
        elif reasons:
            as_listed += 1
            used.update(reasons)
        else:
            wrong.append(f"  {spec['name']}\n      {spec['State']} at {failure(spec)}")

    for n in sorted(used):
        print(f"  as listed: {listed[n]['specs']}\n      {listed[n]['why']}")
    print("\n".join(wrong), end="\n" if wrong else "")
    print(
        f"{plugin}: {passed} passed, {silent} passed without calling the plugin, {as_listed} failed as listed, "
        f"{len(wrong)} not as listed, {skipped} left out"
    )
    sys.exit(1 if wrong or passed == 0 else 0)


main()
