// The openai package of npm against a node: what its caller gets.

"use strict";

const { library, serve } = require("./lines.cjs");
const { OpenAI } = library("openai");

const client = (url) => new OpenAI({ baseURL: `${url}/~inference@1.0/v1`, apiKey: "any", maxRetries: 0 });

serve({
  models: async ({ url }) => (await client(url).models.list()).data.map((one) => one.id),
  chat: async ({ url, request }) => await client(url).chat.completions.create(request),
  stream: async ({ url, request }) => {
    const pieces = [];
    for await (const one of await client(url).chat.completions.create({ ...request, stream: true })) pieces.push(one);
    return pieces;
  },
  failure: async ({ url, request }) => {
    try {
      await client(url).chat.completions.create(request);
    } catch (error) {
      return { name: error.constructor.name, status: error.status, param: error.param, message: error.message };
    }
  },
});
