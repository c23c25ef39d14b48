// panel.js - the figures of one answer, measured here as tokens arrive or told by the server.
import { metrics } from "./api.js";

const $ = (id) => document.getElementById(id);

export function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < 4; i++) n /= 1024;
  return (i && n < 10 ? n.toFixed(1) : Math.round(n)) + " " + units[i];
}

function seconds(ms) {
  if (!Number.isFinite(ms)) return "–";
  return ms < 1000 ? Math.round(ms) + " ms" : (ms / 1000).toFixed(ms < 10000 ? 2 : 1) + " s";
}

// Clock of one answer. begin: when the request was sent; gaps: milliseconds between chunks of text.
export class Clock {
  constructor() {
    this.begin = performance.now();
    this.first = this.last = NaN;
    this.gaps = [];
    this.usage = this.timings = null;
  }

  text() {
    const now = performance.now();
    if (Number.isNaN(this.first)) this.first = now;
    else this.gaps.push(now - this.last);
    this.last = now;
  }

  stats() {
    const u = this.usage, n = u?.completion_tokens ?? this.gaps.length + 1;
    const t = this.timings;
    return {
      perSecond: t?.predicted_per_second ?? (this.gaps.length ? 1000 * (n - 1) / (this.last - this.first) : NaN),
      ttft: this.first - this.begin,
      gap: this.gaps.length ? Math.max(...this.gaps) : NaN,
      promptTokens: u?.prompt_tokens ?? NaN,
      outTokens: n,
      cached: u?.prompt_tokens_details?.cached_tokens ?? NaN,
      promptMs: t?.prompt_ms ?? NaN,
      promptRun: t?.prompt_n ?? NaN,
    };
  }
}

export function showStats(s) {
  $("speed").textContent = Number.isFinite(s?.perSecond) ? s.perSecond.toFixed(s.perSecond < 10 ? 2 : 1) + " tokens/s" : "–";
  $("ttft").textContent = seconds(s?.ttft);
  $("gap").textContent = seconds(s?.gap);
  $("tokens").textContent = s && Number.isFinite(s.promptTokens) ? s.promptTokens + " / " + s.outTokens : "–";
  $("cached").textContent = s && Number.isFinite(s.cached) ? s.cached + (s.promptTokens ? " (" + Math.round(100 * s.cached / s.promptTokens) + " %)" : "") : "–";
}

export function showTrace(gaps) {
  const c = $("trace"), g = c.getContext("2d");
  g.clearRect(0, 0, c.width, c.height);
  if (!gaps.length) return;
  const style = getComputedStyle(document.documentElement);
  const some = gaps.slice(-140), top = Math.max(...some) * 1.1, w = c.width / 140;
  g.fillStyle = style.getPropertyValue("--accent");
  some.forEach((v, i) => g.fillRect(i * w, c.height - v / top * c.height, Math.max(w - 1, 1), v / top * c.height));
}

function methodLine(name, on, what) {
  const li = document.createElement("li"), b = document.createElement("b"), small = document.createElement("small");
  li.className = on ? "on" : "off";
  b.textContent = name + (on ? "" : ": off");
  small.textContent = what;
  li.append(b, small);
  return li;
}

// What each method did for this answer. props.methods: [{ name, title, on, ... }] as GET /props has them.
export function showMethods(props, s, m) {
  const out = [];
  for (const method of props?.methods ?? []) {
    let what = method.note ?? "";
    if (method.name === "vattention" && m) {
      const held = m['pumice_kv_bytes{state="held"}'], fixed = m['pumice_kv_bytes{state="static"}'];
      if (method.on && held < fixed) what = bytes(fixed - held) + " not held now: " + Math.round(100 - 100 * held / fixed) + " % of a static allocation";
    } else if (method.name === "prefix" && s && Number.isFinite(s.cached)) {
      what = s.cached ? s.cached + " prompt tokens not computed again" : "nothing of this prompt was known";
      if (s.cached && s.promptMs > 0 && s.promptRun > 0) what += ", about " + seconds(s.cached * s.promptMs / s.promptRun) + " at this prompt's speed";
    } else if (method.name === "sarathi" && s && Number.isFinite(s.gap)) {
      what = (method.note ? method.note + "; " : "") + "longest wait of this answer " + seconds(s.gap);
    }
    out.push(methodLine(method.title ?? method.name, method.on, what));
  }
  $("methods").replaceChildren(...out);
}

export async function refresh(props, s) {
  let m = null;
  try {
    m = await metrics();
  } catch { /* figures are an extra: a server without /metrics still chats */ }
  const held = m?.['pumice_kv_bytes{state="held"}'], fixed = m?.['pumice_kv_bytes{state="static"}'];
  $("held").textContent = bytes(held);
  $("static").textContent = bytes(fixed);
  $("kv").firstElementChild.style.width = held && fixed ? Math.min(100, 100 * held / fixed) + "%" : "0";
  showMethods(props, s, m);
}
