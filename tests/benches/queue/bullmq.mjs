// BullMQ's side of the bench `queue`. `bullmq.mjs MODULES PORT BACKLOG COUNT CLIENTS BATCHED BULK`: fills the queue on that Redis up to BACKLOG waiting jobs; then CLIENTS loops at once
// add COUNT jobs, claim COUNT, and complete those. Then it adds BATCHED jobs, BULK at a time, and completes and claims them in one command each. Prints one line of JSON: rate, p50 and p99 of each. Anything that is not a success ends it with an error.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, ...numbers] = process.argv.slice(2);
const [port, backlog, count, clients, batched, bulk] = numbers.map(Number);
const require = createRequire(`${modules}/`);
const { Queue, Worker } = require("bullmq");
const { Redis } = require("ioredis");

// Jobs of one `addBulk`.
const CHUNK = 1_000;
// As long as mcpp's, so that no lock ends while others are still claiming.
const LEASE_MS = 300_000;
const PRIORITIES = 10;
const TEXT = "x".repeat(160);

const connection = { host: "127.0.0.1", port };
const queue = new Queue("bench", { connection });
const worker = new Worker("bench", null, { connection, autorun: false, lockDuration: LEASE_MS });
const redis = new Redis(connection);
await Promise.all([queue.waitUntilReady(), worker.waitUntilReady()]);

// The same task as mcpp's, which has the payload 200 bytes long, ten priorities in turn, and three attempts. There a higher priority is sooner, here a lower one.
const task = (number) => ({
  name: "bench",
  data: { number, priority: (number % PRIORITIES) + 1, text: TEXT },
  opts: { priority: PRIORITIES - (number % PRIORITIES), attempts: 3 },
});
const waiting = async () => (await queue.getJobCounts("prioritized")).prioritized;

async function fill() {
  let done = await waiting();
  while (done < backlog) {
    const jobs = Array.from({ length: Math.min(CHUNK, backlog - done) }, (_, index) => task(done + index));
    assert.equal((await queue.addBulk(jobs)).length, jobs.length);
    done += jobs.length;
    if (done % (100 * CHUNK) === 0 || done === backlog) console.error(`BullMQ: ${done} of ${backlog} queued`);
  }
  // Redis rewrites its file in the background because of this: no part of the measurement.
  while (/aof_rewrite_(in_progress|scheduled):1/.test(await redis.info("persistence"))) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(await waiting(), backlog);
}

// Does something for each number, so many at once; what each gave, and what was measured.
async function each(count, act) {
  const [given, times] = [[], []];
  let next = 0;
  const client = async (_, index) => {
    while (next < count) {
      const number = next;
      next += 1;
      const started = performance.now();
      given[number] = await act(number, `client-${index}`);
      times.push(performance.now() - started);
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: clients }, client));
  const seconds = (performance.now() - started) / 1_000;
  times.sort((a, b) => a - b);
  const at = (quantile) => times[Math.round((count - 1) * quantile)] * 1_000;
  return { given, measured: { rate: count / seconds, p50_us: at(0.5), p99_us: at(0.99) } };
}

const distinct = (jobs) => assert.equal(new Set(jobs.map((job) => job.id)).size, jobs.length);

async function round(count) {
  const submit = await each(count, (number) => {
    const { name, data, opts } = task(number);
    return queue.add(name, data, opts);
  });
  distinct(submit.given);
  const claim = await each(count, async (_, token) => {
    // It does not wait for a job: there is one.
    const job = await worker.getNextJob(token, { block: false });
    assert.equal(job?.data.text, TEXT);
    return job;
  });
  distinct(claim.given);
  const complete = await each(count, (number) => {
    const job = claim.given[number];
    return job.moveToCompleted({ done: true }, job.token, false);
  });
  const { active, prioritized } = await queue.getJobCounts("active", "prioritized");
  assert.deepEqual({ active, prioritized }, { active: 0, prioritized: backlog });
  return { submit: submit.measured, claim: claim.measured, complete: complete.measured };
}

async function batches() {
  const first = (number) => number * bulk;
  // A client may stop with a job in its hands that another would need: there is one more for each.
  const added = batched + clients;
  const submit = await each(Math.ceil(added / bulk), async (number) => {
    const jobs = Array.from({ length: Math.min(bulk, added - first(number)) }, (_, index) => task(first(number) + index));
    assert.equal((await queue.addBulk(jobs)).length, jobs.length);
  });
  submit.measured.rate *= added / Math.ceil(added / bulk);
  const held = new Map();
  const work = await each(batched, async (number, token) => {
    const job = held.get(token) || (await worker.getNextJob(token, { block: false }));
    assert.equal(job?.data.text, TEXT);
    const [data, id] = (await job.moveToCompleted({ done: true }, token, number < batched)) ?? [];
    held.set(token, id && (await worker.nextJobFromJobData(data, id, token)));
    return job;
  });
  distinct(work.given);
  for (const [token, job] of held) await job?.moveToCompleted({ done: true }, token, false);
  return { submitBulk: submit.measured, completeAndClaim: work.measured };
}

await fill();
// The first round is not counted: compiling, connecting.
await round(Math.ceil(count / 10));
console.log(JSON.stringify({ ...(await round(count)), ...(await batches()) }));
await Promise.all([worker.close(), queue.close(), redis.quit()]);
