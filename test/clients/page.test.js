// page.test.js - the chat page in a headless Chromium, driven by keys as a person would.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, test } from "node:test";
import puppeteer from "puppeteer-core";
import { serve } from "./server.js";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const skip = existsSync(chromium) ? false : "no " + chromium + " (set CHROMIUM)";
const { url, said } = skip ? {} : await serve();
const browser = skip ? null : await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] });
after(() => browser?.close());

// A fresh page; complaints gathers what the console and scripts say, policy violations among them.
async function open(path = "/") {
  const page = await (await browser.createBrowserContext()).newPage(), complaints = [], hosts = new Set();
  page.on("console", (m) => complaints.push(m.text()));
  page.on("pageerror", (e) => complaints.push(String(e)));
  page.on("request", (r) => hosts.add(new URL(r.url()).host));
  await page.setViewport({ width: 1280, height: 800 });
  await page.goto(url + path);
  await page.waitForFunction(() => document.querySelector("#model").textContent === "default");
  return { page, complaints, hosts };
}

const answered = (page, n) => page.waitForFunction((k) => document.querySelectorAll(".turn.assistant").length === k &&
  document.querySelector("#send").textContent === "Send" && document.querySelectorAll(".turn.assistant .text")[k - 1].textContent.length > 3, { timeout: 60000 }, n);

test("a message is answered, figures appear, and nothing but the server is asked", { skip }, async () => {
  const { page, complaints, hosts } = await open();
  await page.keyboard.type("Hello, who are you?");
  await page.keyboard.press("Enter");
  await answered(page, 1);
  await page.waitForFunction(() => /tokens\/s/.test(document.querySelector("#speed").textContent) && document.querySelector("#held").textContent !== "–");
  assert.match(await page.$eval("#tokens", (e) => e.textContent), /^\d+ \/ \d+$/);
  assert.ok((await page.$$eval("#methods li", (l) => l.length)) >= 2);
  assert.deepEqual([...hosts], [new URL(url).host]);
  assert.deepEqual(complaints, []);
  if (process.env.SCREENSHOTS) await page.screenshot({ path: process.env.SCREENSHOTS + "/page.png" });
});

test("a conversation goes on, survives a reload, and the second turn finds its prompt cached", { skip }, async () => {
  const { page } = await open();
  for (const [i, text] of ["My name is Mia.", "What is my name?"].entries()) {
    await page.keyboard.type(text);
    await page.keyboard.press("Enter");
    await answered(page, i + 1);
  }
  await page.waitForFunction(() => parseInt(document.querySelector("#cached").textContent, 10) > 0);
  const before = await page.$$eval(".turn .text", (l) => l.map((e) => e.textContent));
  await page.reload();
  await page.waitForSelector(".turn");
  assert.deepEqual(await page.$$eval(".turn .text", (l) => l.map((e) => e.textContent)), before);
});

test("Escape stops an answer and keeps what there is; an edit asks anew", { skip }, async () => {
  const { page } = await open();
  await page.click("#open-settings");
  await page.type("#set-max_tokens", "800");
  await page.keyboard.press("Enter");
  await page.focus("#input");
  await page.keyboard.type("Tell me a story.");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => (document.querySelector(".turn.assistant .text")?.textContent.length ?? 0) > 10);
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => document.querySelector("#send").textContent === "Send");
  await page.keyboard.press("ArrowUp");
  assert.equal(await page.$eval("#input", (e) => e.value), "Tell me a story.");
  assert.equal((await page.$$(".turn")).length, 0);
  await page.keyboard.type(" Please.");
  await page.keyboard.press("Enter");
  await answered(page, 1);
  assert.equal(await page.$eval(".turn.user .text", (e) => e.textContent), "Tell me a story. Please.");
});

test("what an answer says is text, never a part of the page", { skip }, async () => {
  const { page, complaints } = await open();
  await page.evaluate(async () => {
    const { markdown } = await import("/markdown.js");
    const box = document.createElement("div");
    box.id = "probe";
    box.append(...markdown('<img src=x onerror="window.pwned=1"> [a](javascript:window.pwned=1) **b <script>window.pwned=1</script>**\n\n```html\n<i>code</i>\n```'));
    document.body.append(box);
  });
  assert.equal(await page.$$eval("#probe img, #probe script, #probe i, #probe a", (l) => l.length), 0);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.deepEqual(complaints, []);
});

test("on a phone nothing is wider than the screen", { skip }, async () => {
  const { page } = await open();
  await page.setViewport({ width: 360, height: 700 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await page.click("#toggle-chats");
  assert.ok(await page.$eval("#chats", (e) => e.getBoundingClientRect().width > 100));
  if (process.env.SCREENSHOTS) await page.screenshot({ path: process.env.SCREENSHOTS + "/phone.png" });
});

test("no prompt is in what the server writes", { skip }, () => {
  assert.ok(!/Tell me a story|My name is Mia/.test(said()));
});
