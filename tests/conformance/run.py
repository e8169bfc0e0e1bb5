#!/usr/bin/env python3
"""Runs the official MCP conformance suite against mcpp, for both requirement sets, and holds the outcome to `expected-failures.txt`.

Fails if a check fails that is not expected to, and if one passes that is expected to fail: the file only shrinks.

    run.py MCPP CONFORMANCE_WASM NODE SUITE_JS
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent / "clients"))
import serving

SETS = ["2025-11-25", "2026-07-28"]
PORT = 18431
SUITE_SECONDS = 300


def expected() -> set[tuple[str, str]]:
    """(requirement set, scenario or scenario:check)"""
    lines = (line.split("#")[0].split() for line in (HERE / "expected-failures.txt").read_text().splitlines())
    return {(words[0], words[1]) for words in lines if words}


def failures(results: pathlib.Path, requirement_set: str) -> tuple[set[tuple[str, str]], int]:
    """The checks that failed, and how many passed."""
    failed, passed = set(), 0
    for checks in results.glob("server-*/checks.json"):
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*$", "", checks.parent.name.removeprefix("server-"))
        for check in json.loads(checks.read_text()):
            if check["status"] == "FAILURE":
                failed.add((requirement_set, f"{scenario}:{check['id']}"))
            elif check["status"] == "SUCCESS":
                passed += 1
    return failed, passed


def main() -> None:
    mcpp, wasm, node, suite = sys.argv[1:]
    wanted = expected()
    ok = True
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "tools").mkdir()
        (scratch / "tools" / "conformance.wasm").write_bytes(pathlib.Path(wasm).read_bytes())
        with open(scratch / "log", "wb") as log, serving.start(mcpp, scratch / "data", PORT, "--tools", scratch / "tools", log=log) as host:
            try:
                for requirement_set in SETS:
                    results = scratch / requirement_set
                    run = subprocess.run(
                        [node, suite, "server", "--url", serving.url(PORT), "--requirements", requirement_set, "-o", results],
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SUITE_SECONDS, text=True,
                    )
                    failed, passed = failures(results, requirement_set)
                    if passed == 0:
                        print(run.stdout[-4000:])
                        sys.exit(f"the suite ran no check for {requirement_set}")
                    # An entry without a check stands for all checks of its scenario.
                    known = {entry for entry in wanted if entry[0] == requirement_set}
                    new = {f for f in failed if f not in known and (f[0], f[1].split(":")[0]) not in known}
                    stale = {k for k in known if k not in failed and not any(f[1].split(":")[0] == k[1] for f in failed)}
                    print(f"conformance {requirement_set}: {passed} checks passed, {len(failed)} failed as expected" if not new
                          else f"conformance {requirement_set}: {passed} checks passed, {len(failed)} failed")
                    for entry in sorted(new):
                        print(f"  failed, and is not in expected-failures.txt: {entry[1]}")
                    for entry in sorted(stale):
                        print(f"  passes now: take it out of expected-failures.txt: {entry[1]}")
                    ok &= not new and not stale
            finally:
                host.terminate()
        if not ok:
            print((scratch / "log").read_text()[-4000:])
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
