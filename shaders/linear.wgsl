// Linear (5.4), its biases, and the embedding (5.1).
//
// Two ways of dividing the work, of which hosts take the faster: nibble_rows and byte_rows have 64 lanes with four rows
// each, split_rows has 256 lanes, four to a row.
//
// Rows lie in tiles of 64, one row a lane. For each group of 32 columns a lane has its q: one vec4<u32> of unsigned
// nibbles, or two of signed bytes, the first element lowest; and D | M << 16. Where groups are of 16 columns (Q6_K),
// two make one, and the second's D stands in the place of M, which they do not have. Inside a group (of 32 nibbles, or 8
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

const TOKENS = 1u;  // tokens of a workgroup, 1 or 4: hosts write the number here
const GROUP = 32u;  // columns that have a scale of their own, 32 or 16: this too
const WIDTH = 1u;   // vec4<u32> of a group and row in split_rows: 1 of nibbles, 2 of bytes; this too

// A lane has four rows, one in each of four tiles, and a sum for each: top * 2^26 + high * 2^10 + low.
struct Sum {
  top: vec4<i32>,
  high: vec4<i32>,
  low: vec4<i32>,
}

// A group's numbers of four rows: 4 columns of each.
struct Four {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
}

fn nibbles(word: u32) -> vec4<f32> {
  return vec4<f32>(vec4<u32>(word & 15u, (word >> 4u) & 15u, (word >> 8u) & 15u, (word >> 12u) & 15u));
}

fn bytes(word: u32) -> vec4<f32> {
  let v = bitcast<i32>(word);
  return vec4<f32>(vec4<i32>((v << 24u) >> 24u, (v << 16u) >> 24u, (v << 8u) >> 24u, v >> 24u));
}

fn four_nibbles(words: vec4<u32>) -> Four {
  return Four(nibbles(words.x), nibbles(words.y), nibbles(words.z), nibbles(words.w));
}

fn four_bytes(words: vec4<u32>) -> Four {
  return Four(bytes(words.x), bytes(words.y), bytes(words.z), bytes(words.w));
}

fn dots(w: Four, x: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(dot(w.a, x), dot(w.b, x), dot(w.c, x), dot(w.d, x));
}

// Add a group's product a and its digits' sum s, scaled. Before 32 bits are full, carry() makes room.
fn add(sum: ptr<function, Sum>, both: vec4<u32>, a: vec4<i32>, s: i32) {
  let d = bitcast<vec4<i32>>(both << vec4<u32>(16u)) >> vec4<u32>(16u);
  let m = bitcast<vec4<i32>>(both) >> vec4<u32>(16u);
  (*sum).high += d * (a >> vec4<u32>(10u)) + m * (s >> 10u);
  (*sum).low += d * (a & vec4<i32>(1023)) + m * (s & 1023);
}

// Of two times 16 columns.
fn add_halves(sum: ptr<function, Sum>, both: vec4<u32>, left: vec4<i32>, right: vec4<i32>, s: i32) {
  if (GROUP == 16u) {
    add(sum, both, left, 0);
    add(sum, both >> vec4<u32>(16u), right, 0);
  } else {
    add(sum, both, left + right, s);
  }
}

fn carry(sum: ptr<function, Sum>) {
  let high = (*sum).high + ((*sum).low >> vec4<u32>(10u));
  (*sum).low = (*sum).low & vec4<i32>(1023);
  (*sum).high = high & vec4<i32>(65535);
  (*sum).top += high >> vec4<u32>(16u);
}

// Where a lane's group of a tile stands; tiles beyond the last are read as the last, and never written.
fn place(tile: u32, g: u32, lane: u32) -> u32 {
  return (min(tile, (matrix.rows - 1u) / 64u) * matrix.groups + g) * 64u + lane;
}

fn finish_row(row: u32, token: u32, shift: i32, top: i32, high: i32, low: i32) {
  if (row >= matrix.rows) { return; }
  let factor = rows[row];
  let sum = add64(shl64(wide(top), 26u), add64(shl64(wide(high), 10u), wide(low)));
  let s = min(i32((factor >> 16u) & 255u) + matrix.scale - shift, 62);
  let y = rescale(mul64(sum, factor & 0xffffu), s);
  let at = token * matrix.out_stride + matrix.out_first + row;
  if (matrix.add == 1u) { out[at] = sat_add(out[at], y); } else { out[at] = y; }
}

fn finish(tile: u32, token: u32, lane: u32, sum: Sum) {
  if (token >= matrix.count) { return; }
  let shift = sums[token * (matrix.groups + 1u) + matrix.groups];
  finish_row(tile * 64u + lane, token, shift, sum.top.x, sum.high.x, sum.low.x);
  finish_row(tile * 64u + 64u + lane, token, shift, sum.top.y, sum.high.y, sum.low.y);
  finish_row(tile * 64u + 128u + lane, token, shift, sum.top.z, sum.high.z, sum.low.z);
  finish_row(tile * 64u + 192u + lane, token, shift, sum.top.w, sum.high.w, sum.low.w);
}

// What four rows make of 8 columns of up to four tokens.
struct Product {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
}

fn eight(left: Four, right: Four, first: u32, x: u32) -> Product {
  var found = Product();
  let width = matrix.groups * 8u;
  let x0 = known(first) * width + x;
  found.a = dots(left, digits[x0]) + dots(right, digits[x0 + 1u]);
  if (TOKENS > 1u) {
    let x1 = known(first + 1u) * width + x;
    let x2 = known(first + 2u) * width + x;
    let x3 = known(first + 3u) * width + x;
    found.b = dots(left, digits[x1]) + dots(right, digits[x1 + 1u]);
    found.c = dots(left, digits[x2]) + dots(right, digits[x2 + 1u]);
    found.d = dots(left, digits[x3]) + dots(right, digits[x3 + 1u]);
  }
  return found;
}

fn eight_nibbles(words: vec4<u32>, first: u32, x: u32) -> Product {
  return eight(four_nibbles(words), four_nibbles(words >> vec4<u32>(16u)), first, x);
}

fn eight_bytes(words: vec4<u32>, more: vec4<u32>, first: u32, x: u32) -> Product {
  return eight(four_bytes(words), four_bytes(more), first, x);
}

// A token that is there, for those of a workgroup that are not.
fn known(token: u32) -> u32 {
  return min(token, matrix.count - 1u);
}

@compute @workgroup_size(64)
fn nibble_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let tile = group.x * 4u;
  let first = group.y * TOKENS;
  var s0 = Sum();
  var s1 = Sum();
  var s2 = Sum();
  var s3 = Sum();
  for (var g = 0u; g < matrix.groups; g++) {
    let p = vec4<u32>(place(tile, g, lane), place(tile + 1u, g, lane), place(tile + 2u, g, lane), place(tile + 3u, g, lane));
    let both = vec4<u32>(scales[p.x], scales[p.y], scales[p.z], scales[p.w]);
    let q = weights[p.x];
    let r = weights[p.y];
    let s = weights[p.z];
    let t = weights[p.w];
    let x = g * 8u;
    let e = eight_nibbles(vec4<u32>(q.x, r.x, s.x, t.x), first, x);
    let f = eight_nibbles(vec4<u32>(q.y, r.y, s.y, t.y), first, x + 2u);
    let h = eight_nibbles(vec4<u32>(q.z, r.z, s.z, t.z), first, x + 4u);
    let i = eight_nibbles(vec4<u32>(q.w, r.w, s.w, t.w), first, x + 6u);
    let width = matrix.groups + 1u;
    add(&s0, both, vec4<i32>(e.a + f.a + h.a + i.a), sums[known(first) * width + g]);
    if (TOKENS > 1u) {
      add(&s1, both, vec4<i32>(e.b + f.b + h.b + i.b), sums[known(first + 1u) * width + g]);
      add(&s2, both, vec4<i32>(e.c + f.c + h.c + i.c), sums[known(first + 2u) * width + g]);
      add(&s3, both, vec4<i32>(e.d + f.d + h.d + i.d), sums[known(first + 3u) * width + g]);
    }
    if ((g & 15u) == 15u) {
      carry(&s0);
      if (TOKENS > 1u) {
        carry(&s1);
        carry(&s2);
        carry(&s3);
      }
    }
  }
  finish(tile, first, lane, s0);
  if (TOKENS > 1u) {
    finish(tile, first + 1u, lane, s1);
    finish(tile, first + 2u, lane, s2);
    finish(tile, first + 3u, lane, s3);
  }
}

@compute @workgroup_size(64)
fn byte_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let tile = group.x * 4u;
  let first = group.y * TOKENS;
  var s0 = Sum();
  var s1 = Sum();
  var s2 = Sum();
  var s3 = Sum();
  for (var g = 0u; g < matrix.groups; g++) {
    let p = vec4<u32>(place(tile, g, lane), place(tile + 1u, g, lane), place(tile + 2u, g, lane), place(tile + 3u, g, lane));
    let both = vec4<u32>(scales[p.x], scales[p.y], scales[p.z], scales[p.w]);
    let x = g * 8u;
    let q = weights[2u * p.x];
    let r = weights[2u * p.y];
    let s = weights[2u * p.z];
    let t = weights[2u * p.w];
    let e = eight_bytes(vec4<u32>(q.x, r.x, s.x, t.x), vec4<u32>(q.y, r.y, s.y, t.y), first, x);
    let f = eight_bytes(vec4<u32>(q.z, r.z, s.z, t.z), vec4<u32>(q.w, r.w, s.w, t.w), first, x + 2u);
    let k = weights[2u * p.x + 1u];
    let l = weights[2u * p.y + 1u];
    let m = weights[2u * p.z + 1u];
    let n = weights[2u * p.w + 1u];
    let h = eight_bytes(vec4<u32>(k.x, l.x, m.x, n.x), vec4<u32>(k.y, l.y, m.y, n.y), first, x + 4u);
    let i = eight_bytes(vec4<u32>(k.z, l.z, m.z, n.z), vec4<u32>(k.w, l.w, m.w, n.w), first, x + 6u);
    let width = matrix.groups + 1u;
    add_halves(&s0, both, vec4<i32>(e.a) + vec4<i32>(f.a), vec4<i32>(h.a) + vec4<i32>(i.a), sums[known(first) * width + g]);
    if (TOKENS > 1u) {
      add_halves(&s1, both, vec4<i32>(e.b) + vec4<i32>(f.b), vec4<i32>(h.b) + vec4<i32>(i.b), sums[known(first + 1u) * width + g]);
      add_halves(&s2, both, vec4<i32>(e.c) + vec4<i32>(f.c), vec4<i32>(h.c) + vec4<i32>(i.c), sums[known(first + 2u) * width + g]);
      add_halves(&s3, both, vec4<i32>(e.d) + vec4<i32>(f.d), vec4<i32>(h.d) + vec4<i32>(i.d), sums[known(first + 3u) * width + g]);
    }
    if ((g & 3u) == 3u) {
      carry(&s0);
      if (TOKENS > 1u) {
        carry(&s1);
        carry(&s2);
        carry(&s3);
      }
    }
  }
  finish(tile, first, lane, s0);
  if (TOKENS > 1u) {
    finish(tile, first + 1u, lane, s1);
    finish(tile, first + 2u, lane, s2);
    finish(tile, first + 3u, lane, s3);
  }
}

const SLICES = 4u;
var<workgroup> parts: array<Sum, 256>;

// The products of one vec4<u32> of a row with a token's digits that begin at x: whole numbers, exact.
fn nibble_products(q: vec4<u32>, x: u32) -> i32 {
  let a = dot(nibbles(q.x), digits[x]) + dot(nibbles(q.x >> 16u), digits[x + 1u]);
  let b = dot(nibbles(q.y), digits[x + 2u]) + dot(nibbles(q.y >> 16u), digits[x + 3u]);
  let c = dot(nibbles(q.z), digits[x + 4u]) + dot(nibbles(q.z >> 16u), digits[x + 5u]);
  let d = dot(nibbles(q.w), digits[x + 6u]) + dot(nibbles(q.w >> 16u), digits[x + 7u]);
  return i32(a + b + c + d);
}

fn byte_products(q: vec4<u32>, x: u32) -> i32 {
  return i32(dot(bytes(q.x), digits[x]) + dot(bytes(q.y), digits[x + 1u]))
    + i32(dot(bytes(q.z), digits[x + 2u]) + dot(bytes(q.w), digits[x + 3u]));
}

// The two halves of a group with a token's digits; nibbles lie in one vec4<u32>.
fn halves(q: vec4<u32>, r: vec4<u32>, token: u32, g: u32) -> vec2<i32> {
  let x = (known(token) * matrix.groups + g) * 8u;
  if (WIDTH == 1u) { return vec2<i32>(nibble_products(q, x), 0); }
  return vec2<i32>(byte_products(q, x), byte_products(r, x + 4u));
}

fn sum_of(token: u32, g: u32) -> i32 {
  return sums[known(token) * (matrix.groups + 1u) + g];
}

// Add the products a of up to four tokens with one row, and their digits' sums s, scaled.
fn add_row(sum: ptr<function, Sum>, d: i32, m: i32, a: vec4<i32>, s: vec4<i32>) {
  (*sum).high += d * (a >> vec4<u32>(10u)) + m * (s >> vec4<u32>(10u));
  (*sum).low += d * (a & vec4<i32>(1023)) + m * (s & vec4<i32>(1023));
}

@compute @workgroup_size(256)
fn split_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.y * TOKENS;
  let row = lane & 63u;
  var sum = Sum();
  var since = 0u;
  for (var g = lane >> 6u; g < matrix.groups; g += SLICES) {
    let at = (group.x * matrix.groups + g) * 64u + row;
    let d = bitcast<i32>(scales[at] << 16u) >> 16u;
    let m = bitcast<i32>(scales[at]) >> 16u;
    let q = weights[WIDTH * at];
    let r = weights[WIDTH * at + WIDTH - 1u];
    let a = halves(q, r, first, g);
    var left = vec4<i32>(a.x, 0, 0, 0);
    var right = vec4<i32>(a.y, 0, 0, 0);
    var s = vec4<i32>(sum_of(first, g), 0, 0, 0);
    if (TOKENS > 1u) {
      let b = halves(q, r, first + 1u, g);
      let c = halves(q, r, first + 2u, g);
      let e = halves(q, r, first + 3u, g);
      left = vec4<i32>(a.x, b.x, c.x, e.x);
      right = vec4<i32>(a.y, b.y, c.y, e.y);
      s = vec4<i32>(s.x, sum_of(first + 1u, g), sum_of(first + 2u, g), sum_of(first + 3u, g));
    }
    if (GROUP == 16u) {
      add_row(&sum, d, 0, left, s);
      add_row(&sum, m, 0, right, s);
    } else {
      add_row(&sum, d, m, left + right, s);
    }
    since += 1u;
    if (since == 4u) {
      since = 0u;
      carry(&sum);
    }
  }
  carry(&sum);
  parts[lane] = sum;
  workgroupBarrier();
  let slot = lane >> 6u;
  let token = first + slot;
  if (slot >= TOKENS || token >= matrix.count) { return; }
  var whole = Sum();
  for (var slice = 0u; slice < SLICES; slice++) {
    let part = parts[slice * 64u + row];
    whole.top += part.top;
    whole.high += part.high;
    whole.low += part.low;
  }
  let shift = sums[token * (matrix.groups + 1u) + matrix.groups];
  finish_row(group.x * 64u + row, token, shift, whole.top[slot], whole.high[slot], whole.low[slot]);
}

// A bias (in sums) for each token, to which its matrix then adds.
@compute @workgroup_size(64)
fn spread(@builtin(global_invocation_id) at: vec3<u32>) {
  if (at.x < matrix.rows) { out[at.y * matrix.out_stride + at.x] = sums[at.x]; }
}

// One column of a token's row of the embedding: q is taken out of its tile.
fn embedded(row: u32, column: u32, q: i32) -> i32 {
  let both = scales[((row / 64u) * matrix.groups + column / 32u) * 64u + (row & 63u)];
  let low = bitcast<i32>(both << 16u) >> 16u;
  let high = bitcast<i32>(both) >> 16u;
  var w = low * q + high;
  if (GROUP == 16u) { w = select(low, high, (column & 16u) == 16u) * q; }
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
