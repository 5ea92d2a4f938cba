// hbsig as signer and reader of HTTP signatures. Protocol: lines.cjs.
//
// The `verify` that hbsig exports answers `verified: true` for every signature that parses: it drops
// the result of verifyMessage. So `verify` here asks verifyMessage itself, one signature after the
// other, with the two algorithms that AO-Core has.

"use strict";

const crypto = require("node:crypto");
const { library, serve } = require("./lines.cjs");

const hbsig = library("hbsig");
const { httpbis } = library("hbsig/cjs/http-message-signatures/index.js");

const bytes = (text) => Buffer.from(text, "base64");
const signers = new Map();

// Values come as JSON; {"$bytes": base64} is binary.
function value(shown) {
  if (Array.isArray(shown)) return shown.map(value);
  if (shown === null || typeof shown !== "object") return shown;
  if ("$bytes" in shown) return bytes(shown.$bytes);
  return Object.fromEntries(Object.entries(shown).map(([key, one]) => [key, value(one)]));
}

function signerOf(jwk) {
  if (!signers.has(jwk.n)) signers.set(jwk.n, hbsig.createSigner(jwk, "http://localhost"));
  return signers.get(jwk.n);
}

function fits(keyid, data, signature) {
  if (keyid === "constant:ao") {
    return crypto.createHmac("sha256", keyid).update(data).digest().equals(signature);
  }
  const n = Buffer.from(keyid.replace(/^publickey:/, ""), "base64").toString("base64url");
  const key = crypto.createPublicKey({ key: { kty: "RSA", n, e: "AQAB" }, format: "jwk" });
  return crypto.verify("sha512", data, { key, padding: crypto.constants.RSA_PKCS1_PSS_PADDING }, signature);
}

serve({
  async sign(request) {
    const made = await signerOf(request.jwk)(value(request.fields), { path: request.signPath });
    const body = made.body === undefined ? "" : Buffer.from(await new Response(made.body).arrayBuffer()).toString("base64");
    return { method: made.method, url: made.url, headers: made.headers, body, id: hbsig.rsaid(made.headers) };
  },
  async verify(request) {
    const found = {};
    const keyLookup = async ({ keyid }) => ({
      algs: ["rsa-pss-sha512", "hmac-sha256"],
      verify: async (data, signature) => (found[keyid] = fits(keyid, data, signature)),
    });
    await httpbis.verifyMessage({ keyLookup }, { method: "POST", url: "http://localhost/", headers: request.headers });
    return found;
  },
  // Whether hbsig's base over these fields, ended by this parameter line, is what was signed.
  async rebuilt(request) {
    const base = httpbis.createSignatureBase({ fields: request.fields }, { headers: request.headers });
    base.push(['"@signature-params"', [request.params]]);
    return fits(request.keyid, Buffer.from(httpbis.formatSignatureBase(base)), bytes(request.signature));
  },
  async exported(request) {
    const { valid, verified } = await hbsig.verify({ method: "POST", url: "http://localhost/", headers: request.headers });
    return { valid, verified };
  },
  async address(request) {
    return hbsig.toAddr(request.jwk.n);
  },
});
