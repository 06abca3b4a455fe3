// Opens WebSockets from pages in Chromium, and holds what their scripts see, and what the broker counts, to what is written here.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import https from "node:https";
import path from "node:path";
import process from "node:process";
import { chromium } from "playwright-core";
import {
  Broker, PROXIES, WAIT_MS, accepts, block, clean_up, free_ports, make_certificate, save, serve_pages, signed,
  static_token, stop, trust, until, which,
} from "./world.mjs";

const RUN_MS = 180_000;
const BINARY = path.resolve(process.argv[2], "fanfare");
const PROTOCOLS = ["fanfare.json.v1", "fanfare.bin.v1"];
const COOKIE = "__Host-fanfare";
const ROLES = '[roles]\nchat = { publish = ["room/#"], subscribe = ["room/#"] }\n';
// All that a page is told of an upgrade that is refused, whatever the status.
const REFUSED = [{ error: true }, { close: 1006, reason: "", wasClean: false }];

const failures = [];

/** Every check is run; what failed is named at the end. */
async function check(what, run) {
  try {
    await run();
    console.log(`browsers: ok    ${what}`);
  } catch (error) {
    failures.push(what);
    console.log(`browsers: FAIL  ${what}: ${error.message.split("Browser logs:")[0]}`);
  }
}

/** Of each event what is expected of it: later versions may say more. */
function assert_events(events, expected) {
  const told = events.map((event, index) => {
    const keys = Object.keys(expected[index] ?? event);
    return Object.fromEntries(keys.map((key) => [key, event[key]]));
  });
  assert.deepEqual(told, expected, `these came: ${JSON.stringify(events)}`);
}

// What a page's script does

/** Opens a WebSocket and tells the first events: up to the hello, or to the end. */
function dial(frame, url, protocol) {
  return frame.evaluate(async ([url, protocol]) => {
    const socket = dial(url, protocol);
    const is_last = ({ op, close }) => op === "hello" || close;
    while (!is_last(await socket.take(1)));
    socket.close();
    return socket.told;
  }, [url, protocol]);
}

/** A page at this address, with what its console says. */
async function open(context, url) {
  const opened = await context.newPage();
  opened.said = [];
  opened.on("console", (message) => opened.said.push(message.text()));
  await opened.goto(url);
  return opened;
}

/** A frame in the page that has no origin. */
async function sandbox(opened) {
  await opened.evaluate(async () => {
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.srcdoc = "<!doctype html><title>a frame</title>";
    const loaded = new Promise((resolve) => (frame.onload = resolve));
    document.body.append(frame);
    await loaded;
  });
  return opened.frames().at(-1);
}

/** The upgrade is refused with this status: the page learns nothing, its console does, and the broker counts it. */
async function assert_refused(opened, frame, url, broker, status, reason) {
  const before = await broker.total("fanfare_closes_total", reason);
  const upgrades = await broker.total("fanfare_upgrades_total", "0");
  opened.said.length = 0;
  assert.deepEqual(await dial(frame, url), REFUSED);
  const said = opened.said.filter((text) => text.includes(`Unexpected response code: ${status}`));
  assert.equal(said.length, 1, `the console says ${status}: ${opened.said}`);
  assert.equal(await broker.total("fanfare_closes_total", reason), before + 1, reason);
  assert.equal(await broker.total("fanfare_upgrades_total", "0"), upgrades);
}

// The cases

/** Pages of other sites, with the cookies that a visitor has for the broker's. */
async function sites(context, world) {
  const alice = static_token(BINARY, "alice", "chat");
  const tokens = save("sites.tokens", alice.entry);
  const config = (origin) => `[listen]\nhosts = ["push.example"]\norigins = ["${origin}"]
[auth]\ntokens_file = "${tokens}"\ncookie = "${COOKIE}"\n${ROLES}`;
  const broker = await Broker.start(BINARY, "sites", config("https://friend.example"));
  const site = await serve_pages({ secure: world.secure, to: broker.port, port: world.site_port });
  const push = "wss://push.example/ws";
  const hello = [{ open: "" }, { op: "hello", user: "alice", auth: undefined }];
  const stranger = [{ open: "" }, { op: "hello", user: undefined, auth: "required" }];
  const log_in = async (same_site) => {
    const cookie = `${COOKIE}=${alice.token}; Path=/; Secure; HttpOnly; SameSite=${same_site}`;
    await open(context, `https://push.example/?cookie=${encodeURIComponent(cookie)}`);
  };
  /** What the browser sent with the newest upgrade. */
  const sent = () => {
    const { headers, status } = site.asked.findLast(({ target }) => target === "/ws");
    return { host: headers.host, origin: headers.origin, has_cookie: headers.cookie === `${COOKIE}=${alice.token}`, status };
  };

  await log_in("None");
  await check("a page of the broker's own site is let in by its cookie, as that user", async () => {
    const own = await open(context, "https://push.example/");
    assert_events(await dial(own, push), hello);
    assert.deepEqual(sent(), { host: "push.example", origin: "https://push.example", has_cookie: true, status: 101 });
  });
  await check("a page of another site is refused, though the browser sends the cookie, and nothing comes to it", async () => {
    const own = await open(context, "https://push.example/");
    const evil = await open(context, "https://evil.example/");
    const messages = await own.evaluateHandle(async (push) => {
      const socket = dial(push);
      await socket.take(2);
      await socket.ask({ op: "subscribe", topic: "room/#", id: 1 });
      return socket;
    }, push);
    await assert_refused(evil, evil, push, broker, 403, "origin_refused");
    assert.deepEqual(sent(), { host: "push.example", origin: "https://evil.example", has_cookie: true, status: 403 });
    const deliveries = await broker.total("fanfare_deliveries_total", "0");
    const message = await messages.evaluate((socket) => socket.ask({ op: "publish", topic: "room/1", data: "secret" }));
    assert_events([message], [{ op: "message", topic: "room/1", data: "secret" }]);
    assert.equal(await broker.total("fanfare_deliveries_total", "0"), deliveries + 1);
  });
  await check("a listed page of another site is let in by the cookie", async () => {
    const friend = await open(context, "https://friend.example/");
    assert_events(await dial(friend, push), hello);
    assert.deepEqual(sent(), { host: "push.example", origin: "https://friend.example", has_cookie: true, status: 101 });
  });
  await check("a frame without an origin in a listed page is refused, though the browser sends the cookie", async () => {
    const friend = await open(context, "https://friend.example/");
    await assert_refused(friend, await sandbox(friend), push, broker, 403, "origin_refused");
    assert.deepEqual(sent(), { host: "push.example", origin: "null", has_cookie: true, status: 403 });
  });

  await check("a page of http at the broker's name is its own, and SameSite=Lax keeps the cookie from it", async () => {
    for (const [same_site, events, has_cookie] of [["None", hello, true], ["Lax", stranger, false]]) {
      await log_in(same_site);
      const plain = await open(context, "http://push.example/");
      assert_events(await dial(plain, push), events);
      assert.deepEqual(sent(), { host: "push.example", origin: "http://push.example", has_cookie, status: 101 });
    }
  });
  await log_in("None");
  for (const listed of ["null", "*"]) {
    await broker.reload(config(listed));
    await check(`a frame without an origin in a page of another site is nobody where "${listed}" is listed, cookie or not`, async () => {
      const evil = await open(context, "https://evil.example/");
      assert_events(await dial(await sandbox(evil), push), stranger);
      assert.deepEqual(sent(), { host: "push.example", origin: "null", has_cookie: true, status: 101 });
    });
  }
  await check('a page of another site is nobody where "*" is listed, cookie or not', async () => {
    const evil = await open(context, "https://evil.example/");
    assert_events(await dial(evil, push), stranger);
    assert.deepEqual(sent(), { host: "push.example", origin: "https://evil.example", has_cookie: true, status: 101 });
  });
  await broker.reload(config("https://friend.example"));

  await log_in("Strict");
  await check("a page of a neighbouring name is refused: to it the browser sends even a cookie of SameSite=Strict", async () => {
    const neighbour = await open(context, "https://neighbour.push.example/");
    await assert_refused(neighbour, neighbour, push, broker, 403, "origin_refused");
    const expected = { host: "push.example", origin: "https://neighbour.push.example", has_cookie: true, status: 403 };
    assert.deepEqual(sent(), expected);
  });
  await check("a listed page of another site is nobody without the cookie, which SameSite keeps from it", async () => {
    await log_in("Lax");
    const friend = await open(context, "https://friend.example/");
    assert_events(await dial(friend, push), stranger);
    assert.deepEqual(sent(), { host: "push.example", origin: "https://friend.example", has_cookie: false, status: 101 });
  });
  await stop(broker.child);
}

/** Names that were pointed to a broker with its defaults, which is on its reader's own machine. */
async function rebinding(context, world) {
  const [port, admin] = await free_ports(2);
  // Whose name it is serves the page first. Then the name points to the broker: the same host and port, another server.
  const before = [await serve_pages({ port }), await serve_pages({ port: admin })];
  const rebound = await open(context, `http://evil.example:${port}/`);
  const rebound_admin = await open(context, `http://evil.example:${admin}/`);
  for (const server of before) await server.end();
  const broker = await Broker.start(BINARY, "rebinding", "", { port, admin });
  const read = (frame, target) =>
    frame.evaluate(async (target) => {
      const answer = await fetch(target);
      return [answer.status, await answer.text()];
    }, target);

  await check("a page is let in by this machine's own names", async () => {
    const own = await open(context, `http://localhost:${world.pages.port}/`);
    for (const host of ["127.0.0.1", "localhost", "app.localhost"]) {
      assert_events(await dial(own, `ws://${host}:${port}/ws`), [{ open: "" }, { op: "hello" }]);
    }
  });
  await check("a name that was pointed to this machine opens nothing", async () => {
    const evil = await open(context, `http://evil.example:${world.pages.port}/`);
    await assert_refused(evil, evil, `ws://evil.example:${port}/ws`, broker, 421, "host_refused");
  });
  await check("nor does it with a page whose origin is the host that it asks for", async () => {
    assert.equal(await rebound.evaluate(() => origin), `http://evil.example:${port}`);
    await assert_refused(rebound, rebound, `ws://evil.example:${port}/ws`, broker, 421, "host_refused");
  });
  await check("nor does its page by a name of this machine", async () => {
    for (const host of ["127.0.0.1", "localhost"]) {
      await assert_refused(rebound, rebound, `ws://${host}:${port}/ws`, broker, 403, "origin_refused");
    }
  });
  await check("a name that was pointed to the admin listener reads whether it is there, and nothing else", async () => {
    assert.deepEqual(await read(rebound_admin, "/healthz"), [200, "ok\n"]);
    for (const target of ["/metrics", "/readyz"]) {
      assert.deepEqual(await read(rebound_admin, target), [421, "the Host header is none of the names in admin.hosts\n"]);
    }
  });
  await check("a page that posts commands as a form would has none carried out", async () => {
    const commands = await broker.total("fanfare_commands_total", "0");
    const answered = await broker.total("fanfare_closes_total", "http_answered");
    await rebound.evaluate(async (port) => {
      const body = '{"op":"publish","topic":"room/1","data":1}';
      await fetch(`http://127.0.0.1:${port}/ws`, { method: "POST", mode: "no-cors", body }).catch(() => {});
    }, port);
    assert.equal(await broker.total("fanfare_closes_total", "http_answered"), answered + 1);
    assert.equal(await broker.total("fanfare_commands_total", "0"), commands);
  });
  await stop(broker.child);
}

/** Pages that have no origin. */
async function without_origin(context, world) {
  const [by_default, listed] = await Promise.all([
    Broker.start(BINARY, "null-refused", ""),
    Broker.start(BINARY, "null-listed", '[listen]\norigins = ["null"]\n'),
  ]);
  const file = `file://${save("page.html", "<!doctype html><title>a file</title>")}`;
  const frames = {
    "a page of a file": async () => {
      const opened = await open(context, file);
      return [opened, opened];
    },
    "a frame in a sandbox": async () => {
      const opened = await open(context, `http://localhost:${world.pages.port}/`);
      return [opened, await sandbox(opened)];
    },
  };
  for (const [name, make] of Object.entries(frames)) {
    const [opened, frame] = await make();
    await check(`${name} has the origin null and is refused`, async () => {
      assert.equal(await frame.evaluate(() => origin), "null");
      await assert_refused(opened, frame, `ws://127.0.0.1:${by_default.port}/ws`, by_default, 403, "origin_refused");
    });
    await check(`${name} is let in where "null" is listed`, async () => {
      assert_events(await dial(frame, `ws://127.0.0.1:${listed.port}/ws`), [{ open: "" }, { op: "hello" }]);
    });
  }
  await check('a page of another site is refused where "null" is listed', async () => {
    const evil = await open(context, `http://evil.example:${world.pages.port}/`);
    await assert_refused(evil, evil, `ws://127.0.0.1:${listed.port}/ws`, listed, 403, "origin_refused");
  });
  await stop(by_default.child);
  await stop(listed.child);
}

/** Pages that say who they are by their first command. */
async function by_command(context, world) {
  const broker = await Broker.start(BINARY, "command", trust("deadline_ms = 3000\nfailure_delay_ms = 100") + ROLES);
  const url = `ws://127.0.0.1:${broker.port}/ws`;
  const ended = (reason) => ({ close: 4001, reason, wasClean: true });
  const pages_of = (protocol) => ({
    [`${protocol}: a token that is renewed in time goes on, and ends with 4001`]: async (opened) => {
      const now_s = Math.floor(Date.now() / 1000);
      const [first_s, second_s] = [now_s + 8, now_s + 12];
      const tokens = [first_s, second_s].map((expires_s) => signed("alice", expires_s, { fanfare: { roles: ["chat"] } }));
      const events = await opened.evaluate(async ({ url, protocol, tokens: [first, second], first_s }) => {
        const socket = dial(url, protocol);
        await socket.take(2);
        await socket.ask({ op: "subscribe", topic: `room/${protocol}/#`, id: 1 });
        await socket.ask({ op: "auth", token: first, id: 2 });
        await socket.ask({ op: "subscribe", topic: `room/${protocol}/#`, id: 3 });
        await socket.ask({ op: "publish", topic: `room/${protocol}/1`, data: { text: "hi" } });
        await socket.ask({ op: "publish", topic: "other", data: 1, id: 4 });
        await socket.ask({ op: "subscribe", topic: "#", id: 5 });
        await socket.take(1);
        await socket.ask({ op: "auth", token: second, id: 6 });
        await socket.ask({ op: "auth", token: second, id: 7 });
        await new Promise((resolve) => setTimeout(resolve, first_s * 1000 + 300 - Date.now()));
        await socket.ask({ op: "publish", topic: `room/${protocol}/2`, data: "the first has ended" });
        await socket.take(2);
        return socket.told;
      }, { url, protocol, tokens, first_s });
      assert_events(events, [
        { open: protocol },
        { op: "hello", auth: "required", user: undefined },
        { op: "error", for: "subscribe", code: "unauthorized", id: 1 },
        { op: "ok", id: 2, user: "alice" },
        { op: "ok", id: 3, topic: `room/${protocol}/#` },
        { op: "message", topic: `room/${protocol}/1`, data: { text: "hi" } },
        { op: "error", for: "publish", code: "forbidden", topic: "other", id: 4 },
        { op: "error", for: "subscribe", code: "forbidden", topic: "#", id: 5 },
        { op: "expiring" },
        { op: "ok", id: 6, user: "alice" },
        { op: "error", for: "auth", code: "rate_limited", id: 7 },
        { op: "message", topic: `room/${protocol}/2`, data: "the first has ended" },
        { op: "expiring" },
        ended("token expired"),
      ]);
    },
    [`${protocol}: one that is not renewed with a good token ends with 4001`]: async (opened) => {
      const token = signed("alice", Math.floor(Date.now() / 1000) + 5, { fanfare: { roles: ["chat"] } });
      const events = await opened.evaluate(async ({ url, protocol, token }) => {
        const socket = dial(url, protocol);
        await socket.take(2);
        await socket.ask({ op: "auth", token, id: 1 }, 2);
        await socket.ask({ op: "auth", token: `${token}A`, id: 2 }, 2);
        return socket.told;
      }, { url, protocol, token });
      assert_events(events, [
        { open: protocol }, { op: "hello", auth: "required" }, { op: "ok", id: 1, user: "alice" }, { op: "expiring" },
        { op: "error", for: "auth", code: "unauthorized", id: 2 }, ended("token expired"),
      ]);
    },
    [`${protocol}: a bad token ends with 4001 and no reason but that`]: async (opened) => {
      const now_s = Math.floor(Date.now() / 1000);
      const good = signed("alice", now_s + 60);
      for (const bad of [signed("alice", now_s - 1), `${good}A`, signed("alice", now_s + 60, { iss: "x" })]) {
        const events = await opened.evaluate(async ({ url, protocol, bad }) => {
          const socket = dial(url, protocol);
          await socket.take(2);
          await socket.ask({ op: "auth", token: bad, id: 1 });
          return socket.told;
        }, { url, protocol, bad });
        assert_events(events, [{ open: protocol }, { op: "hello", auth: "required" }, ended("unauthorized")]);
      }
    },
    [`${protocol}: a page that says nothing is closed with 4001`]: async (opened) => {
      const events = await opened.evaluate(async ({ url, protocol }) => {
        const socket = dial(url, protocol);
        await socket.take(3);
        return socket.told;
      }, { url, protocol });
      assert_events(events, [{ open: protocol }, { op: "hello", auth: "required" }, ended("no token came in time")]);
    },
  });
  const cases = PROTOCOLS.flatMap((protocol) => Object.entries(pages_of(protocol)));
  await Promise.all(cases.map(async ([what, run]) => {
    const opened = await open(context, `http://localhost:${world.pages.port}/`);
    await check(what, () => run(opened));
  }));
  await stop(broker.child);
}

/** Pages and tokens behind the blocks of docs/PROXY.md. */
async function behind_proxies(context, world) {
  const alice = static_token(BINARY, "alice", "chat");
  const tokens = save("proxies.tokens", alice.entry);
  const auth = `[auth]\ntokens_file = "${tokens}"\ncookie = "${COOKIE}"\nfailure_delay_ms = 100\n${ROLES}`;
  const broker = await Broker.start(BINARY, "proxies", block("toml") + auth);
  // What stands between proxy and broker sees what the broker does.
  const between = await serve_pages({ to: broker.port });
  const upgrades = () => between.asked.filter(({ target }) => target.startsWith("/ws"));
  const app = "wss://app.example.com/ws";
  const ended = { close: 4001, reason: "unauthorized", wasClean: true };

  for (const [name, start] of Object.entries(PROXIES)) {
    if (!is_present(name)) continue;
    const proxy = start(world.proxy_port, between.port);
    const upgrades_now = async () => (await accepts(world.proxy_port)) && (await upgrade(world.proxy_port, {})).status === 101;
    await until(`${name} upgrades`, upgrades_now);
    // Neither block serves a page here. What says so is one too.
    const visit = async (token) => {
      await context.clearCookies({ domain: "app.example.com" });
      const url = "https://app.example.com/";
      const cookie = { name: COOKIE, value: token, url, secure: true, httpOnly: true, sameSite: "None" };
      if (token) await context.addCookies([cookie]);
      return open(context, url);
    };

    await check(`${name}: a page is let in by its cookie, and the broker sees its Host, Origin and cookie`, async () => {
      const own = await visit(alice.token);
      assert_events(await dial(own, app), [{ open: "" }, { op: "hello", user: "alice" }]);
      const { headers: { host, origin, cookie }, status } = upgrades().at(-1);
      const expected = ["app.example.com", "https://app.example.com", `${COOKIE}=${alice.token}`, 101];
      assert.deepEqual([host, origin, cookie, status], expected);
    });
    await check(`${name}: a page is let in by its first command`, async () => {
      for (const protocol of PROTOCOLS) {
        const own = await visit();
        const events = await own.evaluate(async ({ app, protocol, token }) => {
          const socket = dial(app, protocol);
          await socket.take(2);
          await socket.ask({ op: "auth", token, id: 1 });
          return socket.told;
        }, { app, protocol, token: alice.token });
        assert_events(events, [{ open: protocol }, { op: "hello", auth: "required" }, { op: "ok", id: 1, user: "alice" }]);
      }
    });
    await check(`${name}: the 4001 of a bad token arrives, whether it came in a cookie or by command`, async () => {
      const mistaken = await visit("ff_x");
      assert_events(await dial(mistaken, app), [{ open: "" }, ended]);
      const own = await visit();
      const last = await own.evaluate(async (app) => {
        const socket = dial(app);
        await socket.take(2);
        return socket.ask({ op: "auth", token: "ff_x" });
      }, app);
      assert_events([last], [ended]);
    });
    await check(`${name}: Authorization and access_token of a client that is no page arrive`, async () => {
      const authorization = `Bearer ${alice.token}`;
      const { hello } = await upgrade(world.proxy_port, { Authorization: authorization });
      assert.equal(hello.user, "alice");
      assert.equal(upgrades().at(-1).headers.authorization, authorization);
      assert.equal((await upgrade(world.proxy_port, {}, `/ws?access_token=${alice.token}`)).hello.user, "alice");
    });
    await check(`${name}: pages of other sites, of http and of no origin are refused before the broker`, async () => {
      const before = upgrades().length;
      const evil = await open(context, "http://evil.example/");
      const plain = await open(context, "http://app.example.com/");
      assert.equal(await plain.evaluate(() => origin), "http://app.example.com");
      const own = await visit(alice.token);
      for (const [opened, frame] of [[evil, evil], [plain, plain], [own, await sandbox(own)]]) {
        assert.deepEqual(await dial(frame, app), REFUSED);
        assert.ok(opened.said.some((text) => text.includes("Unexpected response code: 403")), `${opened.said}`);
      }
      assert.equal(upgrades().length, before);
    });
    await check(`${name}: 421 where listen.hosts has another name`, async () => {
      await broker.reload(`[listen]\nhosts = ["other.example.com"]\n${auth}`);
      const own = await visit(alice.token);
      await assert_refused(own, own, app, broker, 421, "host_refused");
    });
    await broker.reload(block("toml") + auth);
    await stop(proxy);
  }
  await stop(broker.child);
}

/** An upgrade by what is no browser, through a proxy: its status, and the hello if there is one. */
function upgrade(port, headers, target = "/ws") {
  return new Promise((resolve, reject) => {
    const asked = https.request({
      host: "127.0.0.1", port, path: target, servername: "app.example.com", rejectUnauthorized: false, timeout: WAIT_MS,
      headers: {
        Host: "app.example.com", Origin: "https://app.example.com", Connection: "Upgrade", Upgrade: "websocket",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", ...headers,
      },
    });
    asked.on("upgrade", (response, socket, head) => {
      let frame = head;
      const more = (bytes) => {
        frame = Buffer.concat([frame, bytes]);
        // One frame of more than 125 bytes.
        if (frame.length < 4 || frame.length < 4 + frame.readUInt16BE(2)) return;
        socket.destroy();
        resolve({ status: response.statusCode, hello: JSON.parse(frame.subarray(4, 4 + frame.readUInt16BE(2))) });
      };
      socket.on("error", reject).on("data", more);
      more(Buffer.alloc(0));
    });
    asked.on("response", (response) => resolve({ status: response.resume().statusCode }));
    asked.on("timeout", () => asked.destroy(new Error("the upgrade is not answered"))).on("error", reject).end();
  });
}

/** Whether it is there. Where it has to be, it is a failure that it is not. */
function is_present(command) {
  if (which(command)) return true;
  if (process.env.CI) failures.push(`${command} is not installed`);
  else console.log(`browsers: ${command} is skipped, it is not installed (Debian: apt-get install ${command})`);
  return false;
}

let context;

async function main() {
  if (!is_present("chromium")) return;
  const { secure, pin, folder } = make_certificate(["*.example", "*.push.example", "app.example.com"]);
  const [site_port, proxy_port, plain_port] = await free_ports(3);
  // Pages may have cookies of other sites, as they may in a browser that was told nothing else.
  mkdirSync(path.join(folder, "profile/Default"), { recursive: true });
  save("profile/Default/Preferences", JSON.stringify({ profile: { cookie_controls_mode: 0 } }));
  // All that the browser writes goes with the folder. A context without a profile would keep cookies from pages of other sites.
  process.env.TMPDIR = folder;
  context = await chromium.launchPersistentContext(path.join(folder, "profile"), {
    executablePath: which("chromium"),
    timeout: WAIT_MS * 2,
    env: { ...process.env, HOME: folder },
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", `--ignore-certificate-errors-spki-list=${pin}`,
      // No name is asked of anybody: each is this machine.
      `--host-resolver-rules=MAP app.example.com:443 127.0.0.1:${proxy_port}, MAP *:443 127.0.0.1:${site_port}, ` +
        `MAP *:80 127.0.0.1:${plain_port}, MAP * 127.0.0.1`,
    ],
  });
  const pages = await serve_pages({ port: plain_port });
  await context.addInitScript({ path: path.join(import.meta.dirname, "page.js") });
  const world = { secure, site_port, proxy_port, pages };
  await Promise.all([sites, rebinding, without_origin, by_command, behind_proxies].map((group) => group(context, world)));
}

const late = setTimeout(() => finish(new Error(`not done after ${RUN_MS} ms`)), RUN_MS);

async function finish(error) {
  clearTimeout(late);
  await Promise.race([context?.close(), new Promise((resolve) => setTimeout(resolve, WAIT_MS))]).catch(() => {});
  clean_up();
  if (error) console.error(`browsers: ${error.stack}`);
  if (failures.length > 0) console.error(`browsers: failed: ${failures.join("; ")}`);
  process.exit(error || failures.length > 0 ? 1 : 0);
}

main().then(() => finish(), finish);
