// Bytes as text: one character for each byte. So joining, comparing and searching are the language's own.

const URL_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const VALUES = new Map([...URL_LETTERS].map((letter, at) => [letter, at]));
VALUES.set("+", 62).set("/", 63);

export class Refused extends Error {
  // What does not hold, under the rule's name.
  constructor(rule, text, more = {}) {
    super(text);
    this.rule = rule;
    this.more = more;
  }
}

export class Unchecked extends Error {
  // What cannot be checked in a browser, by name.
}

export function textOf(bytes) {
  let out = "";
  for (let at = 0; at < bytes.length; at += 8192) out += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return out;
}

export function bytesOf(text) {
  const out = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) out[at] = text.charCodeAt(at);
  return out;
}

export function shownText(text) {
  // What a person reads: UTF-8 where it is, and nothing that cannot be seen.
  const read = new TextDecoder("utf-8").decode(bytesOf(text));
  return read.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (one) => (one === "\n" ? one : `\\u{${one.codePointAt(0).toString(16)}}`));
}

export function base64url(text) {
  return btoa(text).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

export function unbase64(text) {
  const bare = text.replace(/=+$/, "");
  if (bare.length % 4 === 1) throw new Refused("encoding", "not base64: an impossible length");
  let out = "";
  let held = 0;
  let bits = 0;
  for (const letter of bare) {
    const value = VALUES.get(letter);
    if (value === undefined) throw new Refused("encoding", "not base64: another character");
    held = ((held << 6) | value) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out += String.fromCharCode((held >> bits) & 255);
    }
  }
  return out;
}

export function hexOf(text) {
  return [...text].map((one) => one.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}

// -- SHA-256 (FIPS 180-4), here because most of what is hashed is short and there is much of it --

const ROUNDS = new Uint32Array(64);
const START = new Uint32Array(8);
{
  const fraction = (root) => Math.floor((root - Math.floor(root)) * 4294967296);
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  primes.forEach((prime, at) => (ROUNDS[at] = fraction(Math.cbrt(prime))));
  primes.slice(0, 8).forEach((prime, at) => (START[at] = fraction(Math.sqrt(prime))));
}

const WORDS = new Int32Array(64);

function block(state, view, at) {
  const w = WORDS;
  for (let t = 0; t < 16; t++) w[t] = view.getInt32(at + 4 * t);
  for (let t = 16; t < 64; t++) {
    const x = w[t - 15];
    const y = w[t - 2];
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    w[t] = (w[t - 16] + s0 + w[t - 7] + s1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const one = (h + s1 + ((e & f) ^ (~e & g)) + ROUNDS[t] + w[t]) | 0;
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + one) | 0;
    d = c;
    c = b;
    b = a;
    a = (one + two) | 0;
  }
  const made = [a, b, c, d, e, f, g, h];
  for (let at = 0; at < 8; at++) state[at] = (state[at] + made[at]) | 0;
}

export function sha256(text) {
  const size = text.length;
  const padded = new Uint8Array((((size + 8) >> 6) + 1) << 6);
  for (let at = 0; at < size; at++) padded[at] = text.charCodeAt(at);
  padded[size] = 128;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(size / 536870912));
  view.setUint32(padded.length - 4, (size << 3) >>> 0);
  const state = Int32Array.from(START);
  for (let at = 0; at < padded.length; at += 64) block(state, view, at);
  let out = "";
  for (const word of state) out += String.fromCharCode(word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255);
  return out;
}

export function hmac256(key, text) {
  const short = (key.length > 64 ? sha256(key) : key).padEnd(64, "\0");
  const pad = (mask) => [...short].map((one) => String.fromCharCode(one.charCodeAt(0) ^ mask)).join("");
  return sha256(pad(0x5c) + sha256(pad(0x36) + text));
}

// -- IDs --

export function nativeId(text) {
  // 43 characters are 32 bytes; anything else stays.
  return text.length === 43 ? unbase64(text) : text;
}

export function humanId(text) {
  return text.length === 32 ? base64url(text) : text;
}

export function isId(text) {
  return text.length === 32 || text.length === 42 || text.length === 43;
}

export function accumulate(one, two) {
  if (one.length !== 32 || two.length !== 32) throw new Refused("encoding", "accumulate-256 takes two 32-byte values");
  const sum = (BigInt("0x" + hexOf(one)) + BigInt("0x" + hexOf(two))) % (1n << 256n);
  const hex = sum.toString(16).padStart(64, "0");
  return hex.replace(/../g, (pair) => String.fromCharCode(parseInt(pair, 16)));
}

export function sumIds(names) {
  if (names.length < 2) return names[0] ?? "";
  return base64url(names.map((name) => unbase64(name).padStart(32, "\0").slice(-32)).reduce(accumulate));
}
