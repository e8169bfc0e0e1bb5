"""A submitter or a worker of the task queue, with the Python SDK, until it is killed. `queue_client.py submitter|worker NAME URL LOG`: what is acknowledged is appended to LOG, a line each."""

import asyncio
import sys

from mcp import Client


async def main(role: str, name: str, url: str, log_path: str) -> None:
    with open(log_path, "a", buffering=1, encoding="utf-8") as log:
        async with Client(url, mode="2026-07-28") as client:

            async def ask(tool: str, **arguments: object) -> dict:
                return (await client.call_tool(tool, arguments)).structured_content

            for number in range(1_000_000):
                if role == "submitter":
                    policy = {"max_retries": 50, "backoff_factor": 1}
                    task = f"{name}-{number}"
                    reply = await ask("task_submit", task_id=task, task_type="chaos", payload={}, timeout=2, retry_policy=policy)
                    if reply["success"]:
                        log.write(f"{task}\n")
                    await asyncio.sleep(0.05)
                    continue
                task = (await ask("p2p_taskqueue_claim_next", worker_id=name))["task"]
                if task is None:
                    await asyncio.sleep(0.05)
                    continue
                await asyncio.sleep(0.02)
                reply = await ask("p2p_taskqueue_complete_task", task_id=task["task_id"], worker_id=name, fencing_token=task["fencing_token"])
                if reply["ok"]:
                    log.write(f"{task['task_id']}\n")


asyncio.run(main(*sys.argv[1:]))
