// Signatures of ANS-104 items: the item is made again from the message, and its deep hash is what was signed.

import { Refused, Unchecked, base64url, bytesOf, hexOf, sha256, textOf, unbase64 } from "./bytes.mjs";
import { Message } from "./canonical.mjs";
import { verifyPss } from "./rsa.mjs";

const KINDS = new Map([
  ["rsa-pss-sha256", { number: 1, signature: 512, owner: 512 }],
  ["ed25519-sha512", { number: 2, signature: 64, owner: 32 }],
  ["ethereum", { number: 3, signature: 65, owner: 65 }],
  ["solana", { number: 4, signature: 64, owner: 32 }],
  ["typed_ethereum", { number: 7, signature: 65, owner: 42 }],
]);
const HIDDEN = ["ao-data-key", "commitments", "unsigned_id", "content-digest"];
const [MAX_TAGS, MAX_NAME, MAX_VALUE] = [128, 1024, 3072];

const misfit = (text) => new Refused("signature", text);

function itemKey(fields) {
  // The kind, owner and signature of a commitment; null if they are malformed.
  const kind = KINDS.get(fields.get("type") ?? "");
  const keyid = fields.get("keyid") ?? "";
  if (!kind || !keyid.startsWith("publickey:")) return null;
  try {
    const owner = unbase64(keyid.slice(10));
    const signature = unbase64(fields.get("signature") ?? "");
    return owner.length === kind.owner && signature.length === kind.signature ? { ...kind, owner, signature } : null;
  } catch {
    return null;
  }
}

export function itemCommitter(fields) {
  // The address of the key; null if it is malformed. Ethereum's takes a hash that browsers do not have.
  const key = itemKey(fields);
  if (!key) return null;
  if (key.number === 4) return base58(key.owner);
  return key.number <= 2 ? base64url(sha256(key.owner)) : (fields.get("committer") ?? fields.get("keyid"));
}

function base58(text) {
  const letters = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
  let out = "";
  for (let number = BigInt("0x0" + hexOf(text)); number; number /= 58n) out = letters[Number(number % 58n)] + out;
  return "1".repeat(/^\0*/.exec(text)[0].length) + out;
}

export async function checkItem(one, fields, committed, tabm) {
  // Refuses a signed item that is not what was signed.
  const key = itemKey(fields);
  if (!key) throw misfit("an ANS-104 commitment has no type or key of its kind");
  if (fields.get("bundle") === "true") throw new Unchecked("ANS-104 bundles");
  const item = original(one) ? fromTags(one, fields, committed, tabm) : fromKeys(fields, committed, tabm);
  if (item.tags.length > MAX_TAGS || item.tags.some(([name, value]) => name.length > MAX_NAME || value.length > MAX_VALUE)) {
    throw misfit("an item has too many tags, or one that is too long");
  }
  const parts = ["dataitem", "1", String(key.number), key.owner, item.target, item.anchor, encodeTags(item.tags), item.data];
  if (!(await signedBy(key, await deepHash(parts)))) throw misfit("an ANS-104 signature does not fit the message");
}

async function signedBy(key, digest) {
  if (key.number === 1) return verifyPss(key.owner, key.signature, digest, "SHA-256");
  if (key.number === 3 || key.number === 7) throw new Unchecked("Ethereum signatures");
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) throw new Unchecked("Ed25519 signatures: browsers give WebCrypto only to pages from localhost or over https");
  let known;
  try {
    known = await subtle.importKey("raw", bytesOf(key.owner), { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") throw new Unchecked("Ed25519 signatures: this browser does not know them");
    return false;
  }
  const text = key.number === 4 ? hexOf(digest) : digest;
  return subtle.verify({ name: "Ed25519" }, known, bytesOf(key.signature), bytesOf(text));
}

// -- the item --

const original = (one) => one.get("original-tags") !== undefined;

function fixedField(fields, name) {
  const text = fields.get(name);
  if (text === undefined) return "";
  const raw = text.length === 32 ? text : text.length === 43 ? unbase64(text) : "";
  if (raw.length !== 32) throw misfit(`${name} must be 32 bytes in base64url`);
  return raw;
}

function fixedFields(fields) {
  return { target: fixedField(fields, "field-target"), anchor: fixedField(fields, "field-anchor") };
}

function fromKeys(fields, committed, tabm) {
  const { target, anchor } = fixedFields(fields);
  const keys = committed.map((name) => {
    const key = tabm.has(name) ? name : name + "+link";
    if (!tabm.has(key)) throw misfit("a committed key is missing");
    if (name !== lower(name)) throw misfit("a committed key has capitals, and no tag says so");
    return key;
  });
  agreeOnTypes(committed, tabm, tabm.get("ao-types") ?? "");
  const named = keys.includes("ao-data-key") ? tabm.get("ao-data-key") : undefined;
  const hasData = keys.includes("data") || keys.includes("data+link");
  const dataKey = named ?? (!hasData && keys.includes("body") ? "body" : "data");
  const tags = dataKey === "data" ? [] : [["ao-data-key", dataKey]];
  let data = "";
  for (const key of keys) {
    const value = tabm.get(key);
    if (key === "ao-data-key") continue;
    if ((key === "target" && target) || (key === "anchor" && anchor)) {
      if (value !== base64url(key === "target" ? target : anchor)) throw misfit(`${key} is not what was signed`);
    } else if (key === dataKey) data = value;
    else tags.push([key, value]);
  }
  return { target, anchor, tags, data };
}

function fromTags(one, fields, committed, tabm) {
  const { target, anchor } = fixedFields(fields);
  const tags = numbered(one.get("original-tags")).map((entry) => {
    const [name, value] = entry instanceof Message ? [entry.get("name"), entry.get("value")] : [];
    if (typeof name !== "string" || typeof value !== "string") throw misfit("each of original-tags has a name and a value");
    return [name, value];
  });
  const shown = new Map();
  for (const [raw, value] of tags) {
    const name = lower(raw);
    if (name === "data" || HIDDEN.includes(name.replace(/\+link$/, "")) || name.startsWith("priv")) continue;
    if ((name === "target" && target) || (name === "anchor" && anchor)) continue;
    if (shown.has(name)) throw new Unchecked("ANS-104 items in which a tag stands twice");
    shown.set(name, value);
  }
  if (target) shown.set("target", base64url(target));
  if (anchor) shown.set("anchor", base64url(anchor));
  const dataKey = tags.find(([name]) => lower(name) === "ao-data-key")?.[1] ?? "data";
  const data = committed.includes(dataKey) && !shown.has(dataKey) ? tabm.get(dataKey) : "";
  if (typeof data !== "string") throw misfit("an item's data is missing");
  agreeOnTypes(committed, tabm, shown.get("ao-types") ?? "");
  for (const name of committed) {
    if (name === "ao-types" || (name === dataKey && !shown.has(name))) continue;
    const key = tabm.has(name) ? name : name + "+link";
    if (!shown.has(key) || !sameValue(shown.get(key), tabm.get(key), typesOf(tabm.get("ao-types") ?? "").get(name))) {
      throw misfit("a committed key is not what was signed");
    }
  }
  return { target, anchor, tags, data };
}

function sameValue(theirs, ours, type) {
  if (theirs === ours) return true;
  if (type) throw new Unchecked("ANS-104 items whose typed values are written in another way than here");
  return false;
}

function agreeOnTypes(committed, tabm, theirText) {
  // A value's type must have been signed with it.
  const ours = typesOf(tabm.get("ao-types") ?? "");
  const theirs = typesOf(committed.includes("ao-types") ? theirText : "");
  for (const name of [".", ...committed]) {
    if (name !== "ao-types" && ours.get(name) !== theirs.get(name)) throw misfit("a committed key's type is not what was signed");
  }
}

function typesOf(text) {
  const found = new Map();
  for (const match of text.matchAll(/([^=, ]*)="([^"]*)"/g)) {
    const key = match[1].replace(/%([0-9a-fA-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
    found.set(lower(key), match[2].toLowerCase());
  }
  return found;
}

function numbered(found) {
  if (Array.isArray(found)) return found;
  if (!(found instanceof Message)) throw misfit("original-tags must be a list");
  const names = [...found.items.keys()].filter((key) => key !== "ao-types");
  return names.map((_, at) => found.get(String(at + 1)));
}

function lower(text) {
  let read;
  try {
    read = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytesOf(text));
  } catch {
    throw misfit("a tag's name is not UTF-8");
  }
  return textOf(new TextEncoder().encode(read.toLowerCase()));
}

// -- its bytes --

function zigzag(number) {
  let left = number * 2;
  let out = "";
  for (; left > 127; left = Math.floor(left / 128)) out += String.fromCharCode((left % 128) | 128);
  return out + String.fromCharCode(left);
}

function encodeTags(tags) {
  if (!tags.length) return "";
  const parts = tags.map(([name, value]) => zigzag(name.length) + name + zigzag(value.length) + value);
  return zigzag(tags.length) + parts.join("") + "\0";
}

async function sha384(text) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) throw new Unchecked("ANS-104 signatures: browsers give WebCrypto only to pages from localhost or over https");
  return textOf(new Uint8Array(await subtle.digest("SHA-384", bytesOf(text))));
}

async function deepHash(parts) {
  let found = await sha384(`list${parts.length}`);
  for (const part of parts) {
    const blob = await sha384((await sha384(`blob${part.length}`)) + (await sha384(part)));
    found = await sha384(found + blob);
  }
  return found;
}
