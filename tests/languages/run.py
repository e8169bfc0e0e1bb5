#!/usr/bin/env python3
"""Every language but Rust, from an empty folder to an answer: `mcpp new`, the template's own test, `mcpp build`, a host, a call, a broken build.

    run.py MCPP FOLDER [LANGUAGE…]      FOLDER is made anew

The tools come from the languages' own registries, into the projects' folders. Prints what each step took.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

MCPP = pathlib.Path(sys.argv[1]).resolve()
FOLDER = pathlib.Path(sys.argv[2])
# The template's own test, the file to break, what to put there, and the beginning of what the build then says.
LANGUAGES = {
    "javascript": (["npm", "test"], "src/tool.js", "export function (", "src/tool.js:"),
    "typescript": (["npm", "test"], "src/tool.ts", "export function (", "src/tool.ts:1:"),
    "python": (["python3", "-m", "unittest"], "app.py", "def (", "app.py:1"),
    "c": (["make", "test"], "greeting.c", "int (", "greeting.c:1:"),
    "go": ([".venv/bin/go", "test", "./greeting"], "greeting/greeting.go", "package greeting\nfunc (", "greeting/greeting.go:2:"),
}

# What the component says that it is written in.
NAMES = {"javascript": "JavaScript", "typescript": "TypeScript", "python": "Python", "c": "C", "go": "Go"}


def mcpp(*arguments, fails=False):
    """Runs the program; its standard output, or its standard error where it should fail."""
    done = subprocess.run([MCPP, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    if (done.returncode != 0) != fails:
        sys.exit(f"mcpp {arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stderr if fails else done.stdout


def check(language):
    test, source, nonsense, first = LANGUAGES[language]
    # Words joined by `-`, as some languages must rename those.
    name = f"my-{language}"
    project = FOLDER / name
    mcpp("new", name, "--lang", language, "--in", FOLDER)
    first_build = json.loads(mcpp("build", project, "--json"))
    subprocess.run(test, cwd=project, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    build = json.loads(mcpp("build", project, "--json"))
    component = pathlib.Path(build["component"])
    if (component.stem, build["bytes"]) != (name, component.stat().st_size):
        sys.exit(f"{language}: {build}")
    inspected = json.loads(mcpp("inspect", component, "--json"))
    if [inspected["language"], inspected["grant"]] != [[NAMES[language]], None]:
        sys.exit(f"{language}: it is inspected as {inspected['language']} with {inspected['grant']}")
    call(language, name, component)
    path = project / source
    text = path.read_text()
    path.write_text(nonsense)
    said = [line for line in mcpp("build", project, fails=True).splitlines() if not line.startswith("building (")]
    if not said[0].startswith(first):
        sys.exit(f"{language}: a broken build says first {said[0]!r}\n" + "\n".join(said))
    path.write_text(text)
    print(
        f"{language:<11} first build {first_build['seconds']:6.1f} s   again {build['seconds']:5.1f} s   "
        f"{build['bytes']:>9} bytes   broken: {said[0][:70]}",
        flush=True,
    )


def call(language, name, component):
    """Serves the component and calls it."""
    tools, data = FOLDER / f"{name}-tools", FOLDER / f"{name}-data"
    tools.mkdir()
    shutil.copy(component, tools)
    serve = [MCPP, "serve", "--listen", "127.0.0.1:0", "--tools", tools, "--data", data]
    host = subprocess.Popen(serve, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            info = subprocess.run([MCPP, "info", "--json", "--data", data], capture_output=True, text=True)
            if info.returncode == 0:
                break
            time.sleep(0.1)
        info = json.loads(info.stdout)
        listed = json.loads(mcpp("tools", "--json", "--url", info["url"]))
        own = [(tool["name"], tool["description"]) for tool in listed if tool["name"].startswith(name)]
        tool = f"{name}_greet"
        if own != [(tool, "Greets somebody.")]:
            sys.exit(f"{language}: its tools are {own}; {info['problems']}")
        said = mcpp("call", tool, "name=World", "--url", info["url"])
        if "Hello, World!" not in said:
            sys.exit(f"{language}: {said}")
        refused = mcpp("call", tool, json.dumps({"name": ""}), "--url", info["url"], fails=True)
        if "the name must not be empty" not in refused:
            sys.exit(f"{language}: {refused}")
    finally:
        host.terminate()
        host.wait()


shutil.rmtree(FOLDER, ignore_errors=True)
FOLDER.mkdir(parents=True)
FOLDER = FOLDER.resolve()
os.environ.pop("MCPP_URL", None)
# Go's module proxy is not asked: what a project needs, its build brings along.
os.environ["GOPROXY"] = "off"
for language in sys.argv[3:] or LANGUAGES:
    check(language)
