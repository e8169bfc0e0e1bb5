// A submitter or a worker of the task queue, with the TypeScript SDK, until it is killed. `queue_client.mjs MODULES submitter|worker NAME URL LOG`: what is acknowledged is appended to LOG, a line each.
import { appendFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [modules, role, name, url, log] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { Client, StreamableHTTPClientTransport } = await import(pathToFileURL(require.resolve("@modelcontextprotocol/client")));

const client = new Client({ name, version: "0" }, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const ask = async (tool, args) => (await client.callTool({ name: tool, arguments: args })).structuredContent;

for (let number = 0; ; number += 1) {
  if (role === "submitter") {
    const task_id = `${name}-${number}`;
    const retry_policy = { max_retries: 50, backoff_factor: 1 };
    const reply = await ask("task_submit", { task_id, task_type: "chaos", payload: {}, timeout: 2, retry_policy });
    if (reply.success) appendFileSync(log, `${task_id}\n`);
    await sleep(50);
    continue;
  }
  const { task } = await ask("p2p_taskqueue_claim_next", { worker_id: name });
  if (!task) {
    await sleep(50);
    continue;
  }
  await sleep(20);
  const { task_id, fencing_token } = task;
  const reply = await ask("p2p_taskqueue_complete_task", { task_id, worker_id: name, fencing_token });
  if (reply.ok) appendFileSync(log, `${task_id}\n`);
}
