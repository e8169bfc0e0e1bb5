#!/usr/bin/env python3
"""A workflow through components in two languages: it lists a granted directory, digests each file in Python and counts its words in JavaScript, in parallel, merges what they found, waits for a
signal and writes a report. On one host, and over three, where the workflow's host has neither of the components.

    pipeline.py MCPP FOLDER      FOLDER/pipeline is made anew, with the languages' tools in its projects
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "clients"))
import serving

MCPP = pathlib.Path(sys.argv[1]).resolve()
HERE = pathlib.Path(__file__).resolve().parent / "pipeline"
WORK = pathlib.Path(sys.argv[2]).resolve() / "pipeline"
PORT = 18450
SECONDS = 120
# The language, and its source.
COMPONENTS = {"shelf": ("python", "app.py"), "tally": ("javascript", "src/tool.js")}
TEXTS = {f"text-{number}.txt": "one word more " * number + "and the rest\n" for number in range(1, 13)}


def mcpp(*arguments):
    done = subprocess.run([MCPP, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"mcpp {arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(name):
    """A component from the sources beside this script."""
    language, source = COMPONENTS[name]
    project = WORK / name
    mcpp("new", name, "--lang", language, "--in", WORK)
    (project / "wit" / "world.wit").write_text(f"package local:{name};\n{(HERE / f'{name}.wit').read_text()}")
    shutil.copy(HERE / f"{name}{pathlib.Path(source).suffix}", project / source)
    return pathlib.Path(json.loads(mcpp("build", project, "--json"))["component"])


class Host:
    """A host with some of the components, by their files."""

    def __init__(self, name, number, components):
        self.data, tools, config = (WORK / f"{name}-{kind}" for kind in ("data", "tools", "mcpp.toml"))
        self.url = serving.url(PORT + number)
        tools.mkdir()
        for component in components:
            shutil.copy(component, tools)
        config.write_text(f'[mesh]\nlisten = ["127.0.0.1:{PORT + 10 + number}"]\n')
        self.log = WORK / f"{name}-log"
        options = ("--tools", tools, "--config", config)
        self.process = serving.start(MCPP, self.data, PORT + number, *options, log=self.log.open("wb"))

    def operate(self, *arguments):
        return mcpp(*arguments, "--data", self.data)

    def call(self, tool, **arguments):
        answer = json.loads(mcpp("call", tool, json.dumps(arguments), "--url", self.url, "--json"))
        return answer.get("structuredContent", answer)

    def grant_folders(self, shelf, reports):
        folders = f'[[files]]\npath = "{shelf}"\nat = "/shelf"\n[[files]]\npath = "{reports}"\nat = "/reports"\nmode = "read-write"'
        self.operate("grant", "shelf", folders)

    def mount(self, name, other, tools):
        """Shows tools of another host here, under a name."""
        patterns = [word for tool in tools for word in ("--tool", tool)]
        ticket = json.loads(other.operate("invite", *patterns, "--json"))["ticket"]
        self.operate("join", ticket)
        peers = json.loads(self.operate("peers", "--json"))["peers"]
        peer = next(peer for peer, row in peers.items() if peer not in self.mounted)
        self.mounted.add(peer)
        self.operate("mount", name, "--peer", peer, *patterns)

    mounted = frozenset()


@contextlib.contextmanager
def hosts(**components):
    running = []
    try:
        for number, (name, files) in enumerate(components.items()):
            host = Host(name, number, files)
            host.mounted = set()
            running.append(host)
        yield running
    finally:
        for host in running:
            host.process.terminate()
            host.process.wait()


def folders(name):
    shelf, reports = WORK / f"{name}-shelf", WORK / f"{name}-reports"
    shelf.mkdir()
    reports.mkdir()
    for file, text in TEXTS.items():
        (shelf / file).write_text(text)
    return shelf, reports


def wait_for(what, condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"waited too long until {what}")
        time.sleep(0.1)
    return found


def run(host, rename, report):
    """Runs the workflow, whose tools may have other names here, and looks at the report."""
    text = (HERE / "workflow.json").read_text()
    for tool, name in rename.items():
        text = text.replace(f'"action": "{tool}_', f'"action": "{name}_{tool}_')
    submitted = host.call("workflow_submit", **json.loads(text))
    if not submitted.get("success"):
        sys.exit(f"the run was not taken: {json.dumps(submitted, indent=1)}")

    def status():
        status = host.call("workflow_status", workflow_id="report")
        if status.get("status") in (None, "failed"):
            sys.exit(f"the run failed: {json.dumps(status, indent=1)}\n{host.log.read_text()}")
        return status

    steps = lambda: {step["step_id"]: step for step in status()["steps"]}
    waits = lambda: steps().get("approved", {}).get("status") == "waiting"
    wait_for("it waits for the signal", waits)
    if report.exists():
        sys.exit("the report was written before anybody approved it")
    host.call("workflow_signal", workflow_id="report", signal="approved")
    wait_for("it has ended", lambda: status()["status"] == "completed")
    line = lambda name, text: f"{name} {len(text.split())} {hashlib.sha256(text.encode()).hexdigest()}\n"
    expected = "".join(line(name, TEXTS[name]) for name in sorted(TEXTS))
    if report.read_text() != expected:
        sys.exit(f"the report is\n{report.read_text()}\nand not\n{expected}")
    print(f"host {host.data.name.removesuffix('-data')}: a report on {len(TEXTS)} files", flush=True)


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    shelf, tally = build("shelf"), build("tally")
    with hosts(one=[shelf, tally]) as [one]:
        texts, reports = folders("one")
        one.grant_folders(texts, reports)
        run(one, {}, reports / "report.txt")
    with hosts(a=[], b=[shelf], c=[tally]) as [a, b, c]:
        texts, reports = folders("b")
        b.grant_folders(texts, reports)
        a.mount("py", b, ["shelf_*"])
        a.mount("js", c, ["tally_*"])
        run(a, {"shelf": "py", "tally": "js"}, reports / "report.txt")


if __name__ == "__main__":
    main()
