// HPI-1 integers. Put before each of the other files.
//
// 64-bit integers are vec2<u32>(low, high), two's complement. RSR and SAT are those of section 1: a shift to the
// right rounds halves up, a negative one shifts left, and every store saturates to i32.

fn add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn sub64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn wide(v: i32) -> vec2<u32> {
  return vec2<u32>(bitcast<u32>(v), bitcast<u32>(v >> 31u));
}

fn umul64(a: u32, b: u32) -> vec2<u32> {
  let a0 = a & 0xffffu;
  let a1 = a >> 16u;
  let b0 = b & 0xffffu;
  let b1 = b >> 16u;
  let p00 = a0 * b0;
  let mid = a0 * b1 + (p00 >> 16u);
  let more = a1 * b0 + (mid & 0xffffu);
  return vec2<u32>((more << 16u) | (p00 & 0xffffu), a1 * b1 + (mid >> 16u) + (more >> 16u));
}

fn imul64(a: i32, b: i32) -> vec2<u32> {
  let p = umul64(bitcast<u32>(a), bitcast<u32>(b));
  return vec2<u32>(p.x, p.y - select(0u, bitcast<u32>(b), a < 0) - select(0u, bitcast<u32>(a), b < 0));
}

// v * m, modulo 2^64.
fn mul64(v: vec2<u32>, m: u32) -> vec2<u32> {
  let p = umul64(v.x, m);
  return vec2<u32>(p.x, p.y + v.y * m);
}

// v * 2^s for s from 0 to 63.
fn shl64(v: vec2<u32>, s: u32) -> vec2<u32> {
  if (s == 0u) { return v; }
  if (s >= 32u) { return vec2<u32>(0u, v.x << ((s - 32u) & 31u)); }
  return vec2<u32>(v.x << (s & 31u), (v.y << (s & 31u)) | (v.x >> ((32u - s) & 31u)));
}

// floor(v / 2^s) for s from 0 to 63, v signed.
fn asr64(v: vec2<u32>, s: u32) -> vec2<u32> {
  if (s == 0u) { return v; }
  let high = bitcast<i32>(v.y);
  let sign = bitcast<u32>(high >> 31u);
  if (s >= 32u) { return vec2<u32>(bitcast<u32>(high >> ((s - 32u) & 31u)), sign); }
  return vec2<u32>((v.x >> (s & 31u)) | (v.y << ((32u - s) & 31u)), bitcast<u32>(high >> (s & 31u)));
}

// RSR(v, s) for s from 1 to 62.
fn round64(v: vec2<u32>, s: u32) -> vec2<u32> {
  return asr64(add64(v, shl64(vec2<u32>(1u, 0u), s - 1u)), s);
}

fn sat64(v: vec2<u32>) -> i32 {
  let low = bitcast<i32>(v.x);
  if (v.y == bitcast<u32>(low >> 31u)) { return low; }
  return select(2147483647, -2147483647 - 1, (v.y >> 31u) == 1u);
}

// SAT(RSR(v, s)) for abs(v) <= 2^62 and any s.
fn rescale(v: vec2<u32>, s: i32) -> i32 {
  if (s > 62) { return 0; }
  if (s > 0) { return sat64(round64(v, u32(s))); }
  let known = sat64(v);
  if (s == 0 || known == 0) { return known; }
  let most = select(2147483647, -2147483647 - 1, known < 0);
  if (s <= -31) { return most; }
  let left = u32(-s);
  let rest = known >> ((31u - left) & 31u);
  return select(most, known << (left & 31u), rest == 0 || rest == -1);
}

fn sat_add(a: i32, b: i32) -> i32 {
  return sat64(add64(wide(a), wide(b)));
}

// RSR(v, s) of 32 bits, for s from 0 to 31.
fn rsr32(v: i32, s: u32) -> i32 {
  if (s == 0u) { return v; }
  return (v >> (s & 31u)) + ((v >> ((s - 1u) & 31u)) & 1);
}

// abs(v), exact for -2^31 too.
fn size_of(v: i32) -> u32 {
  return select(bitcast<u32>(v), 0u - bitcast<u32>(v), v < 0);
}

fn bit_length(u: u32) -> i32 {
  return 32 - i32(countLeadingZeros(u));
}

fn bit_length64(v: vec2<u32>) -> i32 {
  return select(bit_length(v.x), 32 + bit_length(v.y), v.y != 0u);
}

// One digit of Quantise (5.3): RSR(v, shift), shift from -14 to 18.
fn digit(v: i32, shift: i32) -> i32 {
  if (shift <= 0) { return v << (u32(-shift) & 31u); }
  return rsr32(v, u32(shift));
}

fn isqrt(u: u32) -> u32 {
  var root = 0u;
  for (var bit = 15; bit >= 0; bit--) {
    let more = root | (1u << (u32(bit) & 31u));
    if (more * more <= u) { root = more; }
  }
  return root;
}

// EXP2N (3.1) from two neighbours of its table.
fn exp2_between(one: u32, next: u32, t: u32) -> u32 {
  let n = t >> 16u;
  if (n >= 31u) { return 0u; }
  return (one - (((one - next) * (t & 255u) + 128u) >> 8u)) >> (n & 31u);
}
