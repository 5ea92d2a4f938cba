// What is to be said of a receipt, without making anything again: at best that it is attested.

import { Refused, base64url, textOf } from "./bytes.mjs";
import { closedAndMinimal, commitmentsHold, finding, partReached, rootsHeld, signersOf } from "./checks.mjs";
import { computed } from "./order.mjs";
import { decodeReceipt, plainOf } from "./receipt.mjs";
import { Look, schedulesHold, snapshotsHold } from "./rules.mjs";

export async function verifyReceipt(bytes) {
  let receipt;
  try {
    receipt = decodeReceipt(textOf(bytes));
  } catch (error) {
    return badFile(error instanceof Refused ? error.rule : "form", error.message);
  }
  try {
    return await verified(receipt);
  } catch (error) {
    return badFile("form", `the receipt cannot be read: ${error.message}`);
  }
}

function badFile(rule, text) {
  const known = ["digest", "canonical", "version", "form", "order"].includes(rule) ? rule : "form";
  return { ...empty(), verdict: "bad file", findings: [finding(known, text)] };
}

const empty = () => ({ ref: "", verdict: "", given: 0, total: 0, findings: [], steps: [], edges: [], "attested-by": [], unchecked: [] });

async function verified(receipt) {
  const unchecked = new Set();
  const names = computed(receipt);
  const [signers, unsound] = await signersOf(receipt, unchecked);
  if (receipt.evidence.length) unchecked.add("attestation evidence: hyperpy verify appraises it");
  const findings = [
    ...rootsHeld(receipt),
    ...(await commitmentsHold(receipt, unchecked)),
    ...closedAndMinimal(receipt, names),
    ...schedulesHold(receipt),
    ...snapshotsHold(receipt),
    ...partReached(receipt),
    ...unsound,
  ];
  const look = new Look(receipt);
  const steps = names.map((name) => stepOf(receipt, look, name, signers));
  const invalid = findings.some((one) => one.rule !== "unsigned" && !one.where) || steps.some((step) => step.verdict === "invalid");
  const absent = unchecked.size || !signers.length || findings.some((one) => one.where);
  const missing = absent || !steps.length || steps.some((step) => step.verdict === "missing");
  return {
    ...empty(),
    ref: base64url(receipt.digest),
    verdict: invalid ? "invalid" : missing ? "missing" : "attested",
    total: steps.length,
    findings,
    steps,
    edges: names.flatMap((name) => edgesOf(look, name)),
    "attested-by": signers,
    unchecked: [...unchecked],
    read: (id) => {
      const found = receipt.find(id);
      return found === null ? "(not in the receipt)" : JSON.stringify(plainOf(found), null, 2);
    },
  };
}

function stepOf(receipt, look, name, signers) {
  const record = receipt.records.get(name);
  const [wrong, missing] = look.step(name, record);
  const vouching = look.vouching(record, signers, wrong);
  const slot = look.slotOf.get(name);
  return {
    record: base64url(name),
    device: record.device,
    key: record.key,
    status: record.status,
    base: record.base,
    request: record.request,
    result: record.result,
    "hashpath-before": record["hashpath-before"],
    "hashpath-after": record["hashpath-after"],
    verdict: wrong.length ? "invalid" : missing.length ? "missing" : "attested",
    parent: record.parent ? base64url(record.parent) : "",
    ...(slot ? { process: base64url(slot[0]), slot: String(slot[1]) } : {}),
    "attested-by": [...signers, ...vouching],
    findings: [...wrong, ...missing],
  };
}

function edgesOf(look, name) {
  const record = look.receipt.records.get(name);
  const own = base64url(name);
  const made = [];
  if (look.receipt.records.has(record.parent)) made.push({ source: own, target: base64url(record.parent), kind: "part" });
  if (look.receipt.records.has(record["cached-from"])) made.push({ source: base64url(record["cached-from"]), target: own, kind: "cached" });
  const before = look.before(record).find((one) => one !== name);
  if (before) made.push({ source: base64url(before), target: own, kind: look.slotOf.has(name) ? "slot" : "next" });
  return made;
}
