// A model as the node keeps it: tensors one after another, and the digests that say what they are.

export const hex = (data) => [...new Uint8Array(data)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
export const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
export const sha256 = async (data) => new Uint8Array(await crypto.subtle.digest("SHA-256", data));

export function joined(...parts) {
  const made = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    made.set(part, at);
    at += part.length;
  }
  return made;
}

// Bytes of a tensor's payload (HPI-1, 4.5).
function size(record) {
  if ("values" in record) return 4 * record.values + 4;
  const groups = record.columns / record.group;
  return record.rows * (record.columns + 4 * groups + 3);
}

function tensor(record, data) {
  const raw = data.subarray(record.offset, record.offset + size(record));
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  if ("values" in record) {
    const gain = new Int32Array(record.values);
    for (let i = 0; i < record.values; i++) gain[i] = view.getInt32(4 * i, true);
    return { gain, eg: view.getInt32(4 * record.values, true) };
  }
  const { rows, columns } = record;
  const groups = columns / record.group;
  const d = rows * columns;
  const m = d + 2 * rows * groups;
  const rm = m + 2 * rows * groups;
  const re = rm + 2 * rows;
  return { rows, columns, group: record.group, signed: record.q === "i8", raw, view, d, m, rm, re };
}

// Read what the node sent, and refuse it if it is not what the answer's digests name.
export async function open(told, data, claimed) {
  const names = told.tensors.map((record) => record.name).sort();
  const known = new Map(told.tensors.map((record) => [record.name, record]));
  const digests = [];
  for (const name of names) {
    const record = known.get(name);
    const raw = data.subarray(record.offset, record.offset + size(record));
    digests.push(await sha256(joined(new TextEncoder().encode(name), new Uint8Array(1), raw)));
  }
  const ident = await sha256(joined(...digests));
  if (hex(ident) !== claimed["model-id"]) throw new Error("the weights are not those of the answer's model-id");
  const config = hex(await sha256(new TextEncoder().encode(told.config)));
  if (config !== claimed["config-digest"]) throw new Error("the model's shape is not that of the answer's config-digest");
  const tensors = new Map(names.map((name) => [name, tensor(known.get(name), data)]));
  return { ident, config: JSON.parse(told.config), tensors };
}

// The state of a session after ids, whose last token gave these logits (HPI-1, 12).
export async function state(ident, ids, logits) {
  const listed = await sha256(new Uint8Array(Uint32Array.from(ids).buffer));
  const row = await sha256(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
  return hex(await sha256(joined(Uint8Array.of(3), ident, listed, row)));
}
