// IDs of messages, and whether their signatures are genuine. Nothing that a commitment claims is believed.

import { checkItem, itemCommitter } from "./ans104.mjs";
import { Refused, Unchecked, base64url, hmac256, nativeId, sha256, sumIds, unbase64 } from "./bytes.mjs";
import { Link, Message } from "./canonical.mjs";
import { MAX_HEADER, parametersOf, signatureBase, tabmOf } from "./encoding.mjs";
import { checkEnvelope } from "./legacy.mjs";
import { verifyPss } from "./rsa.mjs";

const CONSTANT = "constant:ao";
const HTTPSIG = "httpsig@1.0";
const REBUILT = [HTTPSIG, "http-auth@1.0", "cookie@1.0", "secret@1.0"];
const UNSIGNED = `;alg="hmac-sha256";keyid="${CONSTANT}"`;

// -- what one commitment says of itself --

export function fieldsOf(one) {
  if (!one.memo.has("fields")) {
    const texts = [...tabmOf(one, null)].filter(([key, value]) => typeof value === "string" && key !== "ao-types");
    one.memo.set("fields", new Map(texts));
  }
  return one.memo.get("fields");
}

export function deviceOf(one) {
  return fieldsOf(one).get("commitment-device") ?? HTTPSIG;
}

export function committedOf(one) {
  let found = one.get("committed") ?? [];
  if (found instanceof Message) {
    const names = [...found.items.keys()].filter((key) => key.length < 10 && /^[0-9]+$/.test(key));
    found = names.sort((a, b) => Number(a) - Number(b)).map((key) => found.get(key));
  }
  if (!Array.isArray(found)) throw new Refused("signature", "a commitment's 'committed' must be a list of key names");
  return found.map((name) => {
    if (typeof name !== "string") return name?.name ?? String(name); // no key has such a name
    return name.replace(/\+link$/, "");
  });
}

function publicKey(keyid) {
  const at = keyid.indexOf(":");
  if (at >= 0 && keyid.slice(0, at) !== "publickey") return null;
  return unbase64(keyid.slice(at + 1));
}

export function committerOf(one) {
  // The address behind a commitment's key; null for an unsigned one.
  const fields = fieldsOf(one);
  const keyid = fields.get("keyid") ?? "";
  const type = fields.get("type") ?? "";
  if (deviceOf(one) === "ans104@1.0") return type === "unsigned-sha256" ? null : itemCommitter(fields);
  if (keyid.startsWith("secret:")) return keyid.slice(7);
  if (!keyid || keyid.startsWith("constant:") || type.startsWith("hmac-")) return null;
  try {
    const modulus = publicKey(keyid);
    return modulus === null ? null : base64url(modulus.length === 32 ? modulus : sha256(modulus));
  } catch {
    return null;
  }
}

// -- IDs --

export class Ids {
  // The IDs of messages whose links lead into one set of messages.
  constructor(load) {
    this.load = load;
    this.room = 100000; // messages that share parts can mean far more than they hold
  }

  linked(message) {
    if (!message.memo.has("linked")) {
      message.memo.set("linked", tabmOf(new Message(message.items), (child) => this.signed(child)));
    }
    return message.memo.get("linked");
  }

  whole(item, depth = 0) {
    // The message with what its links name in their place.
    if (depth > 64) throw new Refused("encoding", "a message is nested deeper than 64");
    if (item instanceof Link) {
      if (this.room-- <= 0) throw new Refused("encoding", "a message holds too many parts");
      const found = this.load(item.id);
      return found === null ? item : this.whole(found, depth + 1);
    }
    if (Array.isArray(item)) return item.map((one) => this.whole(one, depth + 1));
    if (!(item instanceof Message)) return item;
    const items = [...item.items].map(([key, value]) => [key, this.whole(value, depth + 1)]);
    return new Message(new Map(items), item.commitments);
  }

  tabm(message, bundle) {
    return bundle ? tabmOf(new Message(this.whole(message).items), null) : this.linked(message);
  }

  content(item) {
    // The unsigned ID over everything.
    if (typeof item === "string") return base64url(sha256(item));
    if (item instanceof Link) return item.id;
    if (Array.isArray(item)) return this.mac(tabmOf(item, (child) => this.signed(child)), null, UNSIGNED, CONSTANT);
    if (!(item instanceof Message)) throw new Refused("message-id", "a number or an atom has no ID");
    if (!item.memo.has("content")) item.memo.set("content", this.mac(this.linked(item), null, UNSIGNED, CONSTANT));
    return item.memo.get("content");
  }

  mac(tabm, names, parameters, key) {
    return base64url(hmac256(key, signatureBase(tabm, names, parameters)));
  }

  unsigned(item) {
    return this.over(item, false);
  }

  signed(item) {
    return this.over(item, true);
  }

  over(item, signers) {
    if (!(item instanceof Message) || !item.commitments.size) return this.content(item);
    const known = signers ? "signed" : "unsigned";
    if (!item.memo.has(known)) {
      const names = this.selected(item, signers).map((name) => this.own(item, name));
      item.memo.set(known, names.length ? sumIds(names) : this.content(item));
    }
    return item.memo.get(known);
  }

  selected(item, signers) {
    const all = [...item.commitments];
    const signed = all.filter(([, one]) => committerOf(one)).map(([name]) => name);
    if (signers && signed.length) return signed;
    return all.filter(([, one]) => !committerOf(one) && deviceOf(one) === HTTPSIG).map(([name]) => name);
  }

  own(item, name) {
    // A commitment's ID, from its signature, or from the content if it is unsigned.
    const one = item.commitments.get(name);
    const fields = fieldsOf(one);
    if (committerOf(one) === null && REBUILT.includes(deviceOf(one)) && !fields.has("dialect")) {
      const names = committedOf(one);
      const key = fields.get("keyid") ?? CONSTANT;
      const bundle = fields.get("bundle") === "true";
      const found = this.mac(this.tabm(item, bundle), names, parametersOf(fields), key);
      if (found === name || [...item.items.keys()].every((own) => names.includes(own))) return found;
      return this.mac(this.tabm(onlyKeys(item, names), bundle), names, parametersOf(fields), key);
    }
    return signatureId(unbase64(fields.get("signature") ?? ""));
  }

  hashpath(item) {
    // Signatures and content together: what hashpaths start from and name requests by.
    if (!(item instanceof Message) || !item.commitments.size) return this.content(item);
    const everything = this.content(item);
    const signed = [...item.commitments].filter(([, one]) => committerOf(one));
    const parts = signed.map(([name]) => this.own(item, name));
    const unsigned = new Set(this.selected(item, false).map((name) => this.own(item, name)));
    const partial = [...unsigned].filter((name) => name !== everything).sort();
    if (!signed.length || partial.length) return sumIds([...parts, ...(partial.length ? partial : [everything])]);
    const rebuilt = signed.map(([, one]) => one).filter((one) => REBUILT.includes(deviceOf(one)) && !one.items.has("dialect"));
    if (!rebuilt.length) return sumIds(parts);
    if (unsigned.has(everything)) return sumIds([...parts, everything]);
    const widest = rebuilt.reduce((best, one) => (committedOf(one).length > committedOf(best).length ? one : best));
    const bundle = fieldsOf(widest).get("bundle") === "true";
    const parameters = bundle ? `;alg="hmac-sha256";bundle="true";keyid="${CONSTANT}"` : UNSIGNED;
    return sumIds([...parts, this.mac(this.tabm(item, bundle), committedOf(widest), parameters, CONSTANT)]);
  }

  name(item) {
    // What a message is held under: the signed ID if its signatures cover every key, else that of both.
    if (!(item instanceof Message) || !item.commitments.size) return this.content(item);
    const covered = new Set([...item.commitments.values()].flatMap(committedOf));
    if ([...item.items.keys()].every((key) => covered.has(key))) return this.signed(item);
    const added = [...item.commitments].filter(([, one]) => !isDerivable(one));
    if (added.length > 15 || !added.every(([name, one]) => isNamed(name, one))) return null;
    return sumIds([...added.map(([name]) => name), this.content(item)]);
  }
}

function isNamed(name, one) {
  // Whether a commitment's ID is that of its signature.
  const signature = one.get("signature");
  if (typeof signature !== "string") return false;
  try {
    const [raw, wanted] = [unbase64(signature), nativeId(name)];
    return wanted.length === 32 && (raw === wanted || sha256(raw) === wanted);
  } catch {
    return false;
  }
}

export function isDerivable(one) {
  return one.get("keyid") === CONSTANT && !one.items.has("committer");
}

export function signatureId(raw) {
  return base64url(raw.length === 32 ? raw : sha256(raw));
}

function onlyKeys(message, names) {
  return new Message(new Map([...message.items].filter(([key]) => names.includes(key))));
}

// -- whether they are genuine --

export async function checkCommitments(message, ids) {
  // Refuses a message unless each commitment is what it claims; Unchecked if a browser cannot tell.
  for (const [name, one] of message.commitments) {
    checkClaims(name, one);
    const device = deviceOf(one);
    if (device === "ans104@1.0") {
      if (committerOf(one) === null) throw new Unchecked("unsigned ANS-104 commitments");
      await checkItem(one, fieldsOf(one), committedOf(one), ids.linked(message));
      continue;
    }
    if (!REBUILT.includes(device)) throw new Refused("signature", `commitments of the device '${device.slice(0, 40)}' are unknown`);
    if (one.items.has("dialect")) {
      await checkEnvelope(message, fieldsOf(one), committedOf(one), ids, fits);
      continue;
    }
    refuseAmbiguous(message, one, ids);
    await checkRebuilt(message, one, ids);
  }
}

function checkClaims(name, one) {
  const actual = committerOf(one);
  const claimed = one.get("committer") ?? null;
  if (actual !== claimed) throw new Refused("signature", "a commitment names a committer that its key is not");
  const raw = unbase64(fieldsOf(one).get("signature") ?? "");
  if (signatureId(raw) !== name && !(deviceOf(one) === "ans104@1.0" && actual === null)) {
    throw new Refused("signature", "a commitment is not named by the ID of its signature");
  }
}

async function checkRebuilt(message, one, ids) {
  const fields = fieldsOf(one);
  const names = committedOf(one);
  for (const name of names) {
    if (!message.items.has(name) && name !== "ao-types" && !message.items.has(name + "+link")) {
      throw new Refused("signature", "a committed key is not in the message");
    }
  }
  const given = unbase64(fields.get("signature") ?? "");
  const tried = new Set();
  for (const tabm of formsOf(message, names, fields.get("bundle") === "true", ids)) {
    const base = signatureBase(tabm, names, parametersOf(fields));
    if (!tried.has(base) && (await fits(fields, base, given))) return;
    tried.add(base);
  }
  throw new Refused("signature", "a signature does not fit its message");
}

function* formsOf(message, names, bundle, ids) {
  yield ids.tabm(message, bundle);
  const own = onlyKeys(message, names);
  yield ids.tabm(own, bundle);
  if (bundle) {
    yield withCommittedMaps(ids.tabm(own, bundle));
    yield withoutCommitments(ids.tabm(own, bundle));
  }
}

function withCommittedMaps(tabm) {
  const out = new Map();
  for (const [key, value] of tabm) {
    const inner = value instanceof Map ? withCommittedMaps(value) : value;
    if (key === "committed" && inner instanceof Map && inner.get("ao-types") === '.="list"') inner.delete("ao-types");
    out.set(key, inner);
  }
  return out;
}

function withoutCommitments(tabm) {
  const kept = [...tabm].filter(([key]) => key !== "commitments");
  return new Map(kept.map(([key, value]) => [key, value instanceof Map ? withoutCommitments(value) : value]));
}

async function fits(fields, base, given) {
  const keyid = fields.get("keyid") ?? "";
  const type = fields.get("type");
  if (type === "rsa-pss-sha512") {
    const modulus = publicKey(keyid);
    return Boolean(modulus) && verifyPss(modulus, given, base, "SHA-512");
  }
  if (type !== "hmac-sha256") throw new Refused("signature", "commitments of this type are unknown");
  if (keyid.startsWith("secret:")) throw new Refused("signature", "a MAC by a secret cannot be checked by anybody else");
  if (keyid.startsWith("publickey:")) throw new Refused("signature", "a MAC cannot be made with a public key");
  return hmac256(keyid || CONSTANT, base) === given;
}

// -- texts that two messages could share --

const NOT_TOP = ["signature", "signature-input", "ao-types", "ao-ids", "ao-body-key"];
const NOT_NESTED = ["ao-types", "content-disposition", "content-digest", "ao-body-key"];

function refuseAmbiguous(message, one, ids) {
  const names = committedOf(one);
  const bundle = fieldsOf(one).get("bundle") === "true";
  const chosen = [...message.items].filter(([key]) => names.includes(key) || names.includes(key.replace(/\+link$/, "")));
  const named = message.get("ao-body-key");
  const inline = typeof named === "string" ? named : message.items.has("data") && !message.items.has("body") ? "data" : "body";
  for (const [key, value] of chosen) {
    if (NOT_TOP.includes(key) || /^@|[%\x00-\x1f\x7f]/.test(key)) throw ambiguous(key);
    if (typeof value === "string") {
      if (value.includes('\n"') && key !== "body" && key !== inline && value.length <= MAX_HEADER) throw ambiguous(key);
    } else if (bundle) refuseNested(ids.whole(value), 1);
  }
}

function refuseNested(value, depth) {
  if (depth > 64) throw new Refused("signature", "a message is nested deeper than 64");
  const items = Array.isArray(value) ? value.map((one, at) => [String(at + 1), one]) : value instanceof Message ? value.items : [];
  for (const [key, inner] of items) {
    if (NOT_NESTED.includes(key) || /[%/":\x00-\x1f\x7f]/.test(key)) throw ambiguous(key);
    if (typeof inner === "string") {
      if (inner.includes("\r\n") && key !== "body" && inner.length <= MAX_HEADER) throw ambiguous(key);
    } else refuseNested(inner, depth + 1);
  }
}

function ambiguous(key) {
  return new Refused("signature", `'${key.slice(0, 60)}' makes a signed text that two messages could share`);
}
