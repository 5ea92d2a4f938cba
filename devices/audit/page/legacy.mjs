// Signatures of older clients, over header lines as they were sent: the commitment holds those, and they are read again.

import { Refused, Unchecked, base64url, bytesOf, sha256, textOf, unbase64 } from "./bytes.mjs";
import { Atom, Float, Link, Message, floatText } from "./canonical.mjs";

const DERIVED_NAMES = ["method", "target-uri", "authority", "scheme", "request-target", "path", "query", "query-param"];
const UNKEPT = ["signature", "signature-input", "content-digest", "ao-body-key"];
const NOT_KEPT_OF_PARTS = ["content-disposition", "ao-body-key", "content-digest"];
const MOST_NESTED = 64;

const wrong = (text) => new Refused("signature", text);

export async function checkEnvelope(message, fields, committed, ids, fits) {
  // Refuses unless the signature fits the envelope, and what was signed there is what the message holds.
  const opened = openEnvelope(fields);
  const given = unbase64(fields.get("signature") ?? "");
  let fitted = false;
  for (const base of opened.bases) fitted ||= await fits(fields, base, given);
  if (!fitted) throw wrong("the signature does not fit its envelope");
  const digest = opened.headers.get("content-digest");
  let body = null;
  if (digest !== undefined) {
    body = opened.body || message.get(bodyKey(opened.headers));
    if (typeof body !== "string") body = null;
    if (!(await digestMatches(digest, body ?? ""))) throw wrong("the signed digest does not fit the body");
  }
  const seen = typed(httpTabm(opened.headers, body), 0);
  if (!(seen instanceof Message)) throw wrong("the signed envelope holds a list, not a message");
  const own = ids.linked(message);
  const theirs = ids.linked(seen);
  for (const name of committed) {
    if (name === "ao-types") continue;
    const key = theirs.has(name) ? name : name + "+link";
    const sameKind = key !== name || kindOf(message.get(name)) === kindOf(seen.get(name));
    if (!theirs.has(key) || own.get(key) !== theirs.get(key) || !sameKind) throw wrong("a committed key is not what was signed");
  }
}

function kindOf(value) {
  if (Array.isArray(value)) return "list";
  return value !== null && typeof value === "object" ? value.constructor.name : typeof value;
}

// -- the envelope --

function openEnvelope(fields) {
  const raw = fields.get("signature-input") ?? "";
  const text = fields.get("envelope") ?? "";
  const gap = text.indexOf("\r\n\r\n");
  const covered = coveredNames(raw);
  if (gap < 0 || !covered) throw wrong("the commitment's envelope is malformed");
  const lines = gap ? text.slice(0, gap).split("\r\n").map((line) => splitAt(line, ": ")) : [];
  const names = covered.names.map((name) => name.replace(/^@/, ""));
  if (lines.length !== names.length || lines.some(([name], at) => name !== names[at])) {
    throw wrong("the commitment's envelope does not hold what it covers");
  }
  const head = lines.map(([name, value]) => `"${name}": ${value}\n`).join("");
  const quote = (name) => '"' + name.replace(/\\/g, "\\\\").replace(/"/g, '\\"') + '"';
  const listed = names.map((name) => quote(DERIVED_NAMES.includes(name) ? "@" + name : name)).join(" ");
  const parameters = raw.slice(covered.end);
  const marked = `${head}"@signature-params": (${listed})${parameters}`;
  const plain = `${head}"@signature-params": ${raw.slice(0, covered.end)}${parameters}`;
  return { headers: new Map(lines), body: text.slice(gap + 4), bases: marked === plain ? [marked] : [marked, plain] };
}

function coveredNames(raw) {
  // The names in "(...)" with its end; null if it, or a parameter after it, is not well-formed.
  const item = /[ \t]*(?:"((?:[^"\\\x00-\x1f\x7f]|\\["\\])*)"|([A-Za-z*][^ \t()";,\x00-\x1f\x7f]*))/y;
  const parameter = /[ \t]*;[ \t]*[a-z*][a-z0-9_.*-]*(?:=(?:"(?:[^"\\\x00-\x1f\x7f]|\\["\\])*"|:[A-Za-z0-9+/=_-]*:|\?[01]|-?[0-9]{1,15}(?![0-9.])|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*))?/y;
  if (raw[0] !== "(") return null;
  const names = [];
  let at = 1;
  for (;;) {
    item.lastIndex = at;
    const match = item.exec(raw);
    if (!match) break;
    names.push(match[1] === undefined ? match[2] : match[1].replace(/\\(.)/g, "$1"));
    at = item.lastIndex;
  }
  while (raw[at] === " " || raw[at] === "\t") at++;
  if (raw[at] !== ")") return null;
  const end = at + 1;
  at = end;
  for (;;) {
    parameter.lastIndex = at;
    if (!parameter.exec(raw)) break;
    at = parameter.lastIndex;
  }
  return at === raw.length ? { names, end } : null;
}

function splitAt(text, mark) {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + mark.length)];
}

async function digestMatches(header, body) {
  const match = /(sha-256|sha-512)=:([A-Za-z0-9+/=_-]*):/.exec(header);
  if (!match) return false;
  const wanted = unbase64(match[2]);
  if (match[1] === "sha-256") return sha256(body) === wanted;
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) throw new Unchecked("digests by SHA-512: browsers give WebCrypto only to pages from localhost or over https");
  return textOf(new Uint8Array(await subtle.digest("SHA-512", bytesOf(body)))) === wanted;
}

// -- headers and body as a map of texts --

const unescapeKey = (key) => {
  if (/%(?![0-9a-fA-F]{2})/.test(key)) throw wrong("a % in a key must be followed by two hex digits");
  return key.replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
};

function bodyKey(headers) {
  return headers.get("ao-body-key") || headers.get("inline-body-key") || "body";
}

function httpTabm(headers, body) {
  if (headers.has("ao-ids")) throw new Unchecked("signed headers with ao-ids");
  if (headers.has("signature") || headers.has("signature-input")) throw new Unchecked("signatures over other signatures");
  const tabm = new Map([...headers].map(([name, value]) => [unescapeKey(name), value]));
  const inline = bodyKey(headers);
  const type = headers.get("content-type") ?? "";
  const mark = body === null ? null : /;[ \t]*boundary=(?:"([^"\\\r\n]+)"|([^ \t;",\r\n]+))/i.exec(type);
  if (mark) {
    for (const [key, value] of parts(body, mark[1] ?? mark[2], inline)) tabm.set(key, value);
    tabm.delete("content-type");
  } else if (body !== null) tabm.set(inline, body);
  for (const name of UNKEPT.slice(0, 3)) tabm.delete(name);
  if (body !== null) {
    tabm.delete("ao-body-key");
    if (headers.has("inline-body-key")) tabm.delete("inline-body-key");
  }
  return tabm;
}

function parts(body, mark, inline) {
  const opened = `--${mark}\r\n`;
  const start = body.startsWith(opened) ? 0 : body.indexOf("\r\n" + opened) + 2;
  const end = body.indexOf(`\r\n--${mark}--`, start);
  if (!body.startsWith(opened, start) || end < 0) throw wrong("the signed body does not hold its boundary");
  const inner = body.slice(start + opened.length, Math.max(end, start + opened.length));
  const out = new Map();
  for (const block of inner ? inner.split("\r\n" + opened) : []) placePart(out, block, inline);
  return out;
}

function placePart(out, block, inline) {
  const [head, body] = splitAt(block, "\r\n\r\n");
  const hasBody = block.includes("\r\n\r\n");
  const headers = new Map();
  for (const line of head.split("\r\n")) {
    if (line.includes(": ")) headers.set(unescapeKey(splitAt(line, ": ")[0]), splitAt(line, ": ")[1]);
  }
  const shown = headers.get("content-disposition") ?? "";
  const named = /;[ \t]*name="((?:[^"\\]|\\.)*)"/.exec(shown);
  if (!named && !shown.startsWith("inline")) throw wrong("a signed part has no name");
  const path = (named ? unescapeKey(named[1]) : inline).split("/");
  const kept = new Map([...headers].filter(([key]) => !NOT_KEPT_OF_PARTS.includes(key)));
  let value = kept;
  if (!kept.size) value = hasBody ? body : new Map();
  else if (kept.size === 1 && kept.get("ao-types") === "empty-message" && !body) value = new Map();
  else if (body) kept.set(headers.get("ao-body-key") ?? "body", body);
  if (path.length > MOST_NESTED) throw wrong("a part's name is nested too deep");
  let at = out;
  for (const step of path.slice(0, -1)) {
    if (!at.has(step)) at.set(step, new Map());
    at = at.get(step);
    if (!(at instanceof Map)) throw wrong("a part is both a value and a map");
  }
  const last = path.at(-1);
  const old = at.get(last);
  if (old === undefined) at.set(last, value);
  else if (old instanceof Map && value instanceof Map && ![...value.keys()].some((key) => old.has(key))) {
    for (const [key, one] of value) old.set(key, one);
  } else throw wrong("two parts have the same name");
}

// -- texts to typed values --

function typed(tabm, depth) {
  if (depth > MOST_NESTED) throw wrong("a message is nested too deep");
  const types = new Map();
  for (const [key, value] of members(tabm.get("ao-types") ?? "", true)) types.set(unescapeKey(key), String(value.text ?? "").toLowerCase());
  const items = new Map();
  for (const [key, value] of tabm) {
    if (key === "ao-types" || key === "commitments" || key.startsWith("priv")) continue;
    if (key.endsWith("+link")) {
      if (tabm.has(key.slice(0, -5))) throw wrong("a key stands beside its link");
      if (!key.startsWith("priv")) items.set(key.slice(0, -5), new Link(value));
    } else if (value instanceof Map) {
      const child = typed(value, depth + 1);
      items.set(key, types.get(key) === "list" && child instanceof Message ? listIfNumbered(child) : child);
    } else items.set(key, types.has(key) ? typedText(types.get(key), value) : value);
  }
  if (types.get(".") === "list" && !tabm.has(".")) return listOf(items);
  return new Message(items, signaturesOf(tabm.get("commitments"), depth));
}

function signaturesOf(found, depth) {
  // The commitments of a part. Its ID is made of them, and that is all they are needed for here.
  if (found === undefined) return new Map();
  if (!(found instanceof Map)) throw wrong("commitments must be a map");
  const entries = [...found].map(([name, one]) => {
    if (!(one instanceof Map)) throw wrong("a commitment must be a map");
    const isRaw = typeof one.get("signature-input") === "string" && !one.has("committed");
    return isRaw && depth > 0 ? rawSignature(one) : [name, typed(one, depth + 2)];
  });
  return new Map(entries);
}

function rawSignature(one) {
  const input = /^([A-Za-z0-9*][A-Za-z0-9_.*-]*)=(\(.*)$/s.exec(one.get("signature-input"));
  const value = /^([A-Za-z0-9*][A-Za-z0-9_.*-]*)=:([A-Za-z0-9+/=_-]*):$/.exec(one.get("signature") ?? "");
  const covered = input && coveredNames(input[2]);
  const parameter = (name) => new RegExp(`;${name}="([^"\\\\]*)"`).exec(input[2].slice(covered.end))?.[1];
  const unusual = !covered || !value || value[1] !== input[1] || input[1].startsWith("comm-");
  const algorithm = unusual ? "" : (parameter("alg") ?? "rsa-pss-sha512");
  if (unusual || !algorithm.startsWith("rsa-") || !parameter("keyid")) {
    throw new Unchecked("signed messages whose parts are signed too, in an unusual form");
  }
  const raw = unbase64(value[2]);
  const fields = { "commitment-device": "httpsig@1.0", type: algorithm, keyid: parameter("keyid"), signature: base64url(raw), dialect: "D1" };
  return [base64url(raw.length === 32 ? raw : sha256(raw)), new Message(new Map(Object.entries(fields)))];
}

function listIfNumbered(child) {
  const numbers = [...child.items.keys()].every((_, at) => child.items.has(String(at + 1)));
  return numbers ? listOf(child.items) : child;
}

function listOf(items) {
  return [...items].map((_, at) => {
    if (!items.has(String(at + 1))) throw wrong("a list has a hole");
    return items.get(String(at + 1));
  });
}

function typedText(type, text) {
  if (type === "integer" && /^-?[0-9]{1,4300}$/.test(text)) return BigInt(text);
  if (type === "float" && /^[+-]?[0-9]{1,400}\.[0-9]{1,400}(?:[eE][+-]?[0-9]{1,5})?$/.test(text)) return new Float(floatText(Number(text)));
  if (type === "empty-list") return [];
  if (type === "empty-message") return new Message(new Map());
  if (type === "empty-binary") return "";
  if (type === "atom") {
    const [one, ...more] = members(text, false);
    if (more.length || !one || one[1].text === undefined) throw wrong("an atom is a token or a quoted string");
    return atomOf(one[1].text);
  }
  if (type === "list") {
    if (/^ *\(ao-type-/.test(text)) return text.split(",").map((one) => unquoted(one.replace(/^[ \t]+|[ \t]+$/g, "")));
    return members(text, false).map(([, value]) => memberValue(value));
  }
  if (type === "map") return new Message(new Map(members(text, true).map(([key, value]) => [unescapeKey(key), plainValue(value)])));
  throw wrong("a value does not fit its type");
}

function unquoted(text) {
  if (!text.startsWith("(ao-type-")) return text;
  const [name, rest] = splitAt(text.slice(9), ") ");
  if (!text.includes(") ") || name === "list" || name === "map") throw wrong("a list member does not parse");
  return name === "binary" ? rest : typedText(name.toLowerCase(), rest);
}

const atomOf = (name) => (name === "true" ? true : name === "false" ? false : new Atom(name));

function plainValue(value) {
  if (value.token !== undefined) return atomOf(value.token);
  return value.text ?? value.value;
}

function memberValue(value) {
  if (value.token === undefined && value.text?.startsWith("(ao-type-")) {
    const [name, text] = splitAt(value.text.slice(9), ") ");
    return typedText(name.toLowerCase(), text);
  }
  return plainValue(value);
}

function members(text, keyed) {
  // The members of a structured-field list or dictionary, with what each is; parameters are passed over.
  const out = [];
  let at = 0;
  const take = (pattern) => {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match) at = pattern.lastIndex;
    return match;
  };
  while (at < text.length) {
    const key = keyed ? take(/([A-Za-z0-9*._%/?&-]+)(=?)/y) : ["", "", "="];
    if (!key) throw wrong("a structured field does not parse");
    out.push([key[1], key[2] ? bare(take) : { value: true }]);
    take(/(?:;[ ]*[a-z*][a-z0-9_.*-]*(?:=(?:"(?:[^"\\]|\\["\\])*"|[^;, \t"]+))?)+/y);
    if (at < text.length && !take(/[ \t]*,[ \t]*(?=.)/sy)) throw wrong("a structured field does not parse");
  }
  return out;
}

function bare(take) {
  let match = take(/"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"/y);
  if (match) return { text: match[1].replace(/\\(.)/g, "$1") };
  match = take(/-?[0-9]{1,12}\.[0-9]{1,3}(?![0-9])/y);
  if (match) return { value: new Float(floatText(Number(match[0]))) };
  match = take(/-?[0-9]+(?![.0-9])/y);
  if (match) return { value: BigInt(match[0]) };
  match = take(/:([A-Za-z0-9+/=]*):/y);
  if (match) return { value: unbase64(match[1]) };
  match = take(/\?([01])/y);
  if (match) return { value: match[1] === "1" };
  match = take(/[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*/y);
  if (match) return { token: match[0], text: match[0] };
  throw wrong("a structured field does not parse");
}
