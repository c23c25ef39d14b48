// openai.test.js - OpenAI's own client: what it sends is understood, and it understands what comes back.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { metric, serve } from "./server.js";

const { url, v1 } = await serve();
const client = new OpenAI({ baseURL: v1, apiKey: "none", maxRetries: 0 });
const model = "default";
const ask = { model, temperature: 0, max_tokens: 24, messages: [{ role: "user", content: "Tell me a story about a cat." }] };

test("a chat answer has its text, its usage and the id of its request", async () => {
  const a = await client.chat.completions.create(ask);
  assert.equal(a.object, "chat.completion");
  assert.equal(a.choices[0].message.role, "assistant");
  assert.ok(a.choices[0].message.content.length > 10);
  assert.equal(a.choices[0].finish_reason, "length");
  assert.equal(a.usage.completion_tokens, 24);
  assert.equal(a.usage.total_tokens, a.usage.prompt_tokens + 24);
  assert.ok(a._request_id);
});

test("a stream gives the same text as an answer in one piece, then usage", async () => {
  const whole = await client.chat.completions.create(ask);
  let text = "", usage = null, finish = null, roles = 0;
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? "";
    roles += chunk.choices[0]?.delta.role === "assistant";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(finish, "length");
  assert.equal(roles, 1);
  assert.equal(usage.completion_tokens, 24);
  assert.ok(usage.prompt_tokens_details.cached_tokens > 0, "the prompt was asked before");
});

test("the helper for streams assembles the final answer", async () => {
  const final = await client.chat.completions.stream(ask).finalChatCompletion();
  const whole = await client.chat.completions.create(ask);
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
});

test("log-probabilities come with the bytes of each token", async () => {
  const a = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 });
  const content = a.choices[0].logprobs.content;
  assert.equal(content.length, 24);
  assert.equal(Buffer.from(content.flatMap((t) => t.bytes)).toString(), a.choices[0].message.content);
  for (const t of content) {
    assert.ok(t.logprob <= 0 && t.top_logprobs.length === 3);
    assert.equal(t.logprob, t.top_logprobs[0].logprob, "greedy takes the likeliest");
  }
});

test("a stop string ends the answer and is not in it", async () => {
  const whole = (await client.chat.completions.create(ask)).choices[0].message.content;
  const stop = whole.slice(12, 16);
  const a = await client.chat.completions.create({ ...ask, stop: [stop] });
  assert.equal(a.choices[0].message.content, whole.slice(0, whole.indexOf(stop)));
  assert.equal(a.choices[0].finish_reason, "stop");
});

test("n answers are numbered, and a seed repeats all of them", async () => {
  const warm = { ...ask, temperature: 1, n: 3, seed: 7 };
  const texts = (a) => a.choices.sort((x, y) => x.index - y.index).map((c) => c.message.content);
  const first = texts(await client.chat.completions.create(warm)), second = texts(await client.chat.completions.create(warm));
  assert.equal(new Set(first).size, 3);
  assert.deepEqual(first, second);
});

test("answers are the same alone and beside fifteen others", async () => {
  const prompts = Array.from({ length: 16 }, (_, i) => [{ role: "user", content: "Tell me a story about " + "a cat and a dog and ".repeat(i) + "a bird." }]);
  const alone = [];
  for (const messages of prompts) alone.push((await client.chat.completions.create({ ...ask, messages })).choices[0].message.content);
  const together = await Promise.all(prompts.map((messages) => client.chat.completions.create({ ...ask, messages })));
  assert.deepEqual(together.map((a) => a.choices[0].message.content), alone);
});

test("completions take several prompts and answer in their order", async () => {
  const prompts = ["Once upon a time", "The little dog", "One day, a bird"];
  const a = await client.completions.create({ model, prompt: prompts, max_tokens: 8, temperature: 0 });
  assert.deepEqual(a.choices.map((c) => c.index), [0, 1, 2]);
  for (let i = 0; i < 3; i++) {
    const one = await client.completions.create({ model, prompt: prompts[i], max_tokens: 8, temperature: 0, echo: true });
    assert.equal(one.choices[0].text, prompts[i] + a.choices[i].text);
  }
});

test("a schema holds the answer", async () => {
  const Animal = z.object({ name: z.string().max(12), legs: z.number().int().min(0).max(8), kind: z.enum(["cat", "dog", "bird"]) });
  const a = await client.chat.completions.parse({ ...ask, max_tokens: 200, response_format: zodResponseFormat(Animal, "animal") });
  assert.equal(a.choices[0].finish_reason, "stop");
  assert.ok(Animal.safeParse(a.choices[0].message.parsed).success);
});

const tools = [
  { type: "function", function: { name: "get_weather", description: "The weather of a town.", parameters: { type: "object", additionalProperties: false,
    properties: { town: { type: "string", enum: ["Bonn", "Oslo"] }, days: { type: "integer", minimum: 1, maximum: 7 } }, required: ["town", "days"] } } },
  { type: "function", function: { name: "stop_all", description: "Stops everything." } },
];
const checkCall = (call) => {
  assert.equal(call.type, "function");
  assert.ok(call.id);
  const args = JSON.parse(call.function.arguments);
  if (call.function.name === "stop_all") return assert.deepEqual(args, {});
  assert.equal(call.function.name, "get_weather");
  assert.ok(["Bonn", "Oslo"].includes(args.town) && args.days >= 1 && args.days <= 7 && Object.keys(args).length === 2, call.function.arguments);
};

test("a required call is valid, and its result can be told", async () => {
  const messages = [{ role: "user", content: "What is the weather?" }];
  const a = await client.chat.completions.create({ ...ask, messages, max_tokens: 200, tools, tool_choice: "required" });
  assert.equal(a.choices[0].finish_reason, "tool_calls");
  assert.equal(a.choices[0].message.content, null);
  assert.equal(a.choices[0].message.tool_calls.length, 1);
  checkCall(a.choices[0].message.tool_calls[0]);
  const told = [...messages, a.choices[0].message, { role: "tool", tool_call_id: a.choices[0].message.tool_calls[0].id, content: "sunny" }];
  const b = await client.chat.completions.create({ ...ask, messages: told, tools, tool_choice: "none" });
  assert.ok(b.choices[0].message.content && !b.choices[0].message.tool_calls);
});

test("a named function is the one that is called, streamed or not", async () => {
  for (const name of ["get_weather", "stop_all"]) {
    const body = { ...ask, max_tokens: 200, tools, tool_choice: { type: "function", function: { name } } };
    const whole = (await client.chat.completions.create(body)).choices[0];
    const final = (await client.chat.completions.stream(body).finalChatCompletion()).choices[0];
    for (const c of [whole, final]) {
      assert.equal(c.finish_reason, "tool_calls");
      assert.equal(c.message.tool_calls[0].function.name, name);
      checkCall(c.message.tool_calls[0]);
    }
    assert.equal(final.message.tool_calls[0].function.arguments, whole.message.tool_calls[0].function.arguments);
  }
});

test("functions run by the helper for tools get parsed arguments", async () => {
  let asked = null;
  const runner = client.chat.completions.runTools({ ...ask, max_tokens: 200, tool_choice: { type: "function", function: { name: "get_weather" } }, tools: [
    { ...tools[0], function: { ...tools[0].function, function: (args) => { asked = args; return "sunny"; }, parse: JSON.parse } }] });
  await runner.done();
  assert.ok(["Bonn", "Oslo"].includes(asked.town), JSON.stringify(asked));
});

test("embeddings are unit vectors, however they are encoded", async () => {
  const input = ["Once upon a time", "The little dog", "Once upon a time"];
  const coded = await client.embeddings.create({ model, input }); // the client asks for base64 by itself
  const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
  assert.deepEqual(coded.data.map((d) => d.index), [0, 1, 2]);
  for (let i = 0; i < 3; i++) {
    const [a, b] = [coded.data[i].embedding, plain.data[i].embedding];
    assert.ok(Math.abs(Math.hypot(...a) - 1) < 1e-4);
    assert.deepEqual(Array.from(Float32Array.from(a)), Array.from(Float32Array.from(b)));
  }
  assert.deepEqual(coded.data[0].embedding, coded.data[2].embedding);
  assert.notDeepEqual(coded.data[0].embedding, coded.data[1].embedding);
  assert.equal(coded.usage.prompt_tokens, plain.usage.total_tokens);
  await assert.rejects(client.embeddings.create({ model, input, dimensions: 3 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "dimensions");
});

test("models are listed and found by name", async () => {
  const list = await client.models.list();
  assert.equal(list.data[0].id, model);
  assert.equal((await client.models.retrieve(model)).id, model);
  await assert.rejects(client.models.retrieve("no-such-model"), OpenAI.NotFoundError);
});

test("an aborted stream frees its place at once", async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 900, ignore_eos: true, stream: true });
  for await (const _ of stream) break;
  stream.controller.abort();
  const deadline = Date.now() + 2000;
  while (await metric(url, "pumice_sequences_running") > 0) {
    assert.ok(Date.now() < deadline, "still running");
    await new Promise((r) => setTimeout(r, 20));
  }
});

test("a wrong request is a 400 that names the parameter", async () => {
  for (const [wrong, param] of [[{ temperature: 9 }, "temperature"], [{ top_p: 0 }, "top_p"], [{ n: 1000000000 }, "n"], [{ max_tokens: -1 }, "max_tokens"],
    [{ messages: [] }, "messages"], [{ stop: Array(99).fill("x") }, "stop"], [{ seed: "x" }, "seed"]]) {
    await assert.rejects(client.chat.completions.create({ ...ask, ...wrong }), (e) => e instanceof OpenAI.BadRequestError && e.param === param, param);
  }
  await assert.rejects(client.chat.completions.create({ ...ask, model: "other" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
  await assert.rejects(client.chat.completions.create({ ...ask, messages: [{ role: "user", content: "word ".repeat(20000) }] }),
    (e) => e instanceof OpenAI.BadRequestError && e.type === "exceed_context_size_error");
});

test("a wrong key is a 401, a right one is not", async () => {
  const locked = await serve("--api-key", "secret");
  const wrong = new OpenAI({ baseURL: locked.v1, apiKey: "secres", maxRetries: 0 }), right = new OpenAI({ baseURL: locked.v1, apiKey: "secret", maxRetries: 0 });
  await assert.rejects(wrong.models.list(), OpenAI.AuthenticationError);
  assert.equal((await right.models.list()).data.length, 1);
  assert.equal((await fetch(locked.url + "/health")).status, 200);
  assert.equal((await fetch(locked.url + "/metrics")).status, 401);
});

test("beyond the queue's end there is a 429 with a time to wait", async () => {
  const small = await serve("-np", "1", "--max-queue", "1");
  const busy = new OpenAI({ baseURL: small.v1, apiKey: "none", maxRetries: 0 });
  const all = await Promise.allSettled(Array.from({ length: 8 }, () => busy.chat.completions.create({ ...ask, max_tokens: 300, ignore_eos: true })));
  const refused = all.filter((r) => r.status === "rejected").map((r) => r.reason);
  assert.ok(refused.length >= 1 && refused.length <= 7);
  for (const e of refused) {
    assert.ok(e instanceof OpenAI.RateLimitError, e);
    assert.ok(Number(e.headers.get("retry-after")) > 0);
  }
});
