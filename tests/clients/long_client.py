"""The Python SDK and FastMCP call a tool that takes longer than they wait, and get its whole answer. `long_client.py URL SECONDS PATIENCE`."""

import asyncio
import sys

import fastmcp
from mcp import Client


async def use(name: str, client, seconds: float, patience: dict) -> None:
    async with client:
        result = await client.call_tool("slow_compute", {"seconds": seconds, "label": name}, **patience)
        waits = 0
        while (getattr(result, "structured_content", None) or {}).get("status") == "working":
            result = await client.call_tool("task_wait", {"task": result.structured_content["task"]}, **patience)
            waits += 1
        assert result.content[0].text == f"computed {name}", result
        assert waits > 1, waits
        print(f"{name}: the whole answer after {waits} calls of task_wait")


async def main(url: str, seconds: float, patience: float) -> None:
    clients = [(f"python mcp, {mode}", Client(url, mode=mode), {"read_timeout_seconds": patience}) for mode in ["auto", "legacy"]]
    clients.append(("fastmcp", fastmcp.Client(url), {"timeout": patience}))
    await asyncio.gather(*(use(name, client, seconds, patience) for name, client, patience in clients))


asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
