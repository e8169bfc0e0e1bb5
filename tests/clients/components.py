#!/usr/bin/env python3
"""Components that other people's tool chains make, from Python and from JavaScript: no SDK of ours, nothing but WIT.

    components.py MCPP PYTHON NODE NODE_FOLDER
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

PORT = 18434
URL = f"http://127.0.0.1:{PORT}/mcp"
SECONDS = 240

WIT = """
package foreign:shop@1.0.0;

interface catalog {
    /// A thing for sale.
    record item {
        name: string,
        /// In cents.
        price: u32,
        tags: list<string>,
    }
    variant offer { percent(u8), none }

    /// What is left to pay, in cents.
    price: func(item: item, offer: offer) -> result<u32, string>;
}

world shop {
    export catalog;
    /// Says hello.
    export greet: func(name: string) -> string;
}
"""

PYTHON = """
import wit_world
from wit_world.exports import Catalog as Interface
from wit_world.exports.catalog import Offer_Percent
from componentize_py_types import Err

class Catalog(Interface):
    def price(self, item, offer):
        if not item.tags:
            raise Err(f"{item.name} has no tags")
        percent = offer.value if isinstance(offer, Offer_Percent) else 0
        return item.price * (100 - percent) // 100

class WitWorld(wit_world.WitWorld):
    def greet(self, name):
        return f"Hello, {name}!"
"""

JAVASCRIPT = """
export const catalog = {
    price(item, offer) {
        if (item.tags.length === 0) throw `${item.name} has no tags`;
        const percent = offer.tag === "percent" ? offer.val : 0;
        return Math.floor(item.price * (100 - percent) / 100);
    },
};
export function greet(name) { return `Hello, ${name}!`; }
"""


def run(*command: object, cwd: object = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS, cwd=cwd)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build(folder: pathlib.Path, tools: pathlib.Path, mcpp: pathlib.Path, python: pathlib.Path, node: pathlib.Path, modules: pathlib.Path) -> None:
    wit = folder / "wit"
    wit.mkdir()
    (wit / "shop.wit").write_text(WIT)
    (folder / "app.py").write_text(PYTHON)
    (folder / "app.js").write_text(JAVASCRIPT)
    run(python.parent / "componentize-py", "-d", wit, "-w", "shop", "componentize", "app", "-o", tools / "py.wasm", cwd=folder)
    run(node, modules / "node_modules/componentize-qjs/cli.mjs", "--sync", "--stub-wasi", "--wit", wit, "--js", folder / "app.js", "-o", tools / "js.wasm")
    for component in tools.iterdir():
        run(mcpp, "document", component, "--wit", wit)


def check(mcpp: pathlib.Path, component: str) -> None:
    def call(tool: str, arguments: dict) -> subprocess.CompletedProcess:
        command = [mcpp, "call", "--url", URL, "--json", f"{component}_{tool}", json.dumps(arguments)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)

    listed = {tool["name"]: tool for tool in json.loads(run(mcpp, "tools", "--url", URL, "--json"))}
    price = listed[f"{component}_catalog_price"]
    assert price["description"] == "What is left to pay, in cents.", price
    assert "In cents." in json.dumps(price), price
    item = {"name": "tea", "price": 400, "tags": ["hot"]}
    for tool, arguments, says in [
        ("greet", {"name": "Ada"}, "Hello, Ada!"),
        ("catalog_price", {"item": item, "offer": {"percent": 25}}, "300"),
        ("catalog_price", {"item": item, "offer": "none"}, "400"),
        ("catalog_price", {"item": item | {"tags": []}, "offer": "none"}, "tea has no tags"),
        ("catalog_price", {"item": item, "offer": {"percent": 256}}, "/offer/percent"),
        ("catalog_price", {"item": item | {"tags": [1]}, "offer": "none"}, "/item/tags/0"),
    ]:
        answer = call(tool, arguments)
        assert says in answer.stdout + answer.stderr, (tool, arguments, says, answer)
    print(f"{component}: 2 tools, 6 calls")


def main() -> None:
    mcpp, python, node, modules = (pathlib.Path(argument).absolute() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as data:
        folder, tools = pathlib.Path(data), pathlib.Path(data) / "tools"
        tools.mkdir()
        build(folder, tools, mcpp, python, node, modules)
        command = [mcpp, "serve", "--data", folder / "data", "--tools", tools, "--listen", f"127.0.0.1:{PORT}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"RUST_LOG": "off"}) as host:
            try:
                for _ in range(600):
                    try:
                        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready", timeout=1).close()
                        break
                    except OSError:
                        time.sleep(0.1)
                for component in ["py", "js"]:
                    check(mcpp, component)
            finally:
                host.terminate()


if __name__ == "__main__":
    main()
