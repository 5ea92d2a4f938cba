// Published clients as their users call them, against a running node. Protocol: lines.cjs.
//
// {"op": "call", "client": NAME, "url": ..., "jwk": ..., "fn": METHOD, "args": [...]} calls a method
// of the client's object for that URL and key; a Response comes back as status, headers, body.

"use strict";

const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { folder, library, serve } = require("./lines.cjs");

console.log = console.error; // stdout carries the answers

// As ES modules: the CommonJS form of 0.0.98 cannot load its own dependency.
const AOCONNECT = {
  "aoconnect-98": "@permaweb/aoconnect",
  "aoconnect-85": "aoconnect-85",
  "aoconnect-77": "aoconnect-77",
};
const opened = new Map();

async function open({ client, url, jwk, options }) {
  if (client in AOCONNECT) {
    const file = path.join(path.resolve(folder), AOCONNECT[client], "dist", "index.js");
    const module = await import(pathToFileURL(file));
    return { object: module.connect({ MODE: "mainnet", URL: url, signer: module.createSigner(jwk), ...options }) };
  }
  if (client === "wao") {
    const { HB } = library("wao");
    return { object: await new HB({ url, jwk }).init(jwk) };
  }
  throw new Error(`no client ${client}`);
}

async function opening(request) {
  const name = JSON.stringify([request.client, request.url, request.jwk.n, request.options]);
  if (!opened.has(name)) opened.set(name, open(request));
  return opened.get(name);
}

function binary(shown) {
  if (Array.isArray(shown)) return shown.map(binary);
  if (shown === null || typeof shown !== "object") return shown;
  if ("$bytes" in shown) return Buffer.from(shown.$bytes, "base64");
  return Object.fromEntries(Object.entries(shown).map(([key, one]) => [key, binary(one)]));
}

async function plain(found) {
  if (found === undefined) return null;
  if (found instanceof Response) {
    return { status: found.status, headers: Object.fromEntries(found.headers), body: await found.text() };
  }
  if (Buffer.isBuffer(found) || found instanceof Uint8Array) return { $bytes: Buffer.from(found).toString("base64") };
  if (Array.isArray(found)) return Promise.all(found.map(plain));
  if (found !== null && typeof found === "object") {
    const kept = Object.entries(found).filter(([, one]) => typeof one !== "function");
    return Object.fromEntries(await Promise.all(kept.map(async ([key, one]) => [key, await plain(one)])));
  }
  return found;
}

serve({
  async call(request) {
    const { object } = await opening(request);
    return plain(await object[request.fn](...(request.args || []).map(binary)));
  },
  // A call that must fail: the text that its caller sees.
  async failure(request) {
    const { object } = await opening(request);
    try {
      const found = await plain(await object[request.fn](...(request.args || []).map(binary)));
      return { returned: found };
    } catch (error) {
      return { thrown: String(error && error.message ? error.message : error) };
    }
  },
  // An ANS-104 item made by arbundles and sent by fetch.
  async item(request) {
    const { ArweaveSigner, EthereumSigner, HexSolanaSigner, SolanaSigner, createData } = library("arbundles");
    const kinds = { solana: SolanaSigner, ethereum: EthereumSigner, "hex-solana": HexSolanaSigner };
    const signer = request.kind ? new kinds[request.kind](request.secret) : new ArweaveSigner(request.jwk);
    const { data, ...options } = binary(request.item);
    const item = createData(data, signer, options);
    await item.sign(signer);
    const headers = { "content-type": "application/ans104", "codec-device": "ans104@1.0", ...request.headers };
    const reply = await fetch(request.url + request.path, { method: "POST", headers, body: item.getRaw() });
    return { id: item.id, raw: item.getRaw().toString("base64"), ...(await plain(reply)) };
  },
  async get(request) {
    const reply = await fetch(request.url + request.path, { headers: request.headers });
    const body = Buffer.from(await reply.arrayBuffer());
    return { status: reply.status, headers: Object.fromEntries(reply.headers), body: body.toString("base64") };
  },
  // hbsig alone: sign, send, decode.
  async hbsig(request) {
    const hbsig = library("hbsig");
    const signed = await hbsig.createSigner(request.jwk, request.url)(binary(request.fields), { path: request.signPath });
    const { out, headers, status, body, hashpath } = await hbsig.send(signed);
    return plain({ out, headers, status, body, hashpath });
  },
});
