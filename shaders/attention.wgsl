// RoPE (5.5), the cache (5.6) and attention (5.7).
//
// A position of a layer's cache has, for each kv head, k's digits (two i16 a word), k's shift, v's digits.

struct Heads {
  heads: u32,
  kv_heads: u32,
  head: u32,      // width of a head
  first: u32,     // position of the first token
  c2: u32,
  neox: u32,
  room: u32,      // positions that a row of scores has
  row: u32,       // of the buffers below, the session's first token's; others may be computed beside it
}

@group(0) @binding(0) var<storage, read_write> qkv: array<i32>;    // [token][heads + 2 * kv_heads][head]; q becomes digits
@group(0) @binding(1) var<storage, read_write> shifts: array<i32>; // [token][heads]: of q
@group(0) @binding(2) var<storage, read_write> cache: array<u32>;  // [position][kv_heads][head + 1]
@group(0) @binding(3) var<storage, read> table: array<i32>;        // RoPE: [position][pair][cos, sin]; attention: EXP2
@group(0) @binding(4) var<storage, read_write> scores: array<i32>; // [token][heads][room]
@group(0) @binding(5) var<storage, read_write> seen: array<i32>;   // [token][heads][head]
@group(0) @binding(6) var<uniform> h: Heads;

const LANES = 64u;
var<workgroup> parts: array<u32, 64>;
var<workgroup> more: array<u32, 64>;
var<workgroup> line: array<i32, 512>;

fn highest(lane: u32, own: u32) -> u32 {
  parts[lane] = own;
  workgroupBarrier();
  for (var span = LANES / 2u; span > 0u; span = span / 2u) {
    if (lane < span) { parts[lane] = max(parts[lane], parts[lane + span]); }
    workgroupBarrier();
  }
  let found = parts[0];
  workgroupBarrier();
  return found;
}

fn packed(lane: u32, to: u32) {
  for (var j = lane; j < h.head / 2u; j += LANES) {
    cache[to + j] = (bitcast<u32>(line[2u * j]) & 0xffffu) | (bitcast<u32>(line[2u * j + 1u]) << 16u);
  }
}

@compute @workgroup_size(64)
fn turn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let token = h.row + group.y;
  let index = group.x;
  let start = (token * (h.heads + 2u * h.kv_heads) + index) * h.head;
  let position = h.first + group.y;
  if (index >= h.heads + h.kv_heads) {
    for (var i = lane; i < h.head; i += LANES) { line[i] = clamp(rsr32(qkv[start + i], 6u), -32639, 32639); }
    workgroupBarrier();
    let kv = index - h.heads - h.kv_heads;
    packed(lane, (position * h.kv_heads + kv) * (h.head + 1u) + h.head / 2u + 1u);
    return;
  }
  let half = h.head / 2u;
  var own = 0u;
  for (var j = lane; j < half; j += LANES) {
    let i = select(2u * j, j, h.neox == 1u);
    let k = select(2u * j + 1u, j + half, h.neox == 1u);
    let a = qkv[start + i];
    let b = qkv[start + k];
    let cosine = table[(position * half + j) * 2u];
    let sine = table[(position * half + j) * 2u + 1u];
    line[i] = rescale(sub64(imul64(a, cosine), imul64(b, sine)), 30);
    line[k] = rescale(add64(imul64(a, sine), imul64(b, cosine)), 30);
    own = max(own, max(size_of(line[i]), size_of(line[k])));
  }
  let shift = bit_length(highest(lane, own)) - 14;
  for (var i = lane; i < h.head; i += LANES) { line[i] = digit(line[i], shift); }
  workgroupBarrier();
  if (index < h.heads) {
    for (var i = lane; i < h.head; i += LANES) { qkv[start + i] = line[i]; }
    if (lane == 0u) { shifts[token * h.heads + index] = shift; }
  } else {
    let to = (position * h.kv_heads + index - h.heads) * (h.head + 1u);
    packed(lane, to);
    if (lane == 0u) { cache[to + half] = bitcast<u32>(shift); }
  }
}

fn exp2n(t: u32) -> u32 {
  let i = (t & 0xffffu) >> 8u;
  return exp2_between(u32(table[i]), u32(table[i + 1u]), t);
}

@compute @workgroup_size(64)
fn look(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let token = h.row + group.y;
  let head = group.x;
  let kv = head * h.kv_heads / h.heads;
  let visible = h.first + group.y + 1u;
  let q = (token * (h.heads + 2u * h.kv_heads) + head) * h.head;
  let row = (token * h.heads + head) * h.room;
  let width = h.head + 1u;
  let half = h.head / 2u;
  let q_shift = shifts[token * h.heads + head];
  for (var i = lane; i < h.head; i += LANES) { line[i] = qkv[q + i]; }
  workgroupBarrier();
  var own = 0u;  // the largest score, moved up by 2^31
  for (var t = lane; t < visible; t += LANES) {
    let at = (t * h.kv_heads + kv) * width;
    var high = 0;
    var low = 0;
    for (var j = 0u; j < half; j++) {
      let word = bitcast<i32>(cache[at + j]);
      let one = (word << 16u) >> 16u;
      let two = word >> 16u;
      let x = line[2u * j];
      let y = line[2u * j + 1u];
      high += x * (one >> 8u) + y * (two >> 8u);
      low += x * (one & 255) + y * (two & 255);
    }
    let shift = 38 - q_shift - bitcast<i32>(cache[at + half]);
    let score = rescale(imul64(high + rsr32(low, 8u), i32(h.c2)), shift);
    scores[row + t] = score;
    own = max(own, bitcast<u32>(score) ^ 0x80000000u);
  }
  let best = highest(lane, own);
  var sum_low = 0u;
  var sum_high = 0u;
  for (var t = lane; t < visible; t += LANES) {
    let z = min(best - (bitcast<u32>(scores[row + t]) ^ 0x80000000u), 40u * 65536u);
    let e = u32(rsr32(i32(exp2n(z)), 8u));
    scores[row + t] = i32(e);
    sum_low += e & 0xffffu;
    sum_high += e >> 16u;
  }
  parts[lane] = sum_low;
  more[lane] = sum_high;
  storageBarrier();
  workgroupBarrier();
  for (var span = LANES / 2u; span > 0u; span = span / 2u) {
    if (lane < span) {
      parts[lane] += parts[lane + span];
      more[lane] += more[lane + span];
    }
    workgroupBarrier();
  }
  let z = add64(vec2<u32>(parts[0], 0u), shl64(vec2<u32>(more[0], 0u), 16u));
  let bits = bit_length64(z);
  let reciprocal = 2147483648u / max(round64(z, u32(bits - 16)).x, 1u);
  for (var i = lane; i < h.head; i += LANES) {
    var num = vec2<u32>(0u, 0u);
    var high = 0;
    var low = 0;
    for (var t = 0u; t < visible; t++) {
      let word = bitcast<i32>(cache[(t * h.kv_heads + kv) * width + half + 1u + i / 2u]);
      let v = select((word << 16u) >> 16u, word >> 16u, (i & 1u) == 1u);
      let e = scores[row + t];
      high += (e >> 11u) * v;
      low += (e & 2047) * v;
      if ((t & 15u) == 15u || t + 1u == visible) {
        num = add64(num, add64(shl64(wide(high), 11u), wide(low)));
        high = 0;
        low = 0;
      }
    }
    seen[(token * h.heads + head) * h.head + i] = rescale(mul64(round64(num, 8u), reciprocal), 31 - 16 + bits + 10 - 16 - 8);
  }
}
