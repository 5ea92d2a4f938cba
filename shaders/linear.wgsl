// Linear (5.4), the embedding (5.1), and the best token (9).
//
// Rows lie in tiles of 64, one row a lane. For each group of 32 columns a lane has its q: one vec4<u32> of unsigned
// nibbles, or two of signed bytes, the first element lowest; and D | M << 16. Inside a group (of 32 nibbles, or 8
// bytes) sums are f32 of whole numbers up to 2^24, exact in any order (section 7, c); beyond, they are integers.

struct Matrix {
  rows: u32,
  groups: u32,
  scale: i32,       // Fin - Fout; of the embedding -FR
  out_stride: u32,
  out_first: u32,   // where the matrix's first row stands in the output
  add: u32,         // 1: y is added to what stands there
  count: u32,       // tokens
  row_first: u32,   // of the embedding: the id of the first row
}

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;          // Rm | Re << 16
@group(0) @binding(3) var<storage, read> digits: array<vec4<f32>>;  // [token][columns]
@group(0) @binding(4) var<storage, read> sums: array<i32>;          // [token][groups + 1]
@group(0) @binding(5) var<storage, read_write> out: array<i32>;
@group(0) @binding(6) var<uniform> matrix: Matrix;
@group(0) @binding(7) var<storage, read> ids: array<u32>;

const TOKENS = 1u;  // a workgroup's tokens; hosts write another number here

fn nibbles(word: u32) -> vec4<f32> {
  return vec4<f32>(vec4<u32>(word & 15u, (word >> 4u) & 15u, (word >> 8u) & 15u, (word >> 12u) & 15u));
}

fn bytes(word: u32) -> vec4<f32> {
  let v = bitcast<i32>(word);
  return vec4<f32>(vec4<i32>((v << 24u) >> 24u, (v << 16u) >> 24u, (v << 8u) >> 24u, v >> 24u));
}

fn nibbles8(word: u32, at: u32) -> f32 {
  return dot(nibbles(word), digits[at]) + dot(nibbles(word >> 16u), digits[at + 1u]);
}

fn bytes8(one: u32, next: u32, at: u32) -> i32 {
  return i32(dot(bytes(one), digits[at]) + dot(bytes(next), digits[at + 1u]));
}

fn finish(row: u32, token: u32, sum: vec2<u32>) {
  if (row >= matrix.rows || token >= matrix.count) { return; }
  let factor = rows[row];
  let shift = sums[token * (matrix.groups + 1u) + matrix.groups];
  let s = min(i32((factor >> 16u) & 255u) + matrix.scale - shift, 62);
  let y = rescale(mul64(sum, factor & 0xffffu), s);
  let at = token * matrix.out_stride + matrix.out_first + row;
  if (matrix.add == 1u) { out[at] = sat_add(out[at], y); } else { out[at] = y; }
}

@compute @workgroup_size(64)
fn nibble_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.y * TOKENS;
  var high: array<i32, TOKENS>;
  var low: array<i32, TOKENS>;
  var sum: array<vec2<u32>, TOKENS>;
  var at = group.x * matrix.groups * 64u + lane;
  for (var g = 0u; g < matrix.groups; g++) {
    let q = weights[at];
    let both = scales[at];
    at += 64u;
    let d = bitcast<i32>(both << 16u) >> 16u;
    let m = bitcast<i32>(both) >> 16u;
    for (var t = 0u; t < TOKENS; t++) {
      let token = min(first + t, matrix.count - 1u);
      let x = (token * matrix.groups + g) * 8u;
      let a = i32(nibbles8(q.x, x) + nibbles8(q.y, x + 2u) + nibbles8(q.z, x + 4u) + nibbles8(q.w, x + 6u));
      let s = sums[token * (matrix.groups + 1u) + g];
      high[t] += d * (a >> 10u) + m * (s >> 10u);
      low[t] += d * (a & 1023) + m * (s & 1023);
    }
    if ((g & 31u) == 31u || g + 1u == matrix.groups) {
      for (var t = 0u; t < TOKENS; t++) {
        sum[t] = add64(sum[t], add64(shl64(wide(high[t]), 10u), wide(low[t])));
        high[t] = 0;
        low[t] = 0;
      }
    }
  }
  for (var t = 0u; t < TOKENS; t++) { finish(group.x * 64u + lane, first + t, sum[t]); }
}

@compute @workgroup_size(64)
fn byte_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.y * TOKENS;
  var high: array<i32, TOKENS>;
  var low: array<i32, TOKENS>;
  var sum: array<vec2<u32>, TOKENS>;
  var at = group.x * matrix.groups * 64u + lane;
  for (var g = 0u; g < matrix.groups; g++) {
    let q = weights[at * 2u];
    let p = weights[at * 2u + 1u];
    let both = scales[at];
    at += 64u;
    let d = bitcast<i32>(both << 16u) >> 16u;
    let m = bitcast<i32>(both) >> 16u;
    for (var t = 0u; t < TOKENS; t++) {
      let token = min(first + t, matrix.count - 1u);
      let x = (token * matrix.groups + g) * 8u;
      let a = bytes8(q.x, q.y, x) + bytes8(q.z, q.w, x + 2u) + bytes8(p.x, p.y, x + 4u) + bytes8(p.z, p.w, x + 6u);
      let s = sums[token * (matrix.groups + 1u) + g];
      high[t] += d * (a >> 10u) + m * (s >> 10u);
      low[t] += d * (a & 1023) + m * (s & 1023);
    }
    if ((g & 3u) == 3u || g + 1u == matrix.groups) {
      for (var t = 0u; t < TOKENS; t++) {
        sum[t] = add64(sum[t], add64(shl64(wide(high[t]), 10u), wide(low[t])));
        high[t] = 0;
        low[t] = 0;
      }
    }
  }
  for (var t = 0u; t < TOKENS; t++) { finish(group.x * 64u + lane, first + t, sum[t]); }
}

// One column of a token's row of the embedding: q is taken out of its tile.
fn embedded(row: u32, column: u32, q: i32) -> i32 {
  let both = scales[((row / 64u) * matrix.groups + column / 32u) * 64u + (row & 63u)];
  let w = (bitcast<i32>(both << 16u) >> 16u) * q + (bitcast<i32>(both) >> 16u);
  let factor = rows[row];
  return rescale(imul64(w, i32(factor & 0xffffu)), i32((factor >> 16u) & 255u) + matrix.scale);
}

@compute @workgroup_size(64)
fn embed_nibbles(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let id = ids[group.x];
  if (id < matrix.row_first || id >= matrix.row_first + matrix.rows) { return; }
  let row = id - matrix.row_first;
  for (var i = lane; i < matrix.groups * 32u; i += 64u) {
    let q = weights[((row / 64u) * matrix.groups + i / 32u) * 64u + (row & 63u)];
    let word = q[(i & 31u) >> 3u];
    out[group.x * matrix.groups * 32u + i] = embedded(row, i, i32((word >> ((i & 7u) * 4u)) & 15u));
  }
}

@compute @workgroup_size(64)
fn embed_bytes(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let id = ids[group.x];
  if (id < matrix.row_first || id >= matrix.row_first + matrix.rows) { return; }
  let row = id - matrix.row_first;
  for (var i = lane; i < matrix.groups * 32u; i += 64u) {
    let at = ((row / 64u) * matrix.groups + i / 32u) * 64u + (row & 63u);
    let q = weights[at * 2u + ((i & 31u) >> 4u)];
    let word = bitcast<i32>(q[(i & 15u) >> 2u]);
    out[group.x * matrix.groups * 32u + i] = embedded(row, i, (word << (24u - (i & 3u) * 8u)) >> 24u);
  }
}
