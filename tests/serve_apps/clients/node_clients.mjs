// Unmodified clients of npm against a server: `node node_clients.mjs CLIENT URL` asks, and prints what it was told.
const PROMPT = "def f", TOKENS = 12, turns = [{ role: "user", content: PROMPT }];
const joined = async (stream, text) => { let all = ""; for await (const piece of stream) all += text(piece) ?? ""; return all; };

const clients = {
  async openai(url) {
    const { default: OpenAI } = await import("openai");
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
    const ask = { model: "tiny", max_tokens: TOKENS, temperature: 0 };
    const whole = await client.chat.completions.create({ ...ask, messages: turns });
    const stream = await client.chat.completions.create({ ...ask, messages: turns, stream: true });
    const response = await client.responses.create({ model: "tiny", input: PROMPT, max_output_tokens: TOKENS, temperature: 0 });
    return {
      text: (await client.completions.create({ ...ask, prompt: PROMPT })).choices[0].text,
      "text streamed": await joined(await client.completions.create({ ...ask, prompt: PROMPT, stream: true }), (p) => p.choices[0]?.text),
      chat: whole.choices[0].message.content,
      "chat streamed": await joined(stream, (piece) => piece.choices[0]?.delta.content),
      "chat by responses": response.output_text,
    };
  },
  async ollama(url) {
    const { Ollama } = await import("ollama");
    const client = new Ollama({ host: url });
    const ask = { model: "tiny", options: { num_predict: TOKENS, temperature: 0 } };
    return {
      text: (await client.generate({ ...ask, prompt: PROMPT })).response,
      "text streamed": await joined(await client.generate({ ...ask, prompt: PROMPT, stream: true }), (piece) => piece.response),
      chat: (await client.chat({ ...ask, messages: turns })).message.content,
      "chat streamed": await joined(await client.chat({ ...ask, messages: turns, stream: true }), (piece) => piece.message.content),
    };
  },
  async "ai-sdk"(url) {
    const { generateText, streamText, generateObject, jsonSchema } = await import("ai");
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const provider = createOpenAICompatible({ name: "starloom", baseURL: `${url}/v1`, supportsStructuredOutputs: true });
    const ask = { maxOutputTokens: TOKENS, temperature: 0, prompt: PROMPT };
    const schema = jsonSchema({
      type: "object", properties: { size: { type: "integer", minimum: 0, maximum: 99 } }, required: ["size"], additionalProperties: false,
    });
    const { object } = await generateObject({ model: provider("tiny"), schema, prompt: PROMPT, maxOutputTokens: 100 });
    if (!(object.size >= 0 && object.size <= 99)) throw new Error(`size ${object.size}`);
    return {
      chat: (await generateText({ model: provider("tiny"), ...ask })).text,
      "chat streamed": await joined(streamText({ model: provider("tiny"), ...ask }).textStream, (piece) => piece),
    };
  },
};

console.log(JSON.stringify(await clients[process.argv[2]](process.argv[3])));
