// others.test.js - the AI SDK, LangChain and Hugging Face's client.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { InferenceClient } from "@huggingface/inference";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { embedMany, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { serve } from "./server.js";

const { v1 } = await serve();
const prompt = "Tell me a story about a dog.";

test("AI SDK: text, a stream of the same text, and usage", async () => {
  const model = createOpenAICompatible({ name: "pumice", baseURL: v1, includeUsage: true })("default");
  const one = await generateText({ model, prompt, temperature: 0, maxOutputTokens: 20, maxRetries: 0 });
  const stream = streamText({ model, prompt, temperature: 0, maxOutputTokens: 20, maxRetries: 0 });
  let text = "";
  for await (const part of stream.textStream) text += part;
  assert.equal(text, one.text);
  assert.equal(one.usage.outputTokens, 20);
  assert.equal((await stream.usage).outputTokens, 20);
  assert.equal(one.finishReason, "length");
});

test("AI SDK: an object in JSON mode", async () => {
  const model = createOpenAICompatible({ name: "pumice", baseURL: v1, supportsStructuredOutputs: true })("default");
  const schema = z.object({ title: z.string().max(20), pages: z.number().int().min(1).max(99) });
  const { object } = await generateObject({ model, schema, prompt, temperature: 0, maxOutputTokens: 200, maxRetries: 0 });
  assert.ok(schema.safeParse(object).success);
});

const parameters = z.object({ town: z.enum(["Bonn", "Oslo"]), days: z.number().int().min(1).max(7) });

test("AI SDK: a required tool is called with valid input, whole and streamed", async () => {
  const model = createOpenAICompatible({ name: "pumice", baseURL: v1 })("default");
  const ask = { model, prompt, temperature: 0, maxOutputTokens: 200, maxRetries: 0, toolChoice: "required",
    tools: { weather: tool({ description: "The weather of a town.", inputSchema: parameters }) } };
  const one = await generateText(ask);
  assert.equal(one.finishReason, "tool-calls");
  assert.equal(one.toolCalls[0].toolName, "weather");
  assert.ok(parameters.safeParse(one.toolCalls[0].input).success);
  assert.deepEqual((await streamText(ask).toolCalls).map((c) => c.input), one.toolCalls.map((c) => c.input));
});

test("AI SDK: embeddings", async () => {
  const model = createOpenAICompatible({ name: "pumice", baseURL: v1 }).textEmbeddingModel("default");
  const { embeddings } = await embedMany({ model, values: ["a cat", "a dog", "a cat"], maxRetries: 0 });
  assert.deepEqual(embeddings[0], embeddings[2]);
  assert.ok(Math.abs(Math.hypot(...embeddings[1]) - 1) < 1e-4);
});

test("LangChain: a bound tool that must be called, and embeddings", async () => {
  const chat = new ChatOpenAI({ model: "default", temperature: 0, maxTokens: 200, apiKey: "none", maxRetries: 0, configuration: { baseURL: v1 } });
  const tools = [{ type: "function", function: { name: "weather", parameters: z.toJSONSchema(parameters) } }];
  const one = await chat.bindTools(tools, { tool_choice: "weather" }).invoke(prompt);
  assert.equal(one.tool_calls[0].name, "weather");
  assert.ok(parameters.safeParse(one.tool_calls[0].args).success);
  const embed = new OpenAIEmbeddings({ model: "default", apiKey: "none", maxRetries: 0, configuration: { baseURL: v1 } });
  const vectors = await embed.embedDocuments(["a cat", "a dog"]);
  assert.deepEqual(vectors[0], await embed.embedQuery("a cat"));
});

test("LangChain: invoke and stream", async () => {
  const chat = new ChatOpenAI({ model: "default", temperature: 0, maxTokens: 20, apiKey: "none", maxRetries: 0, configuration: { baseURL: v1 } });
  const one = await chat.invoke(prompt);
  let text = "";
  for await (const part of await chat.stream(prompt)) text += part.content;
  assert.ok(one.content.length > 10);
  assert.equal(text, one.content);
  assert.equal(one.usage_metadata.output_tokens, 20);
});

test("Hugging Face: chatCompletion and chatCompletionStream", async () => {
  const client = new InferenceClient("none", { endpointUrl: v1 });
  const request = { model: "default", messages: [{ role: "user", content: prompt }], max_tokens: 20, temperature: 0 };
  const one = await client.chatCompletion(request);
  let text = "";
  for await (const part of client.chatCompletionStream(request)) text += part.choices[0]?.delta?.content ?? "";
  assert.ok(one.choices[0].message.content.length > 10);
  assert.equal(text, one.choices[0].message.content);
});
