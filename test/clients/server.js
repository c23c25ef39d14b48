// server.js - a pumice server for a test file: the model that comes along, on a free port, ended with the file.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const binary = process.env.PUMICE ?? root + "build/pumice";

// Starts `pumice serve models/default FLAGS`; the promise is kept when the server says that it is ready.
// The process must end with status 0 on SIGTERM, or the file fails.
export async function serve(...flags) {
  if (!existsSync(binary)) throw new Error(binary + ": build it first, or name it in PUMICE");
  const child = spawn(binary, ["serve", root + "models/default", "--host", "127.0.0.1", "--port", "0", ...flags], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stderr.on("data", (d) => { said += d; });
  const ready = new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", resolve);
    child.once("exit", (code) => reject(new Error("serve ended with status " + code + ": " + said)));
  });
  const url = (await ready).match(/http:\/\/[\d.]+:\d+/)[0];
  after(async () => {
    child.kill("SIGTERM");
    const [code] = child.exitCode === null ? await once(child, "exit") : [child.exitCode];
    if (code !== 0) throw new Error("serve ended with status " + code + ": " + said);
  });
  return { url, v1: url + "/v1", said: () => said };
}

// A metric's value by its name with labels, from GET /metrics.
export async function metric(url, name) {
  const text = await (await fetch(url + "/metrics")).text();
  const line = text.split("\n").find((l) => l.startsWith(name + " "));
  if (!line) throw new Error("no metric " + name);
  return Number(line.slice(name.length + 1));
}
