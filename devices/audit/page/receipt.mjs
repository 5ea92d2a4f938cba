// A receipt's bytes as its parts. Nothing it says is checked here but its form.

import { Refused, base64url, nativeId, sha256, unbase64 } from "./bytes.mjs";
import { Link, Message, Reader, decodeCanonical } from "./canonical.mjs";
import { Ids } from "./commitments.mjs";

const KEYS = ["absent", "evidence", "messages", "origins", "part", "records", "roots", "schedules", "signature", "slots", "snapshots", "v"];
const REASONS = ["large", "private", "gone", "unverifiable", "not asked"];
const TEXTS = ["base", "request", "result", "status", "device", "key", "implementation", "hashpath-before", "hashpath-after", "attested-by"];
const DIGESTS = ["parent", "origin", "cached-from"];
const ORACLE = ["device", "key", "request", "result", "status"];

const malformed = (text) => new Refused("form", text);

export function restored(item) {
  // A message with its commitments, or a list, from the form in which both are written.
  if (item instanceof Message) {
    return new Message(new Map([...item.items].map(([key, child]) => [key, restored(child)])));
  }
  if (!Array.isArray(item)) return item;
  if (item[0] === "list") return item.slice(1).map(restored);
  const [items, signed] = item;
  if (item.length !== 2 || !(items instanceof Message) || !(signed instanceof Message) || !signed.items.size) {
    throw malformed("neither a list nor a message with its commitments");
  }
  const commitments = new Map();
  for (const [name, one] of signed.items) {
    const fields = restored(one);
    if (!(fields instanceof Message)) throw malformed("commitments are messages");
    commitments.set(name, fields);
  }
  return new Message(restored(items).items, commitments);
}

export function decodeReceipt(data) {
  const content = data.slice(0, -32);
  if (data.length < 64 || sha256(content) !== data.slice(-32)) {
    throw new Refused("digest", "the file does not end with the SHA-256 of what stands before it");
  }
  const fields = decodeCanonical(content);
  if (!(fields instanceof Message) || [...fields.items.keys()].join() !== KEYS.join()) throw malformed("not a receipt: other keys");
  if (fields.get("v") !== 1n) throw new Refused("version", "a receipt of another version");
  return new Receipt(fields.items, unsignedDigest(content));
}

function unsignedDigest(content) {
  // SHA-256 of the content with null for the signature: what is signed.
  const reader = new Reader(content);
  reader.number(1);
  for (;;) {
    const key = reader.value(1);
    const start = reader.at;
    reader.value(1);
    if (key === "signature") return sha256(content.slice(0, start) + "\xc0" + content.slice(reader.at));
  }
}

export class Receipt {
  constructor(fields, digest) {
    this.digest = digest;
    this.ids = new Ids((id) => this.find(id));
    this.roots = list(fields.get("roots")).map(idOf);
    this.records = new Map(list(fields.get("records")).map((raw) => [sha256(text(raw)), recordOf(raw)]));
    this.messages = list(fields.get("messages")).map(layer);
    this.origins = list(fields.get("origins")).map(text);
    this.schedules = new Map(list(fields.get("schedules")).map(schedule));
    this.slots = rows(fields.get("slots"), 3).map(([process, slot, record]) => [idOf(process), number(slot), idOf(record)]);
    this.snapshots = rows(fields.get("snapshots"), 5).map(([process, slot, state, path, mark]) => [
      idOf(process),
      number(slot),
      idOf(state),
      text(path),
      text(mark),
    ]);
    this.part = fields.get("part") === null ? "" : filled(fields.get("part"));
    this.evidence = list(fields.get("evidence")).map(text);
    this.absent = rows(fields.get("absent"), 3).map(absence);
    const signature = fields.get("signature");
    this.signature = signature === null ? null : restored(signature);
    if (this.signature !== null && !(this.signature instanceof Message)) throw malformed("the signature is no message");
    this.checkOrder(list(fields.get("records")).length, list(fields.get("schedules")).length);
    this.checkIds();
  }

  checkIds() {
    // Records write an ID in the one way in which it is computed: base64 has more than one.
    for (const record of this.records.values()) {
      const names = [record.base, record.request, record["hashpath-before"].slice(0, 43), record["hashpath-after"].slice(0, 43)];
      for (const one of [record, ...record.oracles]) names.push(...[one.request, one.result].filter(Boolean));
      if (!names.every(isInOneForm)) throw malformed("a record names something by what is no ID, or not the one way to write it");
    }
  }

  checkOrder(records, schedules) {
    const at = ([process, slot]) => process + slot.toString(16).padStart(16, "0");
    const lists = {
      roots: this.roots,
      records: [...this.records.keys()],
      messages: this.messages.map((item) => this.nameOf(item)),
      origins: this.origins.map(sha256),
      schedules: [...this.schedules.keys()],
      slots: this.slots.map(at),
      snapshots: this.snapshots.map(at),
      absent: this.absent.map((one) => one.id),
    };
    if (this.records.size !== records || this.schedules.size !== schedules) throw new Refused("order", "an entry stands twice");
    for (const [name, keys] of Object.entries(lists)) {
      if (keys.some((key, n) => n && keys[n - 1] >= key)) throw new Refused("order", `${name} are not sorted, or one stands twice`);
    }
  }

  nameOf(item) {
    // The ID under which a message is held: unsigned, signed, or of both where signatures leave something out.
    const name = this.ids.name(item);
    const raw = name === null ? "" : nativeId(name);
    if (raw.length !== 32) throw malformed("a message has no ID of 32 bytes");
    return raw;
  }

  get items() {
    // Every message held, with its ID; those of schedules come last.
    if (this.all) return this.all;
    const scheduled = [...this.schedules.values()].flat().flatMap(walk);
    this.all = [...this.messages, ...scheduled].map((item) => [this.nameOf(item), item]);
    return this.all;
  }

  get index() {
    // Every message that can be read here, by each ID that it is found under.
    if (this.found) return this.found;
    const found = (this.found = new Map());
    const put = (raw, item) => found.has(raw) || found.set(raw, item);
    // The order matters where two share an ID: what stands first is what is read.
    for (const [name, item] of this.items) put(name, item);
    for (const [, item] of this.items) {
      if (item instanceof Message && item.commitments.size) put(nativeId(this.ids.content(item)), new Message(item.items));
    }
    return found;
  }

  find(id) {
    // The message of an ID in either form; null if it is not held.
    return this.index.get(nativeId(id)) ?? null;
  }
}

export function walk(item) {
  // A value and what is held in it, without what links name.
  const out = [];
  const todo = [item];
  while (todo.length) {
    const one = todo.pop();
    out.push(one);
    const held = one instanceof Message ? [...one.items.values()] : Array.isArray(one) ? one : [];
    todo.push(...held.filter((part) => part instanceof Message || Array.isArray(part)));
  }
  return out;
}

function list(item) {
  if (!Array.isArray(item)) throw malformed("a list is expected");
  return item;
}

function rows(item, size) {
  const found = list(item).map(list);
  if (found.some((one) => one.length !== size)) throw malformed(`a row has not ${size} members`);
  return found;
}

function text(item) {
  if (typeof item !== "string") throw malformed("bytes are expected");
  return item;
}

function filled(item) {
  if (!text(item)) throw malformed("an empty text");
  return item;
}

function idOf(item) {
  if (text(item).length !== 32) throw malformed("an ID has not 32 bytes");
  return item;
}

function number(item, limit = 1n << 64n) {
  if (typeof item !== "bigint" || item < 0n || item >= limit) throw malformed("a number is out of range");
  return item;
}

function layer(item) {
  const found = typeof item === "string" ? item : restored(item);
  const held = found instanceof Message ? [...found.items.values()] : Array.isArray(found) ? found : [];
  if (typeof found !== "string" && !(found instanceof Message) && !Array.isArray(found)) throw malformed("an entry of messages is none");
  if (held.some((one) => one === null || one instanceof Message || Array.isArray(one))) {
    throw malformed("an entry of messages is not one layer with links");
  }
  const signed = found instanceof Message ? [...found.commitments.values()] : [];
  if (signed.length && signed.every((one) => one.get("keyid") === "constant:ao" && !one.items.has("committer"))) {
    throw malformed("a message's only commitments are those that everybody can compute");
  }
  return found;
}

function schedule(item) {
  const [process, assignments] = list(item);
  if (item.length !== 2 || !list(assignments).length) throw malformed("an empty schedule");
  const found = assignments.map((raw) => restored(decodedForm(text(raw))));
  if (!found.every((one) => one instanceof Message)) throw malformed("an assignment is no message");
  const held = found.flatMap(walk).flatMap((one) => (one instanceof Message ? [...one.items.values()] : Array.isArray(one) ? one : []));
  if (held.some((one) => one instanceof Link)) throw malformed("an assignment in a receipt holds all of its parts");
  return [idOf(process), found];
}

function absence([name, reason, size]) {
  if (!REASONS.includes(text(reason))) throw malformed("something is absent for an unknown reason");
  return { id: idOf(name), reason, size: size === null ? null : number(size, 1n << 50n) };
}

function decodedForm(raw) {
  try {
    return decodeCanonical(raw);
  } catch (error) {
    throw malformed(error.message);
  }
}

function isInOneForm(name) {
  try {
    return name.length === 43 && base64url(unbase64(name)) === name;
  } catch {
    return false;
  }
}

function recordOf(raw) {
  const fields = decodedForm(text(raw));
  const names = [...TEXTS, ...DIGESTS, "oracles", "v"].sort();
  if (!(fields instanceof Message) || [...fields.items.keys()].join() !== names.join()) throw malformed("not a trail record");
  if (fields.get("v") !== 1n) throw malformed("a trail record of another version");
  const made = {};
  for (const name of TEXTS) made[name] = optional(fields.get(name));
  for (const name of DIGESTS) {
    made[name] = optional(fields.get(name));
    if (made[name] && made[name].length !== 32) throw malformed(`a trail record's '${name}' must be 32 bytes or null`);
  }
  made.oracles = list(fields.get("oracles")).map((one) => {
    if (!(one instanceof Message) || [...one.items.keys()].join() !== ORACLE.join()) throw malformed("an oracle has the wrong fields");
    return Object.fromEntries(ORACLE.map((name) => [name, optional(one.get(name))]));
  });
  return made;
}

function optional(item) {
  return item === null ? "" : filled(item);
}

export function plainOf(item) {
  // A message as people read it.
  if (item instanceof Message) return Object.fromEntries([...item.items].map(([key, one]) => [key, plainOf(one)]));
  if (Array.isArray(item)) return item.map(plainOf);
  if (item instanceof Link) return { link: item.id };
  if (typeof item === "bigint") return Number.isSafeInteger(Number(item)) ? Number(item) : item.toString();
  if (typeof item === "object" && item !== null) return item.name ?? item.text;
  return item;
}

export const shortId = (raw) => (raw ? base64url(raw) : "");
