// The choice of the next token among all of a vocabulary (9): greedy, or seeded with a temperature.
//
// One workgroup. A lane looks at neighbouring ids, so that sums run in the order of ids. The chosen one becomes the
// token that the next pass reads.

struct Choice {
  vocabulary: u32,
  most: u32,          // 40 * T16; 0: greedy
  inverse_low: u32,   // invT
  inverse_high: u32,
  random_low: u32,    // r of this position
  random_high: u32,
  unused: vec2<u32>,
}

@group(0) @binding(0) var<storage, read> logits: array<i32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;  // [0] becomes the chosen id
@group(0) @binding(2) var<storage, read> table: array<i32>;      // EXP2
@group(0) @binding(3) var<uniform> choice: Choice;

const LANES = 256u;
var<workgroup> values: array<i32, 256>;
var<workgroup> places: array<u32, 256>;
var<workgroup> lows: array<u32, 256>;
var<workgroup> highs: array<u32, 256>;
var<workgroup> owner: u32;

fn above(a: vec2<u32>, b: vec2<u32>) -> bool {
  return a.y > b.y || (a.y == b.y && a.x > b.x);
}

// floor(a * b / 2^64).
fn top64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let one = umul64(a.y, b.x);
  let other = umul64(a.x, b.y);
  let middle = add64(add64(vec2<u32>(one.x, 0u), vec2<u32>(other.x, 0u)), vec2<u32>(umul64(a.x, b.x).y, 0u));
  let outer = add64(vec2<u32>(one.y, 0u), vec2<u32>(other.y, 0u));
  return add64(add64(umul64(a.y, b.y), outer), vec2<u32>(middle.y, 0u));
}

fn weight(id: u32, best: i32) -> vec2<u32> {
  let z = min(bitcast<u32>(best) - bitcast<u32>(logits[id]), choice.most);
  let t = min(asr64(mul64(vec2<u32>(choice.inverse_low, choice.inverse_high), z), 31u).x, 31u * 65536u);
  let i = (t & 0xffffu) >> 8u;
  return vec2<u32>(exp2_between(u32(table[i]), u32(table[i + 1u]), t), 0u);
}

@compute @workgroup_size(256)
fn choose(@builtin(local_invocation_index) lane: u32) {
  let each = (choice.vocabulary + LANES - 1u) / LANES;
  let first = min(lane * each, choice.vocabulary);
  let last = min(first + each, choice.vocabulary);
  var own = -2147483647 - 1;
  var place = choice.vocabulary;
  for (var id = first; id < last; id++) {
    if (place == choice.vocabulary || logits[id] > own) {
      own = logits[id];
      place = id;
    }
  }
  values[lane] = own;
  places[lane] = place;
  workgroupBarrier();
  for (var span = LANES / 2u; span > 0u; span = span / 2u) {
    if (lane < span) {
      let other = lane + span;
      let better = values[other] > values[lane] || (values[other] == values[lane] && places[other] < places[lane]);
      if (better) {
        values[lane] = values[other];
        places[lane] = places[other];
      }
    }
    workgroupBarrier();
  }
  let best = values[0];
  let found = places[0];
  if (choice.most == 0u) {
    if (lane == 0u) { ids[0] = found; }
    return;
  }
  var sum = vec2<u32>(0u, 0u);
  for (var id = first; id < last; id++) { sum = add64(sum, weight(id, best)); }
  lows[lane] = sum.x;
  highs[lane] = sum.y;
  workgroupBarrier();
  if (lane == 0u) {
    var whole = vec2<u32>(0u, 0u);
    for (var l = 0u; l < LANES; l++) { whole = add64(whole, vec2<u32>(lows[l], highs[l])); }
    let aim = top64(vec2<u32>(choice.random_low, choice.random_high), whole);
    var running = vec2<u32>(0u, 0u);
    owner = LANES;
    for (var l = 0u; l < LANES && owner == LANES; l++) {
      let next = add64(running, vec2<u32>(lows[l], highs[l]));
      if (above(next, aim)) {
        owner = l;
        let left = sub64(aim, running);
        lows[l] = left.x;
        highs[l] = left.y;
      }
      running = next;
    }
  }
  workgroupBarrier();
  if (lane != owner) { return; }
  let left = vec2<u32>(lows[lane], highs[lane]);
  var running = vec2<u32>(0u, 0u);
  for (var id = first; id < last; id++) {
    running = add64(running, weight(id, best));
    if (above(running, left)) {
      ids[0] = id;
      return;
    }
  }
}
