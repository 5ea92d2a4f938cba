// Canonical bytes: msgpack in which a value has one and only one text. What is not in that form is refused.

import { Refused } from "./bytes.mjs";

export class Message {
  constructor(items, commitments = new Map()) {
    this.items = items;
    this.commitments = commitments;
    this.memo = new Map();
  }
  get(key) {
    return this.items.get(key);
  }
}
export class Atom {
  constructor(name) {
    this.name = name;
  }
}
export class Link {
  constructor(id) {
    this.id = id;
  }
}
export class Float {
  constructor(text) {
    this.text = text;
  }
}

export const MAX_NESTED = 128;

const bad = (text) => new Refused("canonical", text);

export function decodeCanonical(data) {
  const reader = new Reader(data);
  const found = reader.value(0);
  if (reader.at !== data.length) throw bad("bytes go on after the value");
  return found;
}

export class Reader {
  constructor(data) {
    this.data = data;
    this.at = 0;
  }

  take(size) {
    if (this.at + size > this.data.length) throw bad("the bytes are cut off");
    this.at += size;
    return this.data.slice(this.at - size, this.at);
  }

  number(size) {
    let found = 0;
    for (const one of this.take(size)) found = found * 256 + one.charCodeAt(0);
    return found;
  }

  big(size) {
    let found = 0n;
    for (const one of this.take(size)) found = (found << 8n) | BigInt(one.charCodeAt(0));
    return found;
  }

  sized(size, least) {
    const found = this.number(size);
    if (found < least) throw bad("a length is not in its shortest form");
    return found;
  }

  value(depth) {
    if (depth > MAX_NESTED) throw bad(`nested deeper than ${MAX_NESTED}`);
    const head = this.number(1);
    if (head < 0x80) return BigInt(head);
    if (head < 0x90) return this.map(head - 0x80, depth);
    if (head < 0xa0) return this.array(head - 0x90, depth);
    if (head >= 0xe0) return BigInt(head - 256);
    switch (head) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
        return this.take(this.number(1));
      case 0xc5:
        return this.take(this.sized(2, 256));
      case 0xc6:
        return this.take(this.sized(4, 65536));
      case 0xc7:
        return this.extension(this.extensionSize(1));
      case 0xc8:
        return this.extension(this.sized(2, 256));
      case 0xc9:
        return this.extension(this.sized(4, 65536));
      case 0xcc:
        return this.unsigned(1, 128n);
      case 0xcd:
        return this.unsigned(2, 256n);
      case 0xce:
        return this.unsigned(4, 65536n);
      case 0xcf:
        return this.unsigned(8, 4294967296n);
      case 0xd0:
        return this.signed(1, -33n);
      case 0xd1:
        return this.signed(2, -129n);
      case 0xd2:
        return this.signed(4, -32769n);
      case 0xd3:
        return this.signed(8, -2147483649n);
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.extension(1 << (head - 0xd4));
      case 0xdc:
        return this.array(this.sized(2, 16), depth);
      case 0xdd:
        return this.array(this.sized(4, 65536), depth);
      case 0xde:
        return this.map(this.sized(2, 16), depth);
      case 0xdf:
        return this.map(this.sized(4, 65536), depth);
      default:
        throw bad("a type that has no place here");
    }
  }

  unsigned(size, least) {
    const found = this.big(size);
    if (found < least) throw bad("a number is not in its shortest form");
    return found;
  }

  signed(size, most) {
    const found = BigInt.asIntN(8 * size, this.big(size));
    if (found > most) throw bad("a number is not in its shortest form");
    return found;
  }

  extensionSize(width) {
    const size = this.number(width);
    if ([1, 2, 4, 8, 16].includes(size)) throw bad("a length is not in its shortest form");
    return size;
  }

  extension(size) {
    const code = this.number(1);
    const data = this.take(size);
    if (code === 1) return bigInteger(data);
    if (code === 2) {
      if (data === "true" || data === "false") throw bad("a truth value is not an atom here");
      return new Atom(data);
    }
    if (code === 3) return new Link(data);
    if (code === 4) return float(data);
    throw bad(`extension type ${code} is unknown`);
  }

  array(size, depth) {
    if (size > this.data.length - this.at) throw bad("the bytes are cut off");
    const out = [];
    for (let n = 0; n < size; n++) out.push(this.value(depth + 1));
    return out;
  }

  map(size, depth) {
    if (size > this.data.length - this.at) throw bad("the bytes are cut off");
    const items = new Map();
    let last = null;
    for (let n = 0; n < size; n++) {
      const key = this.value(depth + 1);
      if (typeof key !== "string") throw bad("a key is not binary");
      if (last !== null && key <= last) throw bad("keys are not sorted, or one stands twice");
      if (key === "commitments" || key.startsWith("priv")) throw bad(`'${key.slice(0, 40)}' is no key of a message's items`);
      items.set(key, this.value(depth + 1));
      last = key;
    }
    return new Message(items);
  }
}

function bigInteger(data) {
  let found = 0n;
  for (const one of data) found = (found << 8n) | BigInt(one.charCodeAt(0));
  found = BigInt.asIntN(8 * data.length, found);
  const fits = found >= -(1n << 63n) && found < 1n << 64n;
  const half = data.length > 1 ? 1n << BigInt(8 * (data.length - 1) - 1) : 0n;
  if (fits || (found >= -half && found < half)) throw bad("a number is not in its shortest form");
  return found;
}

function float(data) {
  if (!/^-?[0-9]\.[0-9]{20}e[+-][0-9]{2,3}$/.test(data) || !Number.isFinite(Number(data)) || floatText(Number(data)) !== data) {
    throw bad("a float is not in its one form");
  }
  return new Float(data);
}

export function floatText(value) {
  // C's "%.20e", which rounds a tie to the even digit.
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const [digits, power] = Math.abs(value).toExponential(60).split("e");
  let [made, exponent] = Math.abs(value).toExponential(20).split("e");
  if (/^5(0)*$/.test(digits.slice(22))) {
    const below = digits.slice(0, 22);
    if ("02468".includes(below[21])) [made, exponent] = [below, power];
  }
  return `${sign}${made}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}
