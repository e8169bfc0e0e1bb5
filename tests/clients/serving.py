"""A host for a script: started, waited for, and asked over HTTP."""

import os
import pathlib
import subprocess
import sys
import time
import urllib.request

START_SECONDS = 300


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"


def start(mcpp: object, data: pathlib.Path | str, port: int, *options: object, log: object = subprocess.DEVNULL) -> subprocess.Popen:
    """Starts a host and waits until it is ready; ends the script if it is not."""
    command = [mcpp, "serve", "--data", data, "--listen", f"127.0.0.1:{port}", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MCPP_")}
    host = subprocess.Popen([str(word) for word in command], stderr=log, env=environment)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if host.poll() is not None:
            sys.exit(f"the host ended with {host.returncode} before it was ready")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1).close()
            return host
        except OSError:
            time.sleep(0.05)
    host.kill()
    sys.exit(f"the host was not ready within {START_SECONDS} s")
