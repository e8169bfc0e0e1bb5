#!/usr/bin/env python3
"""Runs the official MCP conformance suite for both requirement sets: its scenarios of servers against mcpp's host, and its scenarios of clients against mcpp's commands (`client.py`).

Fails if any check fails. What is not run, and why, stands in the README of the tests.

    run.py MCPP CONFORMANCE_WASM NODE SUITE_JS
"""

import collections
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
SUITE_SECONDS = 600
SCENARIO_MS = 120_000
# OAuth: mcpp's client takes a bearer token, and gets none by itself.
NOT_OURS = "auth/"
# What a run of the suite says of its clients' side at least, so that a suite without scenarios does not pass.
CLIENT_SCENARIOS = {"2025-11-25": {"initialize", "tools_call", "sse-retry"}, "2026-07-28": {"tools_call", "http-custom-headers"}}


def suite(words: list[object], results: pathlib.Path) -> tuple[dict[str, collections.Counter], set[str], str]:
    """One run of the suite: the checks of each scenario by their status, those that failed, and what it said."""
    run = subprocess.run(
        [str(word) for word in [*words, "-o", results]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SUITE_SECONDS, text=True
    )
    counts, failed = {}, set()
    for checks in results.rglob("checks.json"):
        folder = checks.parent.relative_to(results).as_posix()
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*$", "", folder.removeprefix("server-"))
        counts[scenario] = collections.Counter()
        for check in json.loads(checks.read_text()):
            counts[scenario][check["status"]] += 1
            if check["status"] == "FAILURE":
                failed.add(f"{scenario}:{check['id']}: {check.get('errorMessage')}")
    return counts, failed, run.stdout


def report(side: str, requirement_set: str, passed: int, failed: set[str], said: str) -> bool:
    print(f"conformance of the {side}, {requirement_set}: {passed} checks passed, {len(failed)} failed")
    for check in sorted(failed):
        print(f"  failed: {check}")
    if passed == 0:
        print(said[-4000:])
    return passed > 0 and not failed


def server(node: str, script: str, requirement_set: str, results: pathlib.Path) -> bool:
    counts, failed, said = suite([node, script, "server", "--url", serving.url(PORT), "--requirements", requirement_set], results)
    return report("server", requirement_set, sum(each["SUCCESS"] for each in counts.values()), failed, said)


def client(mcpp: str, node: str, script: str, requirement_set: str, results: pathlib.Path) -> bool:
    command = f"{sys.executable} {HERE / 'client.py'} {mcpp}"
    words = [node, script, "client", "--command", command, "--requirements", requirement_set, "--timeout", SCENARIO_MS]
    counts, failed, said = suite(words, results)
    ours = {name: each for name, each in counts.items() if not name.startswith(NOT_OURS)}
    failed = {check for check in failed if not check.startswith(NOT_OURS)}
    # A scenario that saw nothing of the client has failed, though no check says so.
    failed |= {f"{name}: nothing was seen" for name in CLIENT_SCENARIOS[requirement_set] | ours.keys() if not ours.get(name, {}).get("SUCCESS")}
    return report("client", requirement_set, sum(each["SUCCESS"] for each in ours.values()), failed, said)


def main() -> None:
    mcpp, wasm, node, script = sys.argv[1:]
    mcpp = str(pathlib.Path(mcpp).resolve())
    ok = True
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "tools").mkdir()
        (scratch / "tools" / "conformance.wasm").write_bytes(pathlib.Path(wasm).read_bytes())
        with open(scratch / "log", "wb") as log, serving.start(mcpp, scratch / "data", PORT, "--tools", scratch / "tools", log=log) as host:
            try:
                for requirement_set in SETS:
                    ok &= server(node, script, requirement_set, scratch / "server" / requirement_set)
            finally:
                host.terminate()
        if not ok:
            print((scratch / "log").read_text()[-4000:])
        for requirement_set in SETS:
            # Twice at most: some of its checks are of milliseconds, which a machine under load does not keep.
            ok &= any(client(mcpp, node, script, requirement_set, scratch / "client" / requirement_set / attempt) for attempt in ["first", "second"])
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
