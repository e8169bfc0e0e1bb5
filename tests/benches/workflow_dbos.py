#!/usr/bin/env python3
"""The shapes of `workflow.py` in DBOS on a PostgreSQL of its own, with the settings that Debian gives that: every commit is on disk before it is acknowledged.

    python3 -m venv DIR && DIR/bin/pip install dbos && DIR/bin/python tests/benches/workflow_dbos.py

A step computes what `text_hash` does, in the process of the workflow. Each line is: shape, steps, seconds, steps a second, milliseconds a step. Needs Debian's `postgresql`.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS

#: A superuser may not run the server.
SOMEBODY = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}


@DBOS.step()
def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@DBOS.workflow()
def chain(length: int) -> str:
    digest = ""
    for _ in range(length):
        digest = text_hash("x")
    return digest


class Server:
    """A PostgreSQL that listens on a socket in a folder of its own."""

    def __init__(self, folder):
        programs = max(glob.glob("/usr/lib/postgresql/*/bin"), default=None) or sys.exit("PostgreSQL is not installed")
        if SOMEBODY:
            shutil.chown(folder, **SOMEBODY)
        data = os.path.join(folder, "data")
        make = [f"{programs}/initdb", "--no-sync", "--auth=trust", "--username=dbos", "-D", data]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=folder, **SOMEBODY)
        serve = [f"{programs}/postgres", "-D", data, "-k", folder, "-h", ""]
        self.process = subprocess.Popen(serve, stderr=subprocess.DEVNULL, cwd=folder, **SOMEBODY)
        ready = [f"{programs}/pg_isready", "--quiet", "-h", folder]
        while subprocess.run(ready).returncode:
            if self.process.poll() is not None:
                sys.exit("PostgreSQL ended before it served")
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def measure(name, workflows, length):
    began = time.monotonic()
    # As many at once as our host has handlers.
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: chain(length), range(workflows)))
    took, steps = time.monotonic() - began, workflows * length
    print(f"{name:<12} {steps:>6} {took:>8.2f} {steps / took:>8.0f} {took / steps * 1e3:>8.3f}", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        try:
            url = f"postgresql://dbos@/dbos?host={folder}"
            DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
            DBOS.launch()
            measure("first", 1, 20)
            measure("chain", 1, 300)
            measure("chains", 40, 50)
            DBOS.destroy()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
