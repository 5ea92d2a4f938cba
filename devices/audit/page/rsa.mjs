// RSA-PSS signatures, by the browser's own WebCrypto.

import { Unchecked, base64url, bytesOf, hexOf, textOf } from "./bytes.mjs";

export async function verifyPss(modulus, signature, text, hash) {
  // Whether an RSA-PSS signature fits, whatever the length of its salt.
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) throw new Unchecked("RSA signatures: browsers give WebCrypto only to pages from localhost or over https");
  const bare = modulus.replace(/^\0+/, "");
  if (bare.length < 128 || bare.length > 1024 || signature.length !== bare.length) return false;
  const key = { kty: "RSA", e: "AQAB", n: base64url(bare) };
  try {
    const known = await subtle.importKey("jwk", key, { name: "RSA-PSS", hash }, false, ["verify"]);
    for (const saltLength of [hash === "SHA-512" ? 64 : 32, await saltOf(bare, signature, hash)]) {
      if (await subtle.verify({ name: "RSA-PSS", saltLength }, known, bytesOf(signature), bytesOf(text))) return true;
    }
  } catch {
    return false;
  }
  return false;
}

async function saltOf(modulus, signature, hash) {
  // The length of the salt in a signature: what stands between its zeros and its digest (RFC 8017, 9.1.2).
  const n = BigInt("0x" + hexOf(modulus));
  let power = BigInt("0x" + hexOf(signature)) % n;
  const once = power;
  for (let bit = 0; bit < 16; bit++) power = (power * power) % n;
  const opened = ((power * once) % n).toString(16).padStart(2 * modulus.length, "0");
  const raw = opened.replace(/../g, (pair) => String.fromCharCode(parseInt(pair, 16)));
  const size = hash === "SHA-512" ? 64 : 32;
  const digest = raw.slice(-size - 1, -1);
  const masked = raw.slice(0, -size - 1);
  let mask = "";
  for (let count = 0; mask.length < masked.length; count++) {
    const counter = String.fromCharCode(0, 0, count >> 8, count & 255);
    mask += textOf(new Uint8Array(await crypto.subtle.digest(hash, bytesOf(digest + counter))));
  }
  let at = (masked.charCodeAt(0) ^ mask.charCodeAt(0)) & 127 ? 0 : 1; // its first bit is not part of it
  while (at > 0 && at < masked.length && masked.charCodeAt(at) === mask.charCodeAt(at)) at++;
  return Math.max(masked.length - at - 1, 0);
}
