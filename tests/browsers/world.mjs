// What the pages meet: brokers, proxies, a server of pages, and certificates. All of it is on loopback.

import { spawn, spawnSync } from "node:child_process";
import { X509Certificate, createHash, createHmac } from "node:crypto";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import tls from "node:tls";

export const WAIT_MS = 20_000;
export const ISSUER = "https://login.example/";
const SECRET = "k".repeat(32);
const HEAD_END = "\r\n\r\n";
const work = mkdtempSync(path.join(tmpdir(), "fanfare-browsers-"));
const processes = new Set();
const servers = new Set();

export function save(name, text) {
  const file = path.join(work, name);
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

export async function until(what, look) {
  for (const end = Date.now() + WAIT_MS; Date.now() < end; await pause(20)) {
    const found = await look();
    if (found) return found;
  }
  throw new Error(`not within ${WAIT_MS} ms: ${what}`);
}

/** Everything that was begun, ended. */
export function clean_up() {
  for (const child of processes) child.kill("SIGKILL");
  for (const server of servers) server.close();
  rmSync(work, { recursive: true, force: true });
}

/** Where the command is, if it is anywhere. */
export function which(command) {
  return spawnSync("which", [command], { encoding: "utf8" }).stdout.trim();
}

function start(command, args) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  processes.add(child);
  child.on("error", () => {});
  child.on("exit", () => processes.delete(child));
  return child;
}

export async function stop(child) {
  if (!processes.has(child)) return;
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await gone;
}

// Brokers

/** One with this configuration, at these ports or any. */
export class Broker {
  static async start(binary, name, config, { port = 0, admin = 0 } = {}) {
    const broker = new Broker();
    broker.name = name;
    const file = broker.configure(config);
    const address = ["--listen", `127.0.0.1:${port}`, "--admin", `127.0.0.1:${admin}`];
    broker.child = start(binary, ["serve", "--config", file, "--log", "error", ...address]);
    let said = "";
    broker.child.stdout.on("data", (bytes) => (said += bytes));
    await until(`the broker ${name} is ready`, () => / {2}unmask /.test(said) || broker.child.exitCode !== null);
    [, broker.port] = /clients +ws:\/\/127\.0\.0\.1:(\d+)/.exec(said);
    [, broker.admin] = /admin +http:\/\/127\.0\.0\.1:(\d+)/.exec(said);
    return broker;
  }

  configure(config) {
    return save(`${this.name}.toml`, `${config}\n[reactor]\ncount = 1\npin = false\n`);
  }

  async reload(config) {
    const applied = () => this.total("fanfare_reloads_total", "applied");
    const before = await applied();
    this.configure(config);
    this.child.kill("SIGHUP");
    await until(`${this.name} reads its configuration again`, async () => (await applied()) > before);
  }

  /** The sum of a metric's samples that have this label's value. */
  async total(metric, value) {
    // Metrics are taken at most ten times a second.
    await pause(120);
    const answer = await fetch(`http://127.0.0.1:${this.admin}/metrics`, { signal: AbortSignal.timeout(WAIT_MS) });
    const samples = (await answer.text()).split("\n").filter((line) => line.startsWith(`${metric}{`));
    return samples.filter((line) => line.includes(`"${value}"`)).reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  }
}

/** A static token, and what the broker keeps of it. */
export function static_token(binary, user, role) {
  const made = spawnSync(binary, ["token", "new", "--user", user, "--role", role], { encoding: "utf8", timeout: WAIT_MS });
  return { token: made.stderr.trim().split(" ").at(-1), entry: made.stdout };
}

/** The lines that trust what `signed` makes. */
export function trust(more = "") {
  const key_file = save("secret", SECRET);
  return `[auth]\nissuers = [{ iss = "${ISSUER}", algorithms = ["HS256"], key_file = "${key_file}" }]\nleeway_s = 0\n${more}\n`;
}

/** A token of HS256, as RFC 7515 and RFC 7519 say. */
export function signed(user, expires_s, claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ iss: ISSUER, sub: user, exp: expires_s, ...claims })}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}

// Pages

/**
 * Serves an empty page at `/`, which sets the cookie that its query has, and passes everything else on to a broker, byte
 * for byte, as a proxy does that ends TLS and nothing else. `asked` keeps what was passed on, and how it was answered.
 */
export async function serve_pages({ secure, to, port = 0, address = "127.0.0.1" } = {}) {
  const asked = [], sockets = new Set();
  const server = secure ? tls.createServer(secure) : net.createServer();
  server.on(secure ? "secureConnection" : "connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {});
    let head = "";
    socket.on("data", function more(bytes) {
      head += bytes.toString("latin1");
      if (!head.includes(HEAD_END)) return;
      socket.off("data", more);
      const [, target] = head.split(" ");
      if (target === "/" || target.startsWith("/?")) socket.end(page(target));
      else if (to) pass_on(socket, head, to, asked);
      else socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
  });
  server.on("tlsClientError", () => {});
  await new Promise((resolve) => server.listen(port, address, resolve));
  servers.add(server);
  const end = async () => {
    servers.delete(server);
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  return { asked, port: server.address().port, end };
}

function page(target = "/") {
  const text = "<!doctype html><title>a page</title>";
  const cookie = new URL(target, "http://localhost").searchParams.get("cookie");
  const lines = ["HTTP/1.1 200 OK", "Content-Type: text/html", `Content-Length: ${text.length}`, "Connection: close"];
  if (cookie) lines.push(`Set-Cookie: ${cookie}`);
  return `${lines.join("\r\n")}${HEAD_END}${text}`;
}

function pass_on(socket, head, to, asked) {
  const [request, ...lines] = head.split(HEAD_END)[0].split("\r\n");
  const pairs = lines.map((line) => /^(.*?): (.*)$/.exec(line).slice(1));
  const headers = Object.fromEntries(pairs.map(([name, value]) => [name.toLowerCase(), value]));
  const entry = { target: request.split(" ")[1], headers, status: null };
  asked.push(entry);
  const broker = net.connect(to, "127.0.0.1");
  broker.on("error", () => socket.destroy());
  socket.on("close", () => broker.destroy());
  broker.once("data", (bytes) => (entry.status = Number(String(bytes).split(" ")[1])));
  broker.write(Buffer.from(head, "latin1"));
  socket.pipe(broker).pipe(socket);
}

/** One for these names, and what has the browser take it. */
export function make_certificate(names) {
  const [key_file, cert_file] = ["privkey.pem", "fullchain.pem"].map((name) => path.join(work, name));
  const names_of = `subjectAltName=${names.map((name) => `DNS:${name}`).join(",")}`;
  const made = spawnSync("openssl", [
    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
    "-subj", `/CN=${names[0]}`, "-addext", names_of, "-keyout", key_file, "-out", cert_file,
  ], { encoding: "utf8", timeout: WAIT_MS });
  if (made.status !== 0) throw new Error(`openssl makes no certificate: ${made.stderr}`);
  const [key, cert] = [readFileSync(key_file), readFileSync(cert_file)];
  save("both.pem", `${cert}${key}`);
  const public_key = new X509Certificate(cert).publicKey.export({ type: "spki", format: "der" });
  return { secure: { key, cert }, pin: createHash("sha256").update(public_key).digest("base64"), folder: work };
}

export async function free_ports(count) {
  const listening = await Promise.all(Array.from({ length: count }, async () => {
    const server = net.createServer();
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    return server;
  }));
  const ports = listening.map((server) => server.address().port);
  await Promise.all(listening.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

// Proxies, as docs/PROXY.md has them

/** The one block of the document in this language. */
export function block(language) {
  const document = readFileSync(new URL("../../docs/PROXY.md", import.meta.url), "utf8");
  const found = [...document.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\``, "gm"))];
  if (found.length !== 1) throw new Error(`docs/PROXY.md must have one block of ${language}, it has ${found.length}`);
  return found[0][1];
}

function replaced(text, ...pairs) {
  for (const [old, to] of pairs) {
    if (!text.includes(old)) throw new Error(`a block of docs/PROXY.md must have ${JSON.stringify(old)}`);
    text = text.replaceAll(old, to);
  }
  return text;
}

/** Each proxy with its block, between `port` and the broker's. Only ports, paths and what it must have without root differ. */
export const PROXIES = {
  nginx(port, broker) {
    const text = replaced(block("nginx"), ["/etc/ssl/app.example.com", work], ["127.0.0.1:7600", `127.0.0.1:${broker}`],
      ["listen 443", `listen 127.0.0.1:${port}`]);
    const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${work};`).join(" ");
    const config = save("nginx.conf", `daemon off; master_process off; pid ${work}/nginx.pid; error_log stderr crit;
      events { worker_connections 1024; }
      http { access_log off; ${paths}
      ${text} }`);
    return start("nginx", ["-c", config, "-e", "stderr"]);
  },
  haproxy(port, broker) {
    const text = replaced(block("haproxy"), ["/etc/ssl/app.example.com", work], ["127.0.0.1:7600", `127.0.0.1:${broker}`],
      ["bind :443", `bind 127.0.0.1:${port}`], ["inter 2s", "inter 200ms"]);
    return start("haproxy", ["-q", "-db", "-f", save("haproxy.cfg", `global\n    maxconn 1000\n${text}`)]);
  },
};

export const accepts = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.on("connect", () => resolve(true)).on("error", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  });
