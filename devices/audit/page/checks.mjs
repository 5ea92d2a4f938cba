// Rules about a receipt as a whole; their names are those of `hyperpy verify`.

import { Refused, Unchecked, base64url, nativeId, sha256, unbase64 } from "./bytes.mjs";
import { Link, Message, decodeCanonical } from "./canonical.mjs";
import { checkCommitments, committedOf, committerOf, isDerivable } from "./commitments.mjs";

const MOST = 1000;
const MOST_SIGNED = 16;

export const finding = (rule, text, expected = "", got = "") => ({ rule, text, expected, got });

export const lacking = (rule, text) => ({ ...finding(rule, text), where: ["the receipt"] });

export function rawId(text) {
  // The 32 bytes of an ID in either form; null if the text is none.
  try {
    const raw = nativeId(text);
    return raw.length === 32 ? raw : null;
  } catch {
    return null;
  }
}

export function rootsHeld(receipt) {
  if (!receipt.roots.length) return [finding("roots", "the receipt names no step that it is about")];
  const lost = receipt.roots.filter((one) => !receipt.records.has(one));
  return lost.slice(0, MOST).map((one) => finding("roots", `the receipt is about a step that is not in it: ${base64url(one)}`));
}

export async function commitmentsHold(receipt, unchecked) {
  const found = [];
  const asked = [...receipt.records.values()].filter((one) => one.origin);
  let sent = null;
  const parts = new Set(asked.flatMap((one) => [rawId(one.base), rawId(one.request)]));
  for (const [name, item] of receipt.items) {
    if (!(item instanceof Message) || !item.commitments.size) continue;
    receipt.ids.room = 100000;
    try {
      await checkGenuine(item, receipt.ids);
    } catch (error) {
      if (error instanceof Unchecked) unchecked.add(error.message);
      else if (parts.has(name) && cameWith(item, (sent ??= signaturesIn(receipt.origins)))) {
        const text = `the message ${base64url(name)} bears the signatures of the request that it is a part of`;
        found.push({ ...finding("claimed", text, base64url(name)), where: ["the request as it came"] });
      } else found.push(finding("commitment", `the message ${base64url(name)}: ${error.message}`));
    }
    if (found.length === MOST) break;
  }
  return found;
}

async function checkGenuine(item, ids) {
  // Each commitment is genuine, names its device, and is written in the one way.
  checkFormed(item);
  await checkCommitments(item, ids);
}

function cameWith(item, sent) {
  // Whether a message bears, by their bytes, the signatures of a request that it is a part of.
  try {
    checkFormed(item);
    const covered = new Set([...item.commitments.values()].flatMap(committedOf));
    if ([...item.items.keys()].every((key) => covered.has(key))) return false;
    const added = [...item.commitments.values()].filter((one) => !isDerivable(one));
    const given = added.map((one) => unbase64(one.get("signature") ?? ""));
    if (!given.length || given.includes("")) return false;
    return given.every((one) => sent.has(one));
  } catch {
    return false;
  }
}

function signaturesIn(origins) {
  // What may be signatures in kept requests: in a header or in JSON as base64, in a data item as they are.
  const found = new Set();
  for (const origin of origins) {
    for (const [run] of origin.matchAll(/[A-Za-z0-9+/_-]{86,1400}/g)) if (run.length % 4 !== 1) found.add(unbase64(run));
    const body = origin.includes("ans104") ? bodyOf(origin) : null;
    if (body !== null) for (const size of [64, 65, 512]) found.add(body.slice(2, 2 + size));
  }
  return found;
}

function bodyOf(origin) {
  try {
    const body = decodeCanonical(origin).get("body");
    return typeof body === "string" ? body : null;
  } catch {
    return null;
  }
}

function checkFormed(item) {
  const wrong = (text) => new Refused("commitment", text);
  if (item.commitments.size > MOST_SIGNED) throw wrong("more commitments on one message than are summed");
  for (const one of item.commitments.values()) {
    if (!one.items.has("commitment-device")) throw wrong("a commitment does not say by which device it was made");
    const told = one.get("signature");
    if (typeof told === "string" && base64url(unbase64(told)) !== told) throw wrong("a commitment does not write its signature in the one way");
  }
}

export function closedAndMinimal(receipt, order) {
  const wanted = { record: new Set(receipt.roots), message: new Set(), origin: new Set() };
  for (const [kind, name] of named(receipt)) wanted[kind].add(name);
  const origins = receipt.origins.map(sha256);
  const held = { record: receipt.records, message: receipt.index, origin: new Set(origins) };
  const absent = new Set(receipt.absent.map((one) => one.id));
  const found = [];
  const there = new Set();
  for (const [kind, names] of Object.entries(wanted)) {
    for (const name of names) {
      if (held[kind].has(name)) there.add(name);
      else if (!absent.has(name)) found.push(finding("closed", `the ${kind} ${base64url(name)} is named, but is neither there nor listed as absent`));
    }
  }
  for (const name of absent) {
    if (!Object.values(wanted).some((names) => names.has(name))) {
      found.push(finding("closed", `${base64url(name)} is listed as absent, but nothing names it`));
    } else if (there.has(name)) found.push(finding("closed", `${base64url(name)} is listed as absent, but it is there`));
  }
  return [...found, ...minimal(receipt, wanted, origins, new Set(order))];
}

function minimal(receipt, wanted, origins, needed) {
  const spare = [...receipt.records.keys()].filter((name) => !needed.has(name)).map((name) => ["record", name]);
  spare.push(...origins.filter((name) => !wanted.origin.has(name)).map((name) => ["origin", name]));
  const others = new Set(receipt.items.slice(receipt.messages.length).map(([name]) => name));
  for (const [, item] of receipt.items) {
    if (item instanceof Message && item.commitments.size) others.add(nativeId(receipt.ids.content(item)));
  }
  for (const [name] of receipt.items.slice(0, receipt.messages.length)) {
    if (!wanted.message.has(name) || others.has(name)) spare.push(["message", name]);
  }
  const scheduled = new Set([...receipt.slots, ...receipt.snapshots].map(([process]) => process));
  for (const process of receipt.schedules.keys()) if (!scheduled.has(process)) spare.push(["schedule of the process", process]);
  return spare.slice(0, MOST).map(([kind, name]) => finding("minimal", `nothing needs the ${kind} ${base64url(name)}`));
}

function* named(receipt) {
  // Whatever the content names: kind and ID.
  const messages = [];
  for (const record of receipt.records.values()) {
    messages.push(record.base, record.request, record.result);
    for (const one of record.oracles) messages.push(one.request, one.result);
    for (const [kind, name] of [["record", record.parent], ["record", record["cached-from"]], ["origin", record.origin]]) {
      if (name) yield [kind, name];
    }
  }
  for (const [process, , record] of receipt.slots) {
    yield ["record", record];
    yield ["message", process];
  }
  for (const [process, , state] of receipt.snapshots) {
    yield ["message", state];
    yield ["message", process];
  }
  for (const process of receipt.schedules.keys()) yield ["message", process];
  for (const item of receipt.messages) {
    const held = item instanceof Message ? [...item.items.values()] : Array.isArray(item) ? item : [];
    messages.push(...held.filter((one) => one instanceof Link).map((one) => one.id));
  }
  for (const text of messages) {
    const name = text ? rawId(text) : null;
    if (name !== null) yield ["message", name];
  }
}

export function partReached(receipt) {
  // Follow the keys of a part from the root's result.
  if (!receipt.part) return [];
  for (const root of receipt.roots) {
    let found = receipt.find(receipt.records.get(root)?.result ?? "");
    for (const key of receipt.part.split("/")) {
      if (found instanceof Message) found = found.get(key) ?? null;
      else if (Array.isArray(found) && /^[0-9]{1,9}$/.test(key)) found = found[Number(key) - 1] ?? null;
      else found = null;
      if (found instanceof Link) found = receipt.find(found.id);
    }
    if (found === null) return [finding("part", "the part is not reached")];
  }
  return [];
}

export async function signersOf(receipt, unchecked) {
  // Whose signatures stand under the receipt, and what is wrong with them.
  const told = receipt.signature;
  if (told === null) return [[], [finding("unsigned", "nobody signed the receipt, so nobody vouches for its steps")]];
  const digest = base64url(receipt.digest);
  if (told.get("digest") !== digest) {
    return [[], [finding("signature", "the receipt's signature is over another content", digest, String(told.get("digest") ?? "none"))]];
  }
  const unsound = [[], [finding("signature", "the receipt's signature does not verify, or covers more or less than a digest")]];
  if (told.items.size !== 2 || told.get("type") !== "receipt") return unsound;
  try {
    receipt.ids.room = 100000;
    await checkGenuine(told, receipt.ids);
  } catch (error) {
    if (!(error instanceof Unchecked)) return unsound;
    unchecked.add(error.message);
    return [[], []];
  }
  const all = [...told.commitments.values()].filter((one) => committerOf(one));
  const covered = [...told.commitments.values()].every((one) => [...new Set(committedOf(one))].sort().join() === "digest,type");
  return all.length && covered ? [[...new Set(all.map(committerOf))], []] : unsound;
}
