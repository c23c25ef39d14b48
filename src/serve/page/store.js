// store.js - conversations and settings, kept in this browser and nowhere else.

const CHATS = "pumice.chats", SETTINGS = "pumice.settings", MOST = 200;

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

// [{ id, title, turns: [{ role, text, error?, stats? }] }], the newest first
export const chats = read(CHATS, []).filter((c) => c && Array.isArray(c.turns));
export const settings = read(SETTINGS, {});

// Where the browser has no room left, the oldest conversations go first.
export function keepChats() {
  chats.length = Math.min(chats.length, MOST);
  for (;;) {
    try {
      localStorage.setItem(CHATS, JSON.stringify(chats.filter((c) => c.turns.length)));
      return;
    } catch (e) {
      if (chats.length < 2) throw e;
      chats.pop();
    }
  }
}

export function keepSettings() {
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}

export function newChat() {
  const blank = chats.find((c) => !c.turns.length);
  if (blank) return blank;
  const chat = { id: crypto.randomUUID?.() ?? String(Date.now() + Math.random()), title: "New conversation", turns: [] };
  chats.unshift(chat);
  return chat;
}
