// RMSNorm (5.2) and Quantise (5.3) of whole rows; also Quantise alone, SwiGLU (5.8) with Quantise, and RMSNorm of heads.
//
// One workgroup a row. Out: digits [row][width] as f32 (whole numbers), sums [row][width / 32 + 1] i32: the digits'
// sum of each group of 32, then the shift.

struct Row {
  width: u32,
  first: u32,      // row of the input that the first workgroup reads; of head_norm: rows of a token
  cn: u32,
  kn: i32,
  eg: i32,
  eps_low: u32,
  eps_high: u32,
  fn_out: i32,
}

@group(0) @binding(0) var<storage, read_write> input: array<i32>;   // [row][width], SwiGLU: [row][2 * width]
@group(0) @binding(1) var<storage, read> gain: array<i32>;          // [width]; SwiGLU: the table of EXP2
@group(0) @binding(2) var<storage, read_write> digits: array<f32>;
@group(0) @binding(3) var<storage, read_write> sums: array<i32>;
@group(0) @binding(4) var<uniform> row: Row;
@group(0) @binding(5) var<storage, read_write> between: array<i32>; // [row][width] before it is quantised

const LANES = 64u;
var<workgroup> parts: array<u32, 64>;
var<workgroup> more: array<u32, 64>;

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

fn total(lane: u32, low: u32, high: u32) -> vec2<u32> {
  parts[lane] = low;
  more[lane] = high;
  workgroupBarrier();
  for (var span = LANES / 2u; span > 0u; span = span / 2u) {
    if (lane < span) {
      parts[lane] += parts[lane + span];
      more[lane] += more[lane + span];
    }
    workgroupBarrier();
  }
  let found = add64(vec2<u32>(parts[0], 0u), shl64(vec2<u32>(more[0], 0u), 16u));
  workgroupBarrier();
  return found;
}

// Quantise what stands in between, its largest value being known.
fn quantise(at: u32, lane: u32, largest: u32) {
  let shift = bit_length(largest) - 14;
  for (var i = lane; i < row.width; i += LANES) {
    digits[at * row.width + i] = f32(digit(between[at * row.width + i], shift));
  }
  storageBarrier();
  workgroupBarrier();
  let groups = row.width / 32u;
  for (var g = lane; g < groups; g += LANES) {
    var sum = 0;
    for (var i = 0u; i < 32u; i++) { sum += i32(digits[at * row.width + g * 32u + i]); }
    sums[at * (groups + 1u) + g] = sum;
  }
  if (lane == 0u) { sums[at * (groups + 1u) + groups] = shift; }
}

// What a row that starts there is multiplied with before its weights: the factor, and the shift behind it less EG.
struct Root {
  factor: i32,
  shift: i32,
}

fn inverse_root(start: u32, lane: u32) -> Root {
  var own = 0u;
  for (var i = lane; i < row.width; i += LANES) { own = max(own, size_of(input[start + i])); }
  let a = u32(max(bit_length(highest(lane, own)) - 15, 0));
  var low = 0u;
  var high = 0u;
  for (var i = lane; i < row.width; i += LANES) {
    let s = rsr32(input[start + i], a);
    let square = u32(s * s);
    low += square & 0xffffu;
    high += square >> 16u;
  }
  let eps = asr64(vec2<u32>(row.eps_low, row.eps_high), min(2u * a, 62u));
  var s = add64(total(lane, low, high), eps);
  if (s.x == 0u && s.y == 0u) { s = vec2<u32>(1u, 0u); }
  let length = bit_length64(s);
  var k = 31 - length;
  k -= k & 1;
  if (length + k < 31) { k += 2; }
  var v: u32;
  if (k > 0) { v = shl64(s, u32(k)).x; } else { v = asr64(s, u32(-k)).x; }
  let r = row.cn / max(isqrt(v), 1u);
  return Root(i32(r), row.kn - 16 - (k >> 1u) + i32(a) - row.fn_out);
}

fn normed(x: i32, weight: i32, eg: i32, root: Root) -> i32 {
  let g = sat64(round64(imul64(weight, root.factor), 16u));
  return rescale(imul64(x, g), eg + root.shift);
}

@compute @workgroup_size(64)
fn rms_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let at = group.x;
  let start = (row.first + at) * row.width;
  let root = inverse_root(start, lane);
  var own = 0u;
  for (var i = lane; i < row.width; i += LANES) {
    let y = normed(input[start + i], gain[i], row.eg, root);
    between[at * row.width + i] = y;
    own = max(own, size_of(y));
  }
  quantise(at, lane, highest(lane, own));
}

// Each head of q and k, in place. gain: [head][width + 1], the last is EG.
@compute @workgroup_size(64)
fn head_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * row.first + group.x) * row.width;
  let weights = group.x * (row.width + 1u);
  let root = inverse_root(start, lane);
  for (var i = lane; i < row.width; i += LANES) {
    input[start + i] = normed(input[start + i], gain[weights + i], gain[weights + row.width], root);
  }
}

@compute @workgroup_size(64)
fn only_quantise(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let at = group.x;
  var own = 0u;
  for (var i = lane; i < row.width; i += LANES) {
    let y = input[at * row.width + i];
    between[at * row.width + i] = y;
    own = max(own, size_of(y));
  }
  quantise(at, lane, highest(lane, own));
}

fn exp2n(t: u32) -> u32 {
  let i = (t & 0xffffu) >> 8u;
  return exp2_between(u32(gain[i]), u32(gain[i + 1u]), t);
}

fn sigmoid(g: i32) -> u32 {
  let z = min(size_of(g), 24u * 65536u);
  let e = exp2n(umul64(2u * z, 3098164009u).y);
  let positive = (2147483648u / (((1u << 30u) + e) >> 15u)) << 14u;
  if (g >= 0) { return positive; }
  return umul64(4u * e, positive).y;
}

@compute @workgroup_size(64)
fn swiglu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let at = group.x;
  var own = 0u;
  for (var i = lane; i < row.width; i += LANES) {
    let gate = input[2u * at * row.width + i];
    let up = input[(2u * at + 1u) * row.width + i];
    let silu = rescale(imul64(gate, i32(sigmoid(gate))), 30);
    let y = rescale(imul64(silu, up), 18);
    between[at * row.width + i] = y;
    own = max(own, size_of(y));
  }
  quantise(at, lane, highest(lane, own));
}
