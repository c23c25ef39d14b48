// app.js - the chat page: turns on screen, what a key does, one answer at a time.
import { answer, getKey, models, props as getProps, setKey } from "./api.js";
import { markdown } from "./markdown.js";
import { Clock, refresh, showStats, showTrace } from "./panel.js";
import { chats, keepChats, keepSettings, newChat, settings } from "./store.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "max_tokens"];

let props = null, model = null;
let chat = chats[0] ?? newChat();
let running = null; // { chat, turn, stop, clock } while an answer comes

// -- showing ------------------------------------------------------------------------------------

function say(text) {
  $("state").textContent = text;
}

function button(label, title, act) {
  const b = document.createElement("button");
  b.type = "button";
  b.textContent = label;
  b.title = title;
  b.addEventListener("click", act);
  return b;
}

function fillText(box, turn) {
  if (turn.role === "user") box.textContent = turn.text;
  else box.replaceChildren(...markdown(turn.text));
  if (turn.error) {
    const p = document.createElement("p");
    p.className = "error";
    p.textContent = turn.error;
    box.append(p);
  }
}

function turnNode(turn, i) {
  const node = document.createElement("article"), text = document.createElement("div"), acts = document.createElement("div");
  node.className = "turn " + turn.role;
  node.setAttribute("aria-label", turn.role === "user" ? "You" : "Answer");
  text.className = "text";
  acts.className = "acts";
  fillText(text, turn);
  acts.append(button("Copy", "Copy the text", () => navigator.clipboard.writeText(turn.text)));
  if (turn.role === "user") acts.append(button("Edit", "Change this message and ask again", () => edit(i)));
  else {
    acts.append(button("Again", "Another answer (Alt+R)", () => again(i)));
    if (turn.stats?.perSecond) {
      const s = document.createElement("span");
      s.textContent = turn.stats.outTokens + " tokens, " + turn.stats.perSecond.toFixed(1) + "/s" + (turn.finish === "length" ? ", cut at the limit" : "");
      acts.append(s);
    }
  }
  node.append(text, acts);
  return node;
}

function showChat() {
  const log = $("log");
  if (chat.turns.length) log.replaceChildren(...chat.turns.map(turnNode));
  else {
    const hello = document.createElement("div"), h = document.createElement("h1"), p = document.createElement("p");
    hello.id = "hello";
    h.textContent = model ?? "pumice";
    p.textContent = "Runs on this machine's processor. Conversations stay in this browser. Press ? for keys.";
    hello.append(h, p);
    log.replaceChildren(hello);
  }
  if (running?.chat === chat) log.lastElementChild.classList.add("busy");
  log.scrollTop = log.scrollHeight;
  const last = chat.turns.findLast((t) => t.stats);
  showStats(last?.stats);
  showTrace(running?.chat === chat ? running.clock.gaps : []);
  showList();
}

function showList() {
  $("list").replaceChildren(...chats.map((c) => {
    const li = document.createElement("li"), open = button(c.title, c.title, () => select(c)), drop = button("×", "Delete this conversation", () => remove(c));
    li.className = c === chat ? "on" : "";
    if (c === chat) open.setAttribute("aria-current", "true");
    drop.className = "drop";
    drop.setAttribute("aria-label", "Delete " + c.title);
    li.append(open, drop);
    return li;
  }));
}

function select(c) {
  chat = c;
  document.body.classList.remove("show-chats");
  showChat();
  $("input").focus();
}

function remove(c) {
  if (c.turns.length && !confirm("Delete “" + c.title + "”?")) return;
  if (running?.chat === c) running.stop.abort();
  chats.splice(chats.indexOf(c), 1);
  keepChats();
  select(c === chat ? chats[0] ?? newChat() : chat);
}

// -- asking -------------------------------------------------------------------------------------

function request(turns) {
  const messages = turns.filter((t) => t.text).map((t) => ({ role: t.role, content: t.text }));
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const out = { model, messages };
  for (const name of NUMBERS) if (Number.isFinite(settings[name])) out[name] = settings[name];
  return out;
}

// Paints at most once a frame, so that a fast model does not drown the page.
function painter(turn) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (running?.turn !== turn || running.chat !== chat) return;
      const log = $("log"), follow = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
      fillText(log.lastElementChild.querySelector(".text"), turn);
      if (follow) log.scrollTop = log.scrollHeight;
      showStats(running.clock.stats());
      showTrace(running.clock.gaps);
    });
  };
}

async function ask() {
  const here = chat, turn = { role: "assistant", text: "" }, stop = new AbortController(), clock = new Clock();
  const body = request(here.turns);
  here.turns.push(turn);
  running = { chat: here, turn, stop, clock };
  $("send").textContent = "Stop";
  say("reading the prompt …");
  showChat();
  const paint = painter(turn);
  try {
    for await (const part of answer(body, stop.signal)) {
      if (part.text) {
        clock.text();
        turn.text += part.text;
        say("");
        paint();
      }
      turn.finish = part.finish ?? turn.finish;
      clock.usage = part.usage ?? clock.usage;
      clock.timings = part.timings ?? clock.timings;
    }
  } catch (e) {
    if (e.name !== "AbortError") turn.error = e.message;
    if (e.status === 401) openSettings("key");
  }
  turn.stats = clock.stats();
  running = null;
  $("send").textContent = "Send";
  say("");
  if (!turn.text && !turn.error) here.turns.pop(); // stopped before the first token
  keepChats();
  if (here === chat) showChat();
  showTrace(clock.gaps);
  refresh(props, turn.stats);
}

function send() {
  const text = $("input").value.trim();
  if (!text || running) return;
  if (!chat.turns.length) chat.title = text.length > 60 ? text.slice(0, 57) + "…" : text;
  chat.turns.push({ role: "user", text });
  $("input").value = "";
  grow();
  ask();
}

function again(i) {
  if (running) return;
  chat.turns.length = i;
  if (chat.turns.length) ask();
}

function edit(i) {
  if (running) return;
  $("input").value = chat.turns[i].text;
  chat.turns.length = i;
  showChat();
  grow();
  $("input").focus();
  $("input").setSelectionRange($("input").value.length, $("input").value.length);
}

// -- settings -----------------------------------------------------------------------------------

function openSettings(focus) {
  $("set-system").value = settings.system ?? "";
  $("set-key").value = getKey();
  for (const name of NUMBERS) $("set-" + name).value = settings[name] ?? "";
  $("settings").showModal();
  if (focus) $("set-" + focus).focus();
}

function closeSettings() {
  settings.system = $("set-system").value.trim();
  for (const name of NUMBERS) {
    const field = $("set-" + name);
    settings[name] = field.value === "" || !field.checkValidity() ? undefined : Number(field.value);
  }
  keepSettings();
  if ($("set-key").value !== getKey()) {
    setKey($("set-key").value);
    connect();
  }
}

function showTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = settings.theme ? "Theme: " + settings.theme : "Theme";
}

// -- keys and the rest --------------------------------------------------------------------------

function grow() {
  const t = $("input");
  t.style.height = "auto";
  t.style.height = t.scrollHeight + 2 + "px";
}

function togglePanel() {
  const wide = matchMedia("(min-width: 68.01rem)").matches;
  document.body.classList.toggle(wide ? "no-panel" : "show-panel");
}

function step(by) {
  const i = chats.indexOf(chat) + by;
  if (chats[i]) select(chats[i]);
}

const ALT = { KeyN: () => select(newChat()), KeyR: () => again(chat.turns.findLastIndex((t) => t.role === "assistant")), KeyP: togglePanel,
  KeyS: () => openSettings(), ArrowUp: () => step(-1), ArrowDown: () => step(1) };

function onKey(e) {
  const typing = /^(INPUT|TEXTAREA)$/.test(e.target.tagName);
  if (document.querySelector("dialog[open]")) return;
  if (e.key === "Escape") {
    running?.stop.abort();
    document.body.classList.remove("show-chats", "show-panel");
  } else if (e.altKey && ALT[e.code]) {
    e.preventDefault();
    ALT[e.code]();
  } else if (!typing && e.key === "/") {
    e.preventDefault();
    $("input").focus();
  } else if (!typing && e.key === "?") {
    $("help").showModal();
  }
}

function onInputKey(e) {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
    e.preventDefault();
    send();
  } else if (e.key === "ArrowUp" && !e.altKey && !$("input").value) {
    const i = chat.turns.findLastIndex((t) => t.role === "user");
    if (i < 0) return;
    e.preventDefault(); // the key would move the caret to the beginning
    edit(i);
  }
}

async function connect() {
  try {
    props = await getProps();
    model = (await models()).data[0]?.id ?? "pumice";
    $("model").textContent = model;
    document.title = model + " - pumice";
    say("");
    refresh(props, null);
    showChat();
  } catch (e) {
    $("model").textContent = "not connected";
    say(e.message);
    if (e.status === 401) openSettings("key");
    else setTimeout(connect, 3000);
  }
}

$("form").addEventListener("submit", (e) => {
  e.preventDefault();
  if (running) running.stop.abort();
  else send();
});
$("input").addEventListener("keydown", onInputKey);
$("input").addEventListener("input", grow);
$("new").addEventListener("click", () => select(newChat()));
$("open-settings").addEventListener("click", () => openSettings());
$("open-help").addEventListener("click", () => $("help").showModal());
$("settings").addEventListener("close", closeSettings);
$("toggle-panel").addEventListener("click", togglePanel);
$("toggle-chats").addEventListener("click", () => document.body.classList.toggle("show-chats"));
$("theme").addEventListener("click", () => {
  settings.theme = { undefined: "dark", dark: "light" }[settings.theme];
  keepSettings();
  showTheme();
});
$("forget").addEventListener("click", () => {
  if (!confirm("Delete all conversations from this browser?")) return;
  running?.stop.abort();
  chats.length = 0;
  keepChats();
  $("settings").close();
  select(newChat());
});
document.addEventListener("keydown", onKey);
showTheme();
showChat();
connect();
