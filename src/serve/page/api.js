// api.js - what the page asks of the server: the model, its figures, and a streamed answer.

let key = sessionStorage.getItem("pumice.key") ?? "";

export function setKey(k) {
  key = k;
  sessionStorage.setItem("pumice.key", k);
}

export function getKey() {
  return key;
}

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = "Bearer " + key;
  let res;
  try {
    res = await fetch(path, { ...options, headers });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new ApiError("The server does not answer.", 0);
  }
  if (!res.ok) {
    let message = "HTTP " + res.status;
    try {
      message = (await res.json()).error.message;
    } catch { /* the status says what there is to say */ }
    throw new ApiError(message, res.status);
  }
  return res;
}

export async function props() {
  return (await call("props")).json();
}

export async function models() {
  return (await call("v1/models")).json();
}

// Prometheus text -> { 'name{label="x"}': value }
export async function metrics() {
  const out = {};
  for (const line of (await (await call("metrics")).text()).split("\n")) {
    const at = line.lastIndexOf(" ");
    if (at > 0 && line[0] !== "#") out[line.slice(0, at)] = Number(line.slice(at + 1));
  }
  return out;
}

// Events of a text/event-stream body, one parsed object each; comments are skipped.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const data = rest.slice(0, end).split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

// Streams an answer: yields { text, finish, usage, timings } as they come.
export async function* answer(request, signal) {
  const res = await call("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const e of events(res.body)) {
    if (e.error) throw new ApiError(e.error.message, 500);
    const choice = e.choices?.[0];
    yield { text: choice?.delta?.content ?? "", finish: choice?.finish_reason ?? null, usage: e.usage ?? null, timings: e.timings ?? null };
  }
}
