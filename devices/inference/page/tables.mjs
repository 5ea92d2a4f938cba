// The constant tables of HPI-1, section 3, from whole numbers alone: nothing of them is taken from the node.

const P = 320n;
const ONE = 1n << P;

export function isqrt(n) {
  if (n < 2n) return n;
  let x = 1n << BigInt((n.toString(2).length + 1) >> 1);
  for (;;) {
    const y = (x + n / x) >> 1n;
    if (y >= x) return x;
    x = y;
  }
}

// Division cuts off towards zero, so that series of both signs end.
const times = (a, b) => (a * b) / ONE;

// 2 * atanh(x): ln((1 + x) / (1 - x)).
function twiceAtanh(x) {
  const square = times(x, x);
  let sum = 0n;
  for (let term = x, n = 1n; term !== 0n; term = times(term, square), n += 2n) sum += term / n;
  return 2n * sum;
}

const LN2 = twiceAtanh(ONE / 3n);

// A double as a fraction of whole numbers, exactly.
export function fraction(value) {
  let bits = 0n;
  let rest = value;
  while (!Number.isInteger(rest)) {
    rest *= 2;
    bits += 1n;
  }
  return [BigInt(rest), 1n << bits];
}

function ln(value) {
  const [n, d] = fraction(value);
  let x = (n << P) / d;
  let twos = 0n;
  while (x > (ONE * 3n) / 2n) {
    x >>= 1n;
    twos += 1n;
  }
  // Bits that the shifts dropped are far below what is used.
  return twos * LN2 + twiceAtanh(((x - ONE) << P) / (x + ONE));
}

// exp(-y) for y >= 0.
function expNegative(y) {
  const twos = y / LN2;
  const rest = y - twos * LN2;
  let sum = 0n;
  for (let term = ONE, n = 1n; term !== 0n; term = -times(term, rest) / n, n += 1n) sum += term;
  return sum >> twos;
}

// (sin, cos) of 0 <= x <= 1, times 2^160, cut off.
function sinCos(x) {
  let sine = 0n;
  let cosine = 0n;
  let term = ONE;
  for (let n = 0n; term !== 0n; n += 1n, term = times(term, x) / n) {
    const sign = n % 4n < 2n ? 1n : -1n;
    if (n % 2n === 0n) cosine += sign * term;
    else sine += sign * term;
  }
  return [sine >> (P - 160n), cosine >> (P - 160n)];
}

export function exp2() {
  let step = ONE >> 1n;
  for (let n = 0; n < 8; n++) step = isqrt(step << P);
  const table = new Int32Array(257);
  for (let i = 0, v = ONE; i <= 256; i++, v = times(v, step)) table[i] = Number((v + (1n << (P - 31n))) >> (P - 30n));
  return table;
}

export function c2(head) {
  const root = isqrt(BigInt(head) << (2n * P));
  const value = (ONE << P) / times(LN2, root);
  return Number((value + (1n << (P - 31n))) >> (P - 30n));
}

export function normConstants(width) {
  for (let k = 0n; ; k += 1n) {
    const root = isqrt(BigInt(width) << (2n * k));
    if (root >= 1n << 31n) return [Number(root), Number(k)];
  }
}

export function epsilon(width, eps, fr) {
  const [n, d] = fraction(eps);
  return (2n * n * BigInt(width) * (1n << BigInt(2 * fr)) + d) / (2n * d);
}

// [position][pair][cos, sin] in Q.30.
export function rope(config, positions) {
  const head = config.head_width || config.width / config.heads;
  const pairs = head / 2;
  const log = ln(config.rope_base);
  const steps = [];
  for (let j = 0; j < pairs; j++) {
    let angle = expNegative((log * BigInt(2 * j)) / BigInt(head));
    if (config.rope_factors.length) {
      const [n, d] = fraction(config.rope_factors[j]);
      angle = (angle * d) / n;
    }
    steps.push(sinCos(angle));
  }
  const made = new Int32Array(positions * pairs * 2);
  const at = steps.map(() => [1n << 160n, 0n]);
  for (let p = 0; p < positions; p++) {
    for (let j = 0; j < pairs; j++) {
      const [a, b] = at[j];
      const [s, c] = steps[j];
      made[(p * pairs + j) * 2] = Number((a + (1n << 129n)) >> 130n);
      made[(p * pairs + j) * 2 + 1] = Number((b + (1n << 129n)) >> 130n);
      at[j] = [(a * c - b * s) >> 160n, (a * s + b * c) >> 160n];
    }
  }
  return made;
}
