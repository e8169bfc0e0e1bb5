#!/usr/bin/env python3
"""Every language but Rust, from an empty folder to an answer: `mcpp new`, the template's own test, `mcpp build`, a host, a call, a broken build.

    run.py MCPP FOLDER [LANGUAGE…]      FOLDER is made anew

The tools come from the languages' own registries, into the projects' folders. Prints what each step took.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "clients"))
import serving

MCPP = pathlib.Path(sys.argv[1]).resolve()
FOLDER = pathlib.Path(sys.argv[2])
HERE = pathlib.Path(__file__).resolve().parent / "interfaces"
PORT = 18435
# The template's own test, the file to break, what to put there, and the beginning of what the build then says.
LANGUAGES = {
    "javascript": (["npm", "test"], "src/tool.js", "export function (", "src/tool.js:"),
    "typescript": (["npm", "test"], "src/tool.ts", "export function (", "src/tool.ts:1:"),
    "python": (["python3", "-m", "unittest"], "app.py", "def (", "app.py:1"),
    "c": (["make", "test"], "greeting.c", "int (", "greeting.c:1:"),
    "go": ([".venv/bin/go", "test", "./greeting"], "greeting/greeting.go", "package greeting\nfunc (", "greeting/greeting.go:2:"),
}

# The same with the standard interfaces: where its source goes, and what is in the way there.
INTERFACES = {
    "javascript": ("tool.js", "src/tool.js", []),
    "typescript": ("tool.js", "src/tool.ts", []),
    "python": ("app.py", "app.py", []),
    "c": ("tool.c", "tool.c", ["greeting.c", "greeting.h", "test_greeting.c"]),
    "go": ("tool.go", "export_wit_world/tool.go", []),
}

# The language that the component names as its own.
NAMES = {"javascript": "JavaScript", "typescript": "TypeScript", "python": "Python", "c": "C", "go": "Go"}


def mcpp(*arguments, fails=False):
    """Runs the program; what it says: on standard output, or anywhere where it should fail."""
    done = subprocess.run([MCPP, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    if (done.returncode != 0) != fails:
        sys.exit(f"mcpp {arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stderr + done.stdout if fails else done.stdout


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
    if language in INTERFACES:
        interfaces(language, name, project)
    print(
        f"{language:<11} first build {first_build['seconds']:6.1f} s   again {build['seconds']:5.1f} s   "
        f"{build['bytes']:>9} bytes   broken: {said[0][:70]}",
        flush=True,
    )


def interfaces(language, name, project):
    """The standard interfaces, under the grants that every language needs: a store, a setting, a directory, log records."""
    source, place, superfluous = INTERFACES[language]
    mcpp("wit", "--out", project / "wit" / "deps")
    world = (HERE / "functions.wit").read_text()
    (project / "wit" / "world.wit").write_text(f"package local:{name};\n{world}")
    shutil.copy(HERE / source, project / place)
    for file in superfluous:
        (project / file).unlink()
    component = pathlib.Path(json.loads(mcpp("build", project, "--json"))["component"])
    tool, value, has_files = f"{name}_keep", f"kept by {language}", language not in ("javascript", "typescript")
    folder = FOLDER / f"{name}-files"
    folder.mkdir()
    (folder / "file.txt").write_text("from a file")
    with host_with(name, component, "interfaces") as (url, data, log):
        problems = mcpp("tools", "--problems", "--data", data, fails=True)
        if "store = {}" not in problems:
            sys.exit(f"{language}: without a grant it has these problems: {problems}")
        files = f'[[files]]\npath = "{folder}"\nat = "/data"'
        mcpp("grant", name, "store = {}", 'config = { region = "eu" }', files, "--data", data)
        said = mcpp("call", tool, f"value={value}", "--url", url).strip()
        expected = f"{value}, eu" + (", from a file" if has_files else "")
        if said != expected:
            sys.exit(f"{language}: {said!r} is not {expected!r}")
        if has_files and "[[files]]" not in mcpp("learn", name, "--data", data):
            sys.exit(f"{language}: it is not learned that the directory is used")
    records = [line for line in log.read_text().splitlines() if f": {value}" in line and "WARN" in line]
    if len(records) != 1:
        sys.exit(f"{language}: its log record is not there once:\n{log.read_text()}")


@contextlib.contextmanager
def host_with(name, component, what):
    """A host with the component alone: its URL, its data folder, its log."""
    tools, data, log = (FOLDER / f"{name}-{what}-{kind}" for kind in ("tools", "data", "log"))
    tools.mkdir()
    shutil.copy(component, tools)
    with log.open("wb") as written, serving.start(MCPP, data, PORT, "--tools", tools, log=written) as host:
        try:
            yield serving.url(PORT), data, log
        finally:
            host.terminate()


def call(language, name, component):
    """Serves the component and calls it."""
    with host_with(name, component, "template") as (url, _, log):
        listed = json.loads(mcpp("tools", "--json", "--url", url))
        own = [(tool["name"], tool["description"]) for tool in listed if tool["name"].startswith(name)]
        tool = f"{name}_greet"
        if own != [(tool, "Greets somebody.")]:
            sys.exit(f"{language}: its tools are {own}\n{log.read_text()}")
        said = mcpp("call", tool, "name=World", "--url", url)
        if "Hello, World!" not in said:
            sys.exit(f"{language}: {said}")
        refused = mcpp("call", tool, json.dumps({"name": ""}), "--url", url, fails=True)
        if "the name must not be empty" not in refused:
            sys.exit(f"{language}: {refused}")


shutil.rmtree(FOLDER, ignore_errors=True)
FOLDER.mkdir(parents=True)
FOLDER = FOLDER.resolve()
os.environ.pop("MCPP_URL", None)
# Go's module proxy is not asked: what a project needs, its build brings along.
os.environ["GOPROXY"] = "off"
for language in sys.argv[3:] or LANGUAGES:
    check(language)
