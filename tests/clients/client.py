"""The Python SDK and FastMCP against mcpp: list the tools and call one, in every mode. `client.py URL` or `client.py COMMAND ARGUMENT…` (stdio)."""

import asyncio
import sys

import fastmcp
from mcp import Client, StdioServerParameters

EXPECTED = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


async def use(name: str, client) -> None:
    async with client:
        tools = await client.list_tools()
        names = sorted(tool.name for tool in getattr(tools, "tools", tools))
        result = await client.call_tool("text_hash", {"text": "abc"})
        structured = getattr(result, "structured_content", None)
        assert structured["digest"] == EXPECTED, result
        assert "text_hash" in names, names
        print(f"{name}: {', '.join(names)}; text_hash → {structured['digest'][:12]}…")


async def main(target: list[str]) -> None:
    if target[0].startswith("http"):
        for mode in ["auto", "legacy", "2026-07-28"]:
            await use(f"python mcp, {mode}", Client(target[0], mode=mode))
        await use("fastmcp", fastmcp.Client(target[0]))
    else:
        server = StdioServerParameters(command=target[0], args=target[1:])
        for mode in ["auto", "legacy"]:
            await use(f"python mcp over stdio, {mode}", Client(server, mode=mode))


asyncio.run(main(sys.argv[1:]))
