#!/usr/bin/env python3
"""Ten workers and ten submitters in processes of their own, half with the Python SDK and half with the TypeScript one, on one queue; killed at random, and the host too. Every
task that was acknowledged is in the end completed, once, or visibly a dead letter.

    many_clients.py MCPP PYTHON NODE NODE_FOLDER SECONDS
"""

import collections
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import serving

HERE = pathlib.Path(__file__).parent
PORT = 18433
URL = serving.url(PORT)
EACH = 10
# Fewer acknowledged than this, of submissions and of completions, is no load.
ENOUGH = 50
PATIENCE_SECONDS = 120


class Crowd:
    """The processes: whoever ends is replaced by somebody new."""

    def __init__(self, python: pathlib.Path, node: pathlib.Path, modules: pathlib.Path, folder: pathlib.Path) -> None:
        self.commands = [[python, HERE / "queue_client.py"], [node, HERE / "queue_client.mjs", modules]]
        self.folder = folder
        self.names = itertools.count()
        self.running: dict[str, dict[str, subprocess.Popen]] = {"submitter": {}, "worker": {}}
        self.killed = 0

    def fill(self, role: str) -> None:
        living = {name: process for name, process in self.running[role].items() if process.poll() is None}
        while len(living) < EACH:
            name = f"{role}{next(self.names)}"
            log = self.folder / f"{name}.log"
            log.touch()
            command = [*self.commands[len(living) % 2], role, name, URL, log]
            living[name] = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running[role] = living

    def kill_one(self, role: str) -> None:
        """Kills somebody who has done something: where starting takes long, nobody would ever come to it."""
        at_work = [process for name, process in self.running[role].items() if (self.folder / f"{name}.log").stat().st_size]
        if at_work:
            victim = random.choice(at_work)
            victim.kill()
            victim.wait()
            self.killed += 1

    def end(self, role: str) -> None:
        for process in self.running[role].values():
            process.kill()
            process.wait()

    def has_worked(self, enough: int) -> bool:
        return all(len(self.lines(role)) >= enough for role in self.running)

    def lines(self, role: str) -> list[str]:
        # A line that a kill has cut short was not acknowledged to anybody.
        texts = [log.read_text(encoding="utf-8") for log in self.folder.glob(f"{role}*.log")]
        return [line for text in texts for line in text.split("\n")[:-1]]


class Host:
    def __init__(self, mcpp: pathlib.Path, data: pathlib.Path) -> None:
        self.mcpp, self.data = mcpp, data
        self.start()

    def start(self) -> None:
        self.process = serving.start(self.mcpp, self.data, PORT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, tool: str, **arguments: object) -> dict:
        command = [str(self.mcpp), "call", tool, json.dumps(arguments), "--json", "--url", URL]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return json.loads(done.stdout)["structuredContent"]

    def tasks(self) -> dict[str, dict]:
        tasks: dict[str, dict] = {}
        while True:
            page = self.ask("task_list", limit=1000, offset=len(tasks))
            tasks |= {task["task_id"]: task for task in page["tasks"]}
            if not page["has_more"]:
                return tasks


def main() -> None:
    mcpp, python, node, modules = (pathlib.Path(argument).absolute() for argument in sys.argv[1:5])
    seconds = float(sys.argv[5])
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        host, crowd = Host(mcpp, folder / "data"), Crowd(python, node, modules, folder)
        try:
            start, killed_host = time.monotonic(), False
            # On a slow machine it takes longer.
            while (passed := time.monotonic() - start) < seconds or not (killed_host and crowd.has_worked(ENOUGH)):
                if passed > seconds + PATIENCE_SECONDS:
                    sys.exit("there was hardly any load: " + ", ".join(f"{len(crowd.lines(role))} lines of {role}s" for role in crowd.running))
                for role in crowd.running:
                    crowd.fill(role)
                time.sleep(0.7)
                crowd.kill_one(random.choice(["submitter", "worker"]))
                if not killed_host and passed > seconds / 2 and crowd.has_worked(1):
                    killed_host = True
                    host.kill()
                    host.start()
            crowd.end("submitter")
            patience = time.monotonic() + PATIENCE_SECONDS
            while (stats := host.ask("queue_stats"))["queued_count"] + stats["running_count"] > 0:
                crowd.fill("worker")
                if time.monotonic() > patience:
                    sys.exit(f"tasks are left behind: {stats}")
                time.sleep(0.5)
            crowd.end("worker")
            check(host.tasks(), crowd, stats)
        finally:
            crowd.end("submitter")
            crowd.end("worker")
            host.kill()


def check(tasks: dict[str, dict], crowd: Crowd, stats: dict) -> None:
    submitted, completed = crowd.lines("submitter"), collections.Counter(crowd.lines("worker"))
    lost = [task for task in submitted if task not in tasks]
    twice = [task for task, times in completed.items() if times > 1]
    wrong = [task for task in tasks.values() if task["status"] != "completed" and not task["dead_letter"]]
    unknown = [task for task in completed if tasks.get(task, {}).get("status") != "completed"]
    if lost or twice or wrong or unknown or stats["completed_count"] + stats["failed_count"] != len(tasks):
        sys.exit(f"lost {lost}, completed twice {twice}, not ended {wrong}, completed and not so {unknown}, counted {stats} of {len(tasks)}")
    dead = sum(task["dead_letter"] for task in tasks.values())
    print(f"{len(submitted)} tasks acknowledged, {len(tasks)} there, {len(completed)} completions acknowledged, each once; {dead} dead letters; {crowd.killed} clients and the host killed")


if __name__ == "__main__":
    main()
