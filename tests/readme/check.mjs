// Takes the scripts out of README.md and runs them: the page and the backend as processes of their own, the client
// also in this one, where what happens to the broker can be told from what the client says.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";

const WAIT_MS = 20_000;
const RUN_MS = 60_000;
const FANFARE = path.resolve(process.argv[2], "fanfare");
// A client that falls behind is moved forward soon, silence is noticed in seconds, and a restart is quick.
const SETTINGS = [
  "limits.message_bytes_max=65536", "delivery.owed_bytes_max=131072", "delivery.slow_consumer=skip",
  "timeouts.ping_ms=1000", "timeouts.drain_ms=1000", "reactor.count=1", "reactor.pin=false",
].flatMap((setting) => ["--set", setting]);

const work = mkdtempSync(path.join(tmpdir(), "fanfare-readme-"));
const processes = new Set();

/** What a process says, to be waited for; every wait ends. */
function start(command, args) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  processes.add(child);
  child.on("exit", () => processes.delete(child));
  let said = "", read = 0;
  child.stdout.on("data", (bytes) => (said += bytes));
  return {
    child,
    /** The next place that fits, after what was waited for before. */
    async says(pattern) {
      const found = await until(`${path.basename(command)} says ${pattern}`, () => pattern.exec(said.slice(read)));
      read += found.index + found[0].length;
      return found;
    },
  };
}

async function until(what, look) {
  for (const end = Date.now() + WAIT_MS; Date.now() < end; await pause(10)) {
    const found = look();
    if (found) return found;
  }
  throw new Error(`not within ${WAIT_MS} ms: ${what}`);
}

async function broker(address) {
  const started = start(FANFARE, ["serve", "--listen", address, "--admin", "", "--log", "error", ...SETTINGS]);
  const [, url] = await started.says(/(ws:\/\/\S+)/);
  return { ...started, url };
}

async function stop({ child }, signal = "SIGTERM") {
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill(signal);
  await gone;
}

function isStopped(pid) {
  const threads = readdirSync(`/proc/${pid}/task`);
  return threads.every((thread) => / T /.test(readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8")));
}

function pub(url, ...args) {
  const done = spawnSync(FANFARE, ["pub", "--url", url, ...args], { encoding: "utf8", timeout: WAIT_MS });
  assert.equal(done.status, 0, `fanfare pub ${args}: ${done.stderr}`);
}

const step = (what) => console.log(`readme: ${what}`);

async function main() {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const scripts = [...readme.matchAll(/```js\n(.*?)```/gs)].map(([, text]) => text);
  const script = (holds) => {
    const found = scripts.filter((text) => text.includes(holds));
    assert.equal(found.length, 1, `README.md has one script with ${holds}`);
    return found[0];
  };
  const save = (name, text) => {
    writeFileSync(path.join(work, name), text);
    return path.join(work, name);
  };
  const node = (file) => start(process.execPath, ["--experimental-websocket", "--no-warnings", file]);

  let running = await broker("127.0.0.1:0");
  const { url } = running, { host } = new URL(url);
  const client = save("fanfare.mjs", script("export function connect("));
  const here = (text) => text.replaceAll("127.0.0.1:7600", host);

  step("the first minute's script is told what is published");
  const minute = node(save("console.mjs", here(script('socket.onopen = () => send({ op: "subscribe", topic: "room/#"'))));
  await minute.says(/op: 'ok'/);
  pub(url, "room/42", '{"text":"hi"}');
  await minute.says(/text: 'hi'/);
  await stop(minute, "SIGKILL");

  step("page and backend get and publish");
  const page = node(save("page.mjs", `globalThis.location = { origin: "http://${host}" };\n${script("location.origin")}`));
  const backend = node(save("backend.mjs", here(script("jobs/done"))));
  await page.says(/fetch the state of (room\/42|news\/#)\n[^]*fetch the state of/);
  await backend.says(/look up the state of jobs\/done/);
  pub(url, "jobs/done", '{"job":7}');
  await backend.says(/published as 2/);
  await page.says(/room\/42 2 { text: 'job 7 is done' }/);

  step("both come back after a restart");
  await stop(running);
  running = await broker(host);
  await page.says(/fetch the state of[^]*fetch the state of/);
  await backend.says(/look up the state of/);
  pub(url, "jobs/done", '{"job":8}');
  await page.says(/room\/42 1 { text: 'job 8 is done' }/);
  await stop(page, "SIGKILL");
  await stop(backend, "SIGKILL");

  const { connect } = await import(client);
  // A pause is a random part of something: none of it, so that whoever comes back does so at once.
  Math.random = () => 0;
  const seen = { messages: [], refreshed: [], failed: [] };
  let sockets = 0;
  globalThis.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets += 1;
    }
  };
  const fanfare = connect(url, ["slow/#"], {
    message: (event) => seen.messages.push(event),
    refresh: (topic) => seen.refreshed.push(topic),
    failed: (why) => seen.failed.push(why),
  });

  step("a publish is answered, and a wrong one refused");
  await until("the subscription is there", () => seen.refreshed.length === 1);
  assert.equal(await fanfare.publish("slow/1", "first"), 1);
  await until("its message is there", () => seen.messages.length === 1);
  await assert.rejects(fanfare.publish("slow/+", 1), /wildcards/);

  step("a client that was too slow is told the gap");
  // While another process publishes, this one reads nothing.
  const long = `${"x".repeat(60_000)}\n`.repeat(600);
  const done = spawnSync(FANFARE, ["pub", "--url", url, "--text", "slow/1"], { input: long, timeout: WAIT_MS });
  assert.equal(done.status, 0, `fanfare pub: ${done.stderr}`);
  await until("the gap is told", () => seen.refreshed.at(-1) === "slow/1");

  step("a broker that hangs is given up, and found again");
  const before = seen.refreshed.length;
  running.child.kill("SIGSTOP");
  await until("the broker stands still", () => isStopped(running.child.pid));
  await assert.rejects(fanfare.publish("slow/1", "lost"), /the connection broke/);
  running.child.kill("SIGCONT");
  await until("it subscribes again", () => seen.refreshed.length > before);
  assert.equal(seen.failed.length, 0);

  step("what cannot help is not tried again");
  const tried = sockets;
  await assert.rejects(fanfare.publish("slow/1", "x".repeat(70_000)), /the connection broke/);
  assert.equal(seen.failed.length, 1);
  assert.equal(seen.failed[0].code, 1009);
  await pause(200);
  assert.equal(sockets, tried);

  await stop(running);
  step("all is as README says");
}

const late = setTimeout(() => finish(new Error(`not done after ${RUN_MS} ms`)), RUN_MS);

function finish(error) {
  clearTimeout(late);
  for (const child of processes) child.kill("SIGKILL");
  rmSync(work, { recursive: true, force: true });
  if (error) console.error(`readme: ${error.stack}`);
  process.exit(error ? 1 : 0);
}

main().then(() => finish(), finish);
