#!/usr/bin/env python3
"""One program in an empty folder, and nothing else of ours: it serves and calls, and in every language `mcpp new` and `mcpp dev` lead to an answer.

    newcomer.py MCPP FOLDER [LANGUAGE…]      FOLDER is made anew; it and MCPP are outside of any checkout

Each step is one that the docs name. Prints the seconds that each language took.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "clients"))
import serving

MCPP = pathlib.Path(sys.argv[1]).resolve()
FOLDER = pathlib.Path(sys.argv[2])
LANGUAGES = ["rust", "javascript", "typescript", "python", "c", "go"]
PORT = 18437
# A first build gets the tools of its language and compiles them.
PATIENCE_SECONDS = 900
# `mcpp build` ends with this where a tool is not installed.
NOT_INSTALLED = 3
# The command in docs/languages.md for machines where rustup has no target for Rust.
GUEST_TARGET = ["bash", ".mcpp/sdk/tool-sdk/guest-target.sh", ".mcpp/guest-toolchain"]


def mcpp(*arguments):
    """Runs the program; its standard output."""
    done = subprocess.run([MCPP, *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if done.returncode != 0:
        sys.exit(f"mcpp {arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def serve():
    """The host alone, with what is built into it."""
    with serving.start(MCPP, FOLDER / "data", PORT) as host:
        try:
            if "text_hash" not in mcpp("tools", "--url", serving.url(PORT)):
                sys.exit("the built-in tools are not there")
            mcpp("call", "text_hash", "text=hello", "--url", serving.url(PORT))
        finally:
            host.terminate()


def prepare(project):
    """Rust needs a target that not every machine has: the build says so, and the docs say what to type."""
    built = subprocess.run([MCPP, "build", project], cwd=FOLDER, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if built.returncode == NOT_INSTALLED:
        if " ".join(GUEST_TARGET) not in built.stderr:
            sys.exit(f"the build does not say what to type:\n{built.stderr}")
        subprocess.run(GUEST_TARGET, cwd=project, check=True)
    elif built.returncode != 0:
        sys.exit(f"the project does not build:\n{built.stderr}")
    subprocess.run(["cargo", "test", "--quiet"], cwd=project, check=True, stdout=subprocess.DEVNULL)


def dev(project, tool):
    """`mcpp dev` until the tool is live, a call of it, and an end by Ctrl-C."""
    said, live = [], threading.Event()

    def hear():
        for line in child.stderr:
            said.append(line)
            if "is live on" in line:
                live.set()

    command = [MCPP, "dev", project, "--listen", f"127.0.0.1:{PORT}"]
    with subprocess.Popen(command, cwd=FOLDER, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        threading.Thread(target=hear, daemon=True).start()
        try:
            if not live.wait(PATIENCE_SECONDS):
                sys.exit(f"{project.name} is not live:\n{''.join(said)}")
            answer = mcpp("call", tool, "name=World", "--url", serving.url(PORT))
            if "Hello, World!" not in answer:
                sys.exit(f"{project.name} answers {answer}")
            child.send_signal(signal.SIGINT)
            if child.wait(timeout=60) != 0:
                sys.exit(f"mcpp dev ended with {child.returncode}:\n{''.join(said)}")
        finally:
            child.kill()


shutil.rmtree(FOLDER, ignore_errors=True)
FOLDER.mkdir(parents=True)
FOLDER = FOLDER.resolve()
for variable in [name for name in os.environ if name.startswith("MCPP_") and name != "MCPP_NO_RUSTUP"]:
    del os.environ[variable]
# Go's module proxy is not asked: what a project needs, its build brings along.
os.environ["GOPROXY"] = "off"
serve()
for language in sys.argv[3:] or LANGUAGES:
    began, name = time.monotonic(), f"new-{language}"
    mcpp("new", name, "--lang", language)
    if language == "rust":
        prepare(FOLDER / name)
    dev(FOLDER / name, "greet" if language == "rust" else f"{name}_greet")
    print(f"{language:<11} {time.monotonic() - began:6.1f} s", flush=True)
