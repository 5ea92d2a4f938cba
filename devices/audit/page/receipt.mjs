// A receipt's bytes as its parts.

import { Refused } from "./bytes.mjs";
import { Link, Message } from "./canonical.mjs";

export function restored(item) {
  // A message with its commitments, or a list, from the form in which both are written.
  if (item instanceof Message) {
    return new Message(new Map([...item.items].map(([key, child]) => [key, restored(child)])));
  }
  if (!Array.isArray(item)) return item;
  if (item[0] === "list") return item.slice(1).map(restored);
  const [items, signed] = item;
  if (item.length !== 2 || !(items instanceof Message) || !(signed instanceof Message) || !signed.items.size) {
    throw new Refused("canonical", "neither a list nor a message with its commitments");
  }
  const commitments = new Map();
  for (const [name, one] of signed.items) {
    const fields = restored(one);
    if (!(fields instanceof Message)) throw new Refused("canonical", "commitments are messages");
    commitments.set(name, fields);
  }
  return new Message(restored(items).items, commitments);
}
