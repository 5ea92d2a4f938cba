// http-message-signatures (RFC 9421) as signer and reader of HTTP signatures. Protocol: lines.cjs.
//
// verifyMessage looks at every signature and returns the result of the last one alone, so `verify`
// notes each result by the signature's keyid.

"use strict";

const crypto = require("node:crypto");
const { library, serve } = require("./lines.cjs");

const { createSigner, createVerifier, httpbis } = library("http-message-signatures");

const RSA = "rsa-pss-sha512";
const HMAC = "hmac-sha256";

function verifierOf(keyid) {
  if (keyid === "constant:ao") return createVerifier(keyid, HMAC);
  const n = Buffer.from(keyid.replace(/^publickey:/, ""), "base64").toString("base64url");
  return createVerifier(crypto.createPublicKey({ key: { kty: "RSA", n, e: "AQAB" }, format: "jwk" }), RSA);
}

serve({
  async sign(request) {
    const key = createSigner(crypto.createPrivateKey({ key: request.jwk, format: "jwk" }), RSA, request.keyid);
    const { name, fields, params } = request;
    const paramValues = { ...request.values, created: new Date(1700000000000) };
    const message = { method: request.method, url: request.url, headers: request.headers };
    return (await httpbis.signMessage({ key, name, fields, params, paramValues }, message)).headers;
  },
  async verify(request) {
    const found = {};
    const keyLookup = async ({ keyid }) => ({
      algs: [RSA, HMAC],
      verify: async (data, signature) => (found[keyid] = await verifierOf(keyid)(data, signature)),
    });
    await httpbis.verifyMessage({ keyLookup }, { method: "POST", url: request.url, headers: request.headers });
    return found;
  },
});
