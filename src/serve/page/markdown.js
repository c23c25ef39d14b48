// markdown.js - the Markdown that models write, as DOM nodes.
//
// Only text nodes and elements made here: nothing of an answer is ever parsed as HTML, so there is
// nothing to escape. Links may be http, https or mailto. Blocks: headings, lists, quotes, tables,
// fences, rules, paragraphs; inline: code, strong, em, strike, links.

const BLOCK = /^(?:#{1,6} |\s*[-*+] |\s*\d{1,9}[.)] |> ?|```|~~~|(?:[-*_] *){3,}$)/;

function el(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function link(to, ...label) {
  if (!/^(https?:\/\/|mailto:)/i.test(to)) return null;
  const a = el("a", ...label);
  a.href = to;
  a.rel = "noopener noreferrer nofollow";
  a.target = "_blank";
  return a;
}

// One pass from left to right; what opens nothing is text.
const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*]*?[^\s*])\*(?!\*)|(?<!\w)_(?=[^\s_])([^_]*?[^\s_])_(?!\w)|~~(?=\S)([\s\S]*?\S)~~|\[([^\]\n]*)\]\(([^)\s]+)\)|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/g;

export function inline(text) {
  const out = [];
  let at = 0;
  for (const m of text.matchAll(INLINE)) {
    if (m.index < at) continue;
    let node = null;
    if (m[1]) node = el("code", m[2].length > 2 && m[2].startsWith(" ") && m[2].endsWith(" ") ? m[2].slice(1, -1) : m[2]);
    else if (m[3] !== undefined) node = el("strong", ...inline(m[3]));
    else if (m[4] !== undefined || m[5] !== undefined) node = el("em", ...inline(m[4] ?? m[5]));
    else if (m[6] !== undefined) node = el("del", ...inline(m[6]));
    else if (m[8] !== undefined) node = link(m[8], ...inline(m[7]));
    else node = link(m[9], m[9]);
    if (!node) continue;
    if (m.index > at) out.push(text.slice(at, m.index));
    out.push(node);
    at = m.index + m[0].length;
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}

function fence(lang, code) {
  const copy = el("button", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1200);
  });
  return el("pre", el("header", el("span", lang), copy), el("code", code));
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((c) => c.trim());
}

function table(lines) {
  const row = (line, kind) => el("tr", ...cells(line).map((c) => el(kind, ...inline(c))));
  return el("table", el("thead", row(lines[0], "th")), el("tbody", ...lines.slice(2).map((l) => row(l, "td"))));
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)]) (.*)$/;

// A list and the lists inside it; lines[i] is an item. Returns the node and the line after it.
function list(lines, i, depth) {
  const [, indent, mark] = lines[i].match(ITEM);
  const ordered = /\d/.test(mark);
  const node = el(ordered ? "ol" : "ul");
  if (ordered && parseInt(mark, 10) !== 1) node.start = parseInt(mark, 10);
  let item = null;
  while (i < lines.length) {
    const m = lines[i].match(ITEM);
    const inner = lines[i].match(/^\s*/)[0].length > indent.length;
    if (m && m[1].length === indent.length && /\d/.test(m[2]) === ordered) {
      item = el("li", ...inline(m[3]));
      node.append(item);
      i++;
    } else if (m && inner && item && depth < 8) {
      const [sub, next] = list(lines, i, depth + 1);
      item.append(sub);
      i = next;
    } else if (lines[i].trim() && inner && item) {
      item.append(" ", ...inline(lines[i].trim()));
      i++;
    } else break;
  }
  return [node, i];
}

// Markdown text -> array of nodes. Linear in the text but for nesting, which is bounded.
export function markdown(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const out = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    let m;
    if (!line.trim()) {
      i++;
    } else if ((m = line.match(/^\s*(```+|~~~+)\s*([^`\s]*)/))) {
      const end = new RegExp("^\\s*" + m[1][0] + "{" + m[1].length + ",}\\s*$");
      let j = i + 1;
      while (j < lines.length && !end.test(lines[j])) j++;
      out.push(fence(m[2], lines.slice(i + 1, j).join("\n")));
      i = j + 1;
    } else if ((m = line.match(/^(#{1,6}) (.*?)#*$/))) {
      out.push(el("h" + Math.min(m[1].length + 2, 5), ...inline(m[2].trim())));
      i++;
    } else if (/^(?:[-*_] *){3,}$/.test(line)) {
      out.push(el("hr"));
      i++;
    } else if (/^> ?/.test(line) && depth < 8) {
      let j = i;
      while (j < lines.length && /^> ?/.test(lines[j])) j++;
      out.push(el("blockquote", ...markdown(lines.slice(i, j).map((l) => l.replace(/^> ?/, "")).join("\n"), depth + 1)));
      i = j;
    } else if (ITEM.test(line)) {
      const [node, next] = list(lines, i, 0);
      out.push(node);
      i = next;
    } else if (line.includes("|") && /^\s*\|?[\s:|-]+-[\s:|-]*$/.test(lines[i + 1] ?? "")) {
      let j = i + 2;
      while (j < lines.length && lines[j].includes("|")) j++;
      out.push(table(lines.slice(i, j)));
      i = j;
    } else {
      let j = i + 1;
      while (j < lines.length && lines[j].trim() && !BLOCK.test(lines[j])) j++;
      const p = el("p");
      lines.slice(i, j).forEach((l, k) => p.append(...(k ? [el("br")] : []), ...inline(l)));
      out.push(p);
      i = j;
    }
  }
  return out;
}
