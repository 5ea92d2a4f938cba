// Messages as the text that IDs and signatures are made of: typed values as texts, then headers and a body.

import { Refused, accumulate, base64url, humanId, isId, nativeId, sha256 } from "./bytes.mjs";
import { Atom, Float, Link, Message } from "./canonical.mjs";

export const MAX_HEADER = 4096;
export const MAX_DEPTH = 64;
const MASK = (1n << 64n) - 1n;
const DERIVED = ["method", "target-uri", "authority", "scheme", "request-target", "path", "query", "query-param"];
const SIGNED_PARAMETERS = ["alg", "bundle", "created", "expires", "keyid", "nonce", "tag"];

// -- the order of keys: bytewise up to 32 of them, by a 64-bit hash above --

export function orderedKeys(keys) {
  const found = [...keys].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  if (found.length <= 32) return found;
  const ranked = found.map((key) => [rank(key), key]);
  return ranked.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)).map(([, key]) => key);
}

function rank(key) {
  // Nibbles from the lowest up, each from high to low.
  let hash = trieHash(key);
  let out = "";
  for (let n = 0; n < 16; n++, hash >>= 4n) out += (15 - Number(hash & 15n)).toString(16);
  return out;
}

function trieHash(key) {
  const C1 = 0x87c37b91114253d5n;
  const C2 = 0x4cf5ad432745937fn;
  const rot = (x, n) => ((x << n) | (x >> (64n - n))) & MASK;
  let a = 0n;
  let b = 0n;
  let t = 0n;
  const little = (text) => [...text].reverse().reduce((sum, one) => (sum << 8n) | BigInt(one.charCodeAt(0)), 0n);
  const blockA = (x) => {
    a ^= (rot((x * C1) & MASK, 31n) * C2) & MASK;
    a = (((rot(a, 27n) + b) & MASK) * 5n + 0x52dce729n) & MASK;
    t += 1n;
  };
  const blockB = (x) => {
    b ^= (rot((x * C2) & MASK, 33n) * C1) & MASK;
    b = (((rot(b, 31n) + a) & MASK) * 5n + 0x38495ab5n) & MASK;
    t += 1n;
  };
  blockA(11n);
  blockB(8n * BigInt(key.length));
  const whole = key.length - (key.length % 16);
  for (let at = 0; at < whole; at += 16) {
    blockA(little(key.slice(at, at + 8)));
    blockB(little(key.slice(at + 8, at + 16)));
  }
  const tail = key.slice(whole);
  if (tail.length > 8) b ^= (rot((little(tail.slice(8)) * C2) & MASK, 33n) * C1) & MASK;
  if (tail) a ^= (rot((little(tail.slice(0, 8)) * C1) & MASK, 31n) * C2) & MASK;
  const mix = (h) => {
    h ^= h >> 33n;
    h = (h * 0xff51afd7ed558ccdn) & MASK;
    h ^= h >> 33n;
    h = (h * 0xc4ceb9fe1a85ec53n) & MASK;
    return h ^ (h >> 33n);
  };
  a ^= t;
  b ^= t;
  a = (a + b) & MASK;
  b = (b + a) & MASK;
  a = mix(a);
  b = mix(b);
  a = (a + b) & MASK;
  return a ^ ((b + a) & MASK);
}

// -- typed values to texts --

export function escapeKey(key) {
  return key.replace(/[^a-z0-9._/?&-]/g, (one) => "%" + one.charCodeAt(0).toString(16).padStart(2, "0"));
}

export function atomText(name) {
  if (/^[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*$/.test(name)) return name;
  if (!/^[\x20-\x7e]*$/.test(name)) throw new Refused("encoding", "an atom's name must be printable ASCII");
  return '"' + name.replace(/\\/g, "\\\\").replace(/"/g, '\\"') + '"';
}

function scalar(value) {
  // The type's name and the text of a value that has both; null for anything nested.
  if (typeof value === "string") return ["", value];
  if (typeof value === "bigint") return ["integer", value.toString()];
  if (typeof value === "boolean") return ["atom", value ? "true" : "false"];
  if (value instanceof Atom) return ["atom", atomText(value.name)];
  if (value instanceof Float) return ["float", value.text];
  return null;
}

export function tabmOf(item, link, depth = 0) {
  // A map of texts. Nested messages become their IDs by `link`, or, without it, maps in their place.
  if (depth > MAX_DEPTH) throw new Refused("encoding", `a message is nested deeper than ${MAX_DEPTH}`);
  const isList = Array.isArray(item);
  const items = isList ? new Map(item.map((one, at) => [String(at + 1), one])) : item.items;
  const out = new Map();
  const types = new Map(isList ? [[".", "list"]] : []);
  for (const [key, value] of items) {
    if (key === "commitments" || key === "unsigned_id" || key === "content-digest" || key.startsWith("priv")) continue;
    if (items.has(key + "+link")) throw new Refused("encoding", "a key stands beside its link");
    const known = scalar(value);
    if (known) {
      out.set(key, known[1]);
      if (known[0]) types.set(key, known[0]);
    } else if (value instanceof Link) out.set(key + "+link", value.id);
    else if (value === null) throw new Refused("encoding", "a message holds nothing under a key");
    else if (link) out.set(key + "+link", link(value));
    else out.set(key, tabmOf(value, null, depth + 1));
  }
  if (types.size) {
    const entries = [...types.keys()].sort().map((key) => `${escapeKey(key)}="${types.get(key)}"`);
    out.set("ao-types", entries.join(", "));
  }
  if (!isList && item.commitments.size) {
    const found = [...item.commitments].map(([name, one]) => [name, tabmOf(one, null, depth + 2)]);
    out.set("commitments", new Map(found));
  }
  return out;
}

// -- headers and body --

const digestHeader = (body) => `sha-256=:${btoa(sha256(body))}:`;

export function httpHeaders(tabm) {
  // The header lines that stand for all of a message; a body stands in them by its digest.
  const inline = inlineKey(tabm);
  const headers = new Map();
  const entries = new Map();
  for (const [key, value] of tabm) {
    if (key === "commitments" || key.startsWith("priv")) continue;
    const name = isId(key) ? escapeKey(key) : key;
    if (typeof value !== "string" || value.length > MAX_HEADER || key === inline || key === "body") entries.set(name, value);
    else headers.set(name, value);
  }
  if (inline === "data" && !tabm.has("ao-body-key")) headers.set("ao-body-key", "data");
  if (!entries.size) return headers;
  const only = entries.size === 1 && entries.has(inline) ? tabm.get(inline) : null;
  if (typeof only === "string") {
    headers.set("content-digest", digestHeader(only));
    return headers;
  }
  for (const name of entries.keys()) refuseStray(name.split("/")[0]);
  const made = multipart(entries, inline);
  headers.set("content-type", made.type);
  headers.set("content-digest", digestHeader(made.body));
  return headers;
}

function refuseStray(name) {
  // A name is read as an escaped one, so that a percent sign must be part of an escape.
  if (/%(?![0-9a-fA-F]{2})/.test(name)) throw new Refused("encoding", "a % in a key must be followed by two hex digits");
}

function inlineKey(tabm) {
  const named = tabm.get("ao-body-key");
  if (typeof named === "string") return named;
  return tabm.has("data") && !tabm.has("body") ? "data" : "body";
}

function multipart(entries, inline) {
  const parts = new Map();
  for (const key of orderedKeys(entries.keys())) {
    const found = entries.get(key);
    if (typeof found === "string") parts.set(key, found);
    else flatten(key, found, parts, 1);
  }
  const texts = orderedKeys(parts.keys()).map((name) => part(name, parts.get(name), inline));
  const boundary = base64url(sha256(texts.join("\r\n")));
  const body = texts.map((one) => `--${boundary}\r\n${one}`).join("\r\n") + `\r\n--${boundary}--`;
  return { type: `multipart/form-data; boundary="${boundary}"`, body };
}

function flatten(path, tabm, parts, depth) {
  if (depth > MAX_DEPTH) throw new Refused("encoding", `a message is nested deeper than ${MAX_DEPTH}`);
  if (!tabm.size) {
    parts.set(path, new Map([["ao-types", "empty-message"]]));
    return;
  }
  const own = new Map();
  for (const key of orderedKeys(tabm.keys())) {
    const found = tabm.get(key);
    if (typeof found !== "string") flatten(`${path}/${key}`, found, parts, depth + 1);
    else if (found.length > MAX_HEADER || (found.includes("\r\n") && key !== "body")) parts.set(`${path}/${key}`, found);
    else own.set(key, found);
  }
  if (own.size) parts.set(path, own);
}

function part(name, found, inline) {
  const isText = typeof found === "string";
  const lines = new Map();
  let body = isText ? found : "";
  if (!isText) {
    if (found.size === 1 && found.has("body")) name += "/body";
    for (const [key, value] of found) if (key !== "body" && typeof value === "string") lines.set(key, value);
    body = typeof found.get("body") === "string" ? found.get("body") : "";
  }
  lines.set("content-disposition", name === inline ? "inline" : `form-data;name="${name}"`);
  const head = orderedKeys(lines.keys()).map((key) => `${key}: ${lines.get(key)}`).join("\r\n");
  return body || isText ? `${head}\r\n\r\n${body}` : head;
}

// -- what a signature covers --

const quoted = (text) => '"' + text.replace(/\\/g, "\\\\").replace(/"/g, '\\"') + '"';

export function signatureBase(tabm, names, parameters) {
  // The text over these keys (all without `names`), and the line of parameters that ends it.
  let chosen = tabm;
  if (names) {
    chosen = new Map();
    for (const name of names) {
      const key = tabm.has(name) ? name : name + "+link";
      if (tabm.has(key)) chosen.set(key, tabm.get(key));
    }
  }
  const headers = httpHeaders(chosen);
  const components = orderedKeys(headers.keys());
  components.forEach(refuseStray);
  const lines = components.map((name) => `"${name}": ${headers.get(name)}`);
  const listed = components.map((name) => {
    const bare = name.replace(/^@/, "");
    return quoted(DERIVED.includes(bare) ? "@" + bare : bare);
  });
  return `${lines.join("\n")}\n"@signature-params": (${listed.join(" ")})${parameters}`;
}

export function parametersOf(fields) {
  let out = "";
  for (const name of SIGNED_PARAMETERS) {
    const text = fields.get(name === "alg" ? "type" : name);
    if (typeof text !== "string") continue;
    if (/[\x00-\x1f\x7f]/.test(text)) throw new Refused("signature", `the commitment's '${name}' holds a control character`);
    const bare = (name === "created" || name === "expires") && /^[0-9]+$/.test(text);
    out += `;${name}=${bare ? text : quoted(text)}`;
  }
  return out;
}

// -- the hashpath --

export function referenceOf(request, hashpathId) {
  // What stands for a request in a hashpath: its path if it is nothing else, else its ID.
  const path = request.items.get("path");
  const keys = [...request.items.keys()];
  const bare = !request.commitments.size && keys.every((key) => key === "path" || key === "hashpath");
  if (path !== undefined && bare) {
    const first = firstPart(path);
    if (first !== null) return humanId(first);
  }
  return humanId(hashpathId(request));
}

function firstPart(path) {
  if (typeof path === "string") return path.replace(/^\/+|\/+$/g, "").split("/")[0];
  const plain = (one) => (typeof one === "string" ? one : scalar(one)?.[1]);
  if (Array.isArray(path)) {
    if (path.every((one) => typeof one === "string")) {
      const found = path.flatMap((one) => one.split("/")).filter(Boolean);
      return found.length ? found[0] : null;
    }
    const texts = path.map(plain);
    if (texts.includes(undefined)) throw new Refused("hashpath", "a list that holds a list or map is no path");
    return texts.join("/");
  }
  if (path instanceof Message || path instanceof Link) throw new Refused("hashpath", "a map is no path");
  return path instanceof Atom ? path.name : plain(path);
}

export function extendHashpath(previous, reference, algorithm) {
  const [first, rest, more] = [...previous.split("/"), undefined, undefined];
  if (algorithm !== "sha-256-chain" && algorithm !== "accumulate-256") throw new Refused("hashpath", "the hashpath-alg is unknown");
  if (rest === undefined) return `${previous}/${reference}`;
  if (more !== undefined) throw new Refused("hashpath", "a hashpath has two parts at most");
  const raw = (text) => (text.length === 43 ? nativeId(text) : text);
  let made;
  if (algorithm === "sha-256-chain") made = sha256(nativeId(first) + raw(rest));
  else made = accumulate(nativeId(first), raw(rest));
  return `${base64url(made)}/${reference}`;
}
