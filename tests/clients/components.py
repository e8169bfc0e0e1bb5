#!/usr/bin/env python3
"""Components that this project did not build: what other people's tool chains make, from Python and from JavaScript, with no SDK of ours and nothing but WIT; and those
that packages ship as files, as they are.

    components.py MCPP PYTHON NODE NODE_FOLDER SHIPPED_FOLDER
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import serving

PORT = 18434
URL = serving.url(PORT)
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


def call(mcpp: pathlib.Path, tool: str, arguments: dict) -> dict:
    """Calls a tool; its result, or why there is none."""
    command = [str(mcpp), "call", "--url", URL, "--json", tool, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    return json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def check(mcpp: pathlib.Path, component: str) -> None:
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
        answer = call(mcpp, f"{component}_{tool}", arguments)
        assert says in json.dumps(answer), (tool, arguments, says, answer)
    print(f"{component}: 2 tools, 6 calls")


# Where a package has its component, by the name under which it is served.
SHIPPED = {
    "executor": "composable_agents/execution/_wasm/executor.wasm",
    "vpod": "vpod/vpod_wasi_lib.wasm",
    **{codec: f"numcodecs_wasm_{codec.replace('-', '_')}/codec.wasm" for codec in ["fourier-network", "jpeg2000", "round", "sz3", "zfp", "zlib", "zstd"]},
}

# A codec's configuration, an array, and what it is after it was encoded and decoded.
CODECS = [
    ("jpeg2000", {"mode": "lossless"}, {"i16": [1, 2, 3, 4]}, [1, 2, 3, 4]),
    ("round", {"precision": 1.0}, {"f64": [1.4, 2.6, 3.0, 3.9]}, [1, 3, 3, 4]),
    ("sz3", {"eb_mode": "abs", "eb_abs": 0.5}, {"f64": [1.0, 2.0, 3.0, 4.0]}, None),
    ("zfp", {"mode": "reversible"}, {"f64": [1.5, 2.5, 3.5, 4.5]}, [1.5, 2.5, 3.5, 4.5]),
    ("zlib", {"level": 6}, {"f32": [1.5, 2.5, 3.5, 4.5]}, [1.5, 2.5, 3.5, 4.5]),
    ("zstd", {"level": 3}, {"u8": "AQIDBA=="}, "AQIDBA=="),
]


def check_codec(mcpp: pathlib.Path, codec: str, config: dict, data: dict, expected: object) -> None:
    """A resource that somebody else's component exports: made, used, ended."""
    def result(tool: str, **arguments: object) -> dict:
        answer = call(mcpp, f"{codec}_codec_codec{tool}", arguments)
        assert not answer.get("isError", True), (codec, tool, arguments, answer)
        return answer.get("structuredContent")

    assert result("-id")["result"] == f"{codec}.rs", codec
    handle = result("_from-config", config=json.dumps(config))["result"]
    array = {"data": data, "shape": [2, 2]}
    encoded = result("_encode", self=handle, data=array)
    assert encoded["shape"] != array["shape"] or codec == "round", encoded
    decoded = result("_decode", self=handle, encoded=encoded)
    assert decoded["shape"] == [2, 2], decoded
    [(kind, values)] = decoded["data"].items()
    assert [kind] == list(data), decoded
    if expected is None:
        assert all(abs(one - other) <= 0.5 for one, other in zip(values, data[kind], strict=True)), decoded
    else:
        assert values == expected, decoded
    result("_drop", self=handle)
    answer = call(mcpp, f"{codec}_codec_codec_encode", {"self": handle, "data": array})
    assert "handle" in json.dumps(answer) and answer.get("isError", True), (codec, answer)
    print(f"{codec}: a codec made, used and ended")


def check_shipped(mcpp: pathlib.Path) -> None:
    listed = [tool["name"] for tool in json.loads(run(mcpp, "tools", "--url", URL, "--json"))]
    assert sum(name.startswith("vpod_executor_session-") for name in listed) == 11, listed
    program = {"name": "f", "source": "def f(value):\n    return value + 1\n", "value": 41, "kwargs": {}}
    answer = call(mcpp, "executor_run", {"request": json.dumps(program)})
    assert json.loads(answer["structuredContent"]["result"]) == {"ok": True, "value": 42}, answer
    session = {"snapshot-path": "/nowhere", "command": "", "prompt": "", "mounts": [], "env": [], "secrets": []}
    answer = call(mcpp, "vpod_executor_session-start", session)
    assert answer["isError"] and "/nowhere" in answer["content"][0]["text"], answer
    answer = call(mcpp, "fourier-network_codec_codec-id", {})
    assert answer["structuredContent"]["result"] == "fourier-network.rs", answer
    print("executor, vpod, fourier-network: called")
    for codec in CODECS:
        check_codec(mcpp, *codec)


def main() -> None:
    mcpp, python, node, modules, shipped = (pathlib.Path(argument).absolute() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as data:
        folder, tools = pathlib.Path(data), pathlib.Path(data) / "tools"
        tools.mkdir()
        build(folder, tools, mcpp, python, node, modules)
        for name, component in SHIPPED.items():
            shutil.copy(shipped / component, tools / f"{name}.wasm")
        with serving.start(mcpp, folder / "data", PORT, "--tools", tools) as host:
            try:
                for component in ["py", "js"]:
                    check(mcpp, component)
                check_shipped(mcpp)
            finally:
                host.terminate()


if __name__ == "__main__":
    main()
