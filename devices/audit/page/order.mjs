// Which of a receipt's records its roots need, in the order in which they were computed.

const OUTCOME = ["device", "key", "request", "result", "status"];

export const outcomeOf = (one) => JSON.stringify(OUTCOME.map((name) => one[name]));

export function computed(receipt) {
  // The records that the roots need, each after all that it needs itself.
  const needs = new Needs(receipt);
  const done = [];
  const seen = new Set();
  for (const root of receipt.roots) {
    if (!receipt.records.has(root) || seen.has(root)) continue;
    seen.add(root);
    const doing = [[root, needs.of(root)]];
    while (doing.length) {
      const [name, more] = doing.at(-1);
      const next = more.next();
      if (next.done) {
        done.push(name);
        doing.pop();
      } else if (!seen.has(next.value)) {
        seen.add(next.value);
        doing.push([next.value, needs.of(next.value)]);
      }
    }
  }
  return done;
}

class Needs {
  // What finds the records that a record needs. Each list is gone through once: those in it are seen then.
  constructor(receipt) {
    this.receipt = receipt;
    this.byAfter = new Map();
    this.byResult = new Map();
    this.parts = new Map();
    this.asked = new Set();
    const add = (map, key, name) => (map.has(key) ? map.get(key).push(name) : map.set(key, [name]));
    for (const [name, record] of receipt.records) {
      add(this.byAfter, record["hashpath-after"], name);
      add(this.byResult, record.result, name);
      if (record.parent) add(this.parts, record.parent, name);
    }
    const lines = new Map();
    for (const [process, , record] of receipt.slots) if (receipt.records.has(record)) add(lines, process, record);
    this.ends = [...lines.values()].map((line) => line.at(-1));
    this.earlier = new Map([...lines.values()].flatMap((line) => line.slice(1).map((name, at) => [name, line[at]])));
    this.slots = new Set(receipt.slots.map(([, , record]) => record));
  }

  *take(map, key) {
    const found = map.get(key) ?? [];
    map.delete(key);
    yield* found;
  }

  *of(name) {
    const { records } = this.receipt;
    const record = records.get(name);
    if (record["hashpath-before"].includes("/")) yield* this.take(this.byAfter, record["hashpath-before"]);
    if (!this.asked.has(record.base)) {
      this.asked.add(record.base);
      yield* this.take(this.byResult, record.base);
      const base = this.receipt.find(record.base);
      yield* this.take(this.byResult, base === null ? "" : this.receipt.ids.content(base));
    }
    if (records.has(record["cached-from"])) yield record["cached-from"];
    const places = new Map(record.oracles.map((one, at) => [outcomeOf(one), at]));
    const parts = (this.parts.get(name) ?? []).map((one) => [places.get(outcomeOf(records.get(one))) ?? -1, one]);
    yield* parts.sort(([a, one], [b, two]) => a - b || (one < two ? -1 : 1)).map(([, one]) => one);
    if (this.slots.has(name)) {
      if (this.earlier.has(name)) yield this.earlier.get(name);
    } else if (record.device === "process@1.0") yield* this.ends;
  }
}
