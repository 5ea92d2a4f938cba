// Rules about a receipt's steps and schedules; their names are those of `hyperpy verify`.

import { base64url, nativeId, sha256 } from "./bytes.mjs";
import { Atom, Float, Link, Message } from "./canonical.mjs";
import { finding, lacking, rawId } from "./checks.mjs";
import { committedOf, committerOf } from "./commitments.mjs";
import { extendHashpath, referenceOf } from "./encoding.mjs";
import { outcomeOf } from "./order.mjs";

const LINKS = ["base-hashpath", "hash-chain"];
const ASSIGNED = [
  ...["path", "data-protocol", "variant", "process", "epoch", "slot", "block-height", "block-hash", "block-timestamp"],
  ...["timestamp", "body", "type", ...LINKS],
];
const NEEDED = ["process", "slot", "type", "body"];
const ALGORITHMS = ["sha-256-chain", "accumulate-256"];
const USUAL = "sha-256-chain";
const FINDINGS = 1000;
const ALIKE = 16;
const ROLE = ["device", "input-prefix", "output-prefixes"];

// -- steps --

function askedWith(key, origin) {
  // Whether a request as it came gives a key a value: in its path, its query or as a header.
  if (key.length > 255) return false;
  const header = `\u00c4${String.fromCharCode(key.length)}${key}\u00c4`;
  return [`&${key}=`, `&${key}+`, `?${key}=`, `?${key}+`, `.${key}=`, header].some((form) => origin.includes(form));
}

export class Look {
  // Checks one record after the other against the rest of the receipt.
  constructor(receipt) {
    this.receipt = receipt;
    this.slotOf = new Map(receipt.slots.map(([process, slot, record]) => [record, [process, slot]]));
    this.bySlot = new Map(receipt.slots.map(([process, slot, record]) => [`${process}${slot}`, record]));
    this.origins = new Map(receipt.origins.map((one) => [sha256(one), one]));
    this.absent = new Map(receipt.absent.map((one) => [one.id, one.reason]));
    this.assignments = new Map();
    for (const [process, each] of receipt.schedules) for (const one of each) this.assignments.set(`${process}${slotNumber(one)}`, one);
    this.byAfter = new Map();
    this.results = new Map();
    this.parts = new Map();
    for (const [name, record] of receipt.records) {
      const after = record["hashpath-after"];
      if (!this.byAfter.has(after)) this.byAfter.set(after, []);
      if (this.byAfter.get(after).length < ALIKE) this.byAfter.get(after).push(name);
      if (!this.results.has(after)) this.results.set(after, new Set());
      this.results.get(after).add(record.result);
      if (record.parent) {
        if (!this.parts.has(record.parent)) this.parts.set(record.parent, new Set());
        this.parts.get(record.parent).add(outcomeOf(record));
      }
    }
  }

  before(record) {
    // The records whose step led to where this one begins.
    const path = record["hashpath-before"];
    return path.includes("/") ? (this.byAfter.get(path) ?? []) : [];
  }

  step(name, record) {
    // What does not hold of a record, and what could not be checked.
    const [wrong, missing] = [[], []];
    this.receipt.ids.room = 100000;
    const [base, request] = [this.read(record.base, missing), this.read(record.request, missing)];
    if (base instanceof Message && request instanceof Message) this.checkAfter(record, base, request, wrong);
    if (base !== null) this.checkBefore(name, record, base, wrong);
    this.checkLinks(name, record, wrong);
    if (this.slotOf.has(name)) this.checkSlot(name, record, request, wrong, missing);
    return [wrong, missing];
  }

  read(ref, missing) {
    const raw = rawId(ref);
    const found = raw === null ? null : (this.receipt.index.get(raw) ?? null);
    const reason = raw === null ? "" : this.absent.get(raw);
    if (found === null && reason && reason !== "not asked") {
      missing.push(finding("absent", `the message ${ref} is not in the receipt: ${reason}`));
    }
    return found;
  }

  checkAfter(record, base, request, wrong) {
    const told = record["hashpath-after"];
    try {
      const reference = referenceOf(request, (one) => this.receipt.ids.hashpath(one));
      const made = extendHashpath(record["hashpath-before"], reference, algorithmOf(base));
      if (made !== told) wrong.push(finding("hashpath-after", "the hashpath does not follow from base and request", made, told));
    } catch (error) {
      wrong.push(finding("hashpath-after", `there is no such hashpath: ${error.message}`));
    }
  }

  checkBefore(name, record, base, wrong) {
    const told = record["hashpath-before"];
    if (!told.includes("/")) {
      const made = this.receipt.ids.hashpath(base);
      if (made !== told) wrong.push(finding("hashpath-before", "the hashpath is not that of the base", made, told));
      return;
    }
    const known = this.before(record).filter((one) => one !== name).map((one) => this.receipt.records.get(one));
    if (!known.length || this.slotOf.has(name) || record.parent || known.some((one) => this.isSlot(one))) return;
    if (this.results.get(told).has(this.receipt.ids.content(base))) return;
    if (!known.some((one) => this.recast(base, one.result, record.origin))) {
      const text = "the base is not the result of the step that the hashpath names";
      wrong.push(finding("hashpath-before", text, known[0].result, record.base));
    }
  }

  isSlot(record) {
    const request = this.receipt.index.get(rawId(record.request) ?? "");
    const type = request instanceof Message ? request.get("type") : undefined;
    return typeof type === "string" && type.toLowerCase() === "assignment";
  }

  recast(base, result, origin) {
    // Whether a base is a result as another device, with what a ~device part of the request put on it.
    const raw = rawId(result);
    const made = raw === null ? undefined : this.receipt.index.get(raw);
    if (made === undefined) return this.absent.has(raw);
    if (!(made instanceof Message) || !(base instanceof Message)) return false;
    const asked = this.origins.get(origin) ?? "";
    const keys = new Set([...made.items.keys(), ...base.items.keys()]);
    const free = (key) => ROLE.includes(key) || (base.items.has(key) && askedWith(key, asked));
    return [...keys].every((key) => free(key) || !this.differ(made.get(key), base.get(key)));
  }

  vouching(record, signers, wrong) {
    // Whom a record names as vouching for it, if that one signed the result or the receipt.
    const told = record["attested-by"];
    if (!told || signers.includes(told)) return [];
    const result = this.receipt.index.get(rawId(record.result) ?? "");
    const signed = result instanceof Message ? wholeSigners(result) : [];
    if (signed.includes(told)) return [told];
    const text = "who is said to vouch for the step signed neither its result nor the receipt";
    wrong.push(finding("attested-by", text, told, signed.join(", ") || "nobody"));
    return [];
  }

  checkLinks(name, record, wrong) {
    const parent = this.receipt.records.get(record.parent);
    if (parent && parent.origin !== record.origin) {
      wrong.push(finding("parent", "the step is part of one that belongs to another request"));
    }
    if (this.slotOf.has(name) && (record.parent || record.origin)) {
      wrong.push(finding("parent", "a slot is computed because it is scheduled, not as part of anything"));
    }
    for (const one of record.oracles) {
      if (!record["cached-from"] && !this.parts.get(name)?.has(outcomeOf(one))) {
        wrong.push(finding("oracle", `no part of the step gave the recorded answer of ${one.device}/${one.key}`));
      }
    }
    const source = this.receipt.records.get(record["cached-from"]);
    for (const field of source ? ["result", "device", "key", "status", "implementation"] : []) {
      if (source[field] !== record[field]) {
        wrong.push(finding("cached-from", `the step it was taken from has another ${field}`, source[field], record[field]));
      }
    }
  }

  checkSlot(name, record, request, wrong, missing) {
    const [process, slot] = this.slotOf.get(name);
    const assignment = this.assignments.get(`${process}${slot}`);
    if (!assignment) missing.push(finding("schedule", `the assignment of slot ${slot} is not in the receipt`));
    else if (request instanceof Message) {
      for (const key of assignment.items.keys()) {
        if (key !== "path" && this.differ(assignment.get(key), request.get(key))) {
          wrong.push(finding("slot", `the slot's request has another '${key}' than its assignment`));
        }
      }
    }
    const before = this.receipt.records.get(this.bySlot.get(`${process}${slot - 1n}`));
    if (before && before["hashpath-after"] !== record["hashpath-before"]) {
      const text = "the slot does not begin where the one before it ended";
      wrong.push(finding("slot", text, before["hashpath-after"], record["hashpath-before"]));
    }
  }

  differ(left, right) {
    // Whether two values differ, whatever is held and whatever is linked.
    if (left === undefined || right === undefined) return true;
    if (left === right) return false;
    if (left instanceof Atom && right instanceof Atom) return left.name !== right.name;
    if (left instanceof Float && right instanceof Float) return Number(left.text) !== Number(right.text);
    const [one, two] = [left, right].map((item) => {
      if (item instanceof Link) return item.id;
      return item instanceof Message || Array.isArray(item) ? this.receipt.ids.signed(item) : "";
    });
    return !one || one !== two;
  }
}

function wholeSigners(message) {
  // The addresses whose signatures cover every key of a message: these alone vouch for all of it.
  const all = [...message.commitments.values()];
  return [...new Set(all.map(committerOf).filter(Boolean))].filter((signer) => {
    const lists = all.filter((one) => committerOf(one) === signer).map(committedOf);
    return [...message.items.keys()].every((key) => lists.every((names) => names.includes(key)));
  });
}

function algorithmOf(base) {
  const found = base.get("hashpath-alg");
  if (found === undefined) return USUAL;
  return found instanceof Atom ? found.name : String(found);
}

// -- schedules --

function slotNumber(assignment) {
  // An assignment's slot; -1 if it has none.
  const found = assignment.get("slot");
  if (typeof found === "string" && /^[0-9]{1,18}$/.test(found)) return BigInt(found);
  return typeof found === "bigint" ? found : -1n;
}

export function schedulesHold(receipt) {
  // Refuses assignments that are no schedule. Their signatures are checked with those of all messages.
  const found = [];
  for (const [process, each] of receipt.schedules) found.push(...scheduleHolds(receipt, process, each));
  return found.slice(0, FINDINGS);
}

function scheduleHolds(receipt, process, assignments) {
  const name = base64url(process);
  const definition = receipt.index.get(process);
  if (!(definition instanceof Message)) {
    return [lacking("schedule", `the definition of ${name}, which names its schedulers, is not at hand`)];
  }
  const schedulers = schedulersOf(receipt, definition);
  const named = definition.get("hashpath-alg");
  const algorithm = ALGORITHMS.includes(named) ? named : USUAL;
  const found = [];
  let due = slotNumber(assignments[0]);
  let mark = due === 0n ? { path: name, chain: "" } : null; // else what came before is not here
  let stamp = 0n;
  for (const one of assignments) {
    try {
      checkAssignment(name, one, schedulers, due);
      if (mark && !follows(mark, one, receipt.ids)) found.push(finding("schedule", `slot ${due} of ${name} does not follow the one before it`));
      const before = one.get("base-hashpath");
      if (!mark && typeof before === "string") mark = { path: before, chain: "" };
      if (mark) mark = markAfter(mark, one, algorithm, receipt.ids);
    } catch (error) {
      found.push(finding("schedule", `slot ${due} of ${name}: ${error.message}`));
      mark = null;
    }
    const now = one.get("timestamp");
    if (typeof now !== "bigint" || now < stamp) found.push(finding("schedule", `slot ${due} of ${name} is earlier than the one before it`));
    else stamp = now;
    due += 1n;
  }
  return found;
}

function checkAssignment(process, one, schedulers, due) {
  if (slotNumber(one) !== due || due < 0n) throw new Error("a slot is missing, or stands twice");
  const committers = [...new Set([...one.commitments.values()].map(committerOf).filter(Boolean))];
  const signers = (schedulers.length ? schedulers : committers).filter((signer) => committers.includes(signer));
  if (!signers.length) throw new Error("an assignment is not signed by a scheduler of the process");
  const fields = [...one.items.keys()];
  if (!fields.every((key) => ASSIGNED.includes(key)) || !NEEDED.every((key) => fields.includes(key)) || !LINKS.some((key) => fields.includes(key))) {
    throw new Error("a message in the schedule has not the fields of an assignment");
  }
  const type = one.get("type");
  const word = type instanceof Atom ? type.name : String(type);
  if (one.get("process") !== process || word.toLowerCase() !== "assignment") {
    throw new Error("a message in the schedule is no assignment of this process");
  }
  const covers = (signer) => {
    const lists = [...one.commitments.values()].filter((each) => committerOf(each) === signer).map(committedOf);
    return fields.every((key) => lists.every((names) => names.includes(key))) && !lists.every((names) => names.includes("status"));
  };
  if (!signers.some(covers)) throw new Error("no scheduler of the process signed all of an assignment");
}

function schedulersOf(receipt, definition) {
  let found = definition.get("scheduler") ?? definition.get("scheduler-location");
  if (found instanceof Link) found = receipt.find(found.id);
  if (found instanceof Message) found = [...found.items.values()];
  if (typeof found === "string") found = found.replace(/"/g, "").split(",");
  const texts = Array.isArray(found) ? found.filter((one) => typeof one === "string") : [];
  return texts.map((one) => one.trim().split("?")[0]).filter(Boolean);
}

function follows(mark, assignment, ids) {
  // Whether an assignment continues the schedule that led here.
  const known = assignment.get("base-hashpath");
  if (typeof known === "string") return known === mark.path;
  const chain = assignment.get("hash-chain");
  if (typeof chain !== "string") return !mark.chain;
  const body = assignment.get("body");
  const added = body instanceof Message ? ids.signed(body) : "";
  if (!mark.chain && mark.path.includes("/")) return false;
  return [nativeId(mark.chain), mark.chain].some((before) => chain === base64url(sha256(before + added)));
}

function goesOn(mark, assignment, ids) {
  // Whether an assignment follows a mark by both chains, as far as it has them.
  if (!follows(mark, assignment, ids)) return false;
  if (!mark.chain || assignment.get("hash-chain") === undefined) return true;
  const items = new Map(assignment.items);
  items.delete("base-hashpath");
  return follows(mark, new Message(items), ids);
}

function markAfter(mark, assignment, algorithm, ids) {
  const chain = assignment.get("hash-chain");
  return { path: extendHashpath(mark.path, ids.signed(assignment), algorithm), chain: typeof chain === "string" ? chain : "" };
}

export function snapshotsHold(receipt) {
  // Refuses a snapshot that the schedule does not go on from.
  const found = [];
  for (const [process, slot, state, , told] of receipt.snapshots) {
    const name = base64url(process);
    const due = (receipt.schedules.get(process) ?? []).find((one) => slotNumber(one) === slot + 1n);
    const [path, ...chain] = told.split(" ");
    try {
      if (!due || !told || !goesOn({ path, chain: chain.join(" ") }, due, receipt.ids)) {
        found.push(finding("snapshot", `slot ${slot + 1n} of ${name} does not go on from the snapshot`));
      }
    } catch (error) {
      found.push(finding("snapshot", `the snapshot at slot ${slot} of ${name}: ${error.message}`));
    }
    const kept = receipt.index.get(state);
    if (kept instanceof Message && kept.get("at-slot") !== slot) {
      found.push(finding("snapshot", `the snapshot at slot ${slot} of ${name} is of another slot`));
    }
  }
  return found.slice(0, FINDINGS);
}
