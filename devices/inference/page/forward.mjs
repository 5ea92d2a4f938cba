// The forward pass on WebGPU, with the shaders that the node's own engine runs.
import { c2, epsilon, exp2, normConstants, rope } from "./tables.mjs";

export const CHUNK = 64;
const LANES = 64;
const ROWS = 256;
const TOKENS = 4;
const BINDINGS = {
  rms_norm: ["norm", [0, 1, 2, 3, 4, 5]],
  head_norm: ["norm", [0, 1, 4]],
  only_quantise: ["norm", [0, 2, 3, 4, 5]],
  swiglu: ["norm", [0, 1, 2, 3, 4, 5]],
  nibble_rows: ["linear", [0, 1, 2, 3, 4, 5, 6]],
  byte_rows: ["linear", [0, 1, 2, 3, 4, 5, 6]],
  spread: ["linear", [4, 5, 6]],
  embed_nibbles: ["linear", [0, 1, 2, 5, 6, 7]],
  embed_bytes: ["linear", [0, 1, 2, 5, 6, 7]],
  turn: ["attention", [0, 1, 2, 3, 6]],
  look: ["attention", [0, 1, 2, 3, 4, 5, 6]],
};
const [FN, FQ, FG, FH, FA, FL] = [18, 16, 16, 14, 16, 16];

export class Forward {
  // shaders: the texts of the WGSL files by name; positions: most tokens that will be read.
  constructor(device, shaders, model, positions) {
    this.device = device;
    this.shaders = shaders;
    this.model = model;
    this.config = model.config;
    this.pipelines = new Map();
    this.length = 0;
    const c = this.config;
    this.head = c.head_width || c.width / c.heads;
    if (this.head > 256) throw new Error("the shaders do not run heads wider than 256");
    this.turns = this.storage(rope(c, positions));
    this.exp2 = this.storage(exp2());
    this.positions = positions;
    this.load();
    this.work();
  }

  storage(data) {
    const size = typeof data === "number" ? Math.max(data, 4) : data.byteLength;
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const made = this.device.createBuffer({ size: (size + 3) & ~3, usage });
    if (typeof data !== "number") this.device.queue.writeBuffer(made, 0, data.buffer, data.byteOffset, data.byteLength);
    return made;
  }

  uniform(...values) {
    const made = this.device.createBuffer({ size: 32, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
    this.device.queue.writeBuffer(made, 0, Uint32Array.from(values, (one) => Number(BigInt.asUintN(32, BigInt(one)))));
    return made;
  }

  pipeline(entry, tokens, group) {
    const key = `${entry} ${tokens} ${group}`;
    if (!this.pipelines.has(key)) {
      const text = this.shaders.integers + this.shaders[BINDINGS[entry][0]];
      const code = text
        .replace("const TOKENS = 1u;", `const TOKENS = ${tokens}u;`)
        .replace("const GROUP = 32u;", `const GROUP = ${group}u;`);
      const module = this.device.createShaderModule({ code });
      this.pipelines.set(key, this.device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: entry } }));
    }
    return this.pipelines.get(key);
  }

  // Matrices of the same input, one above the other; neighbours of one form are one part, in tiles of 64 rows.
  tiles(names, scale) {
    const form = (one) => `${one.signed} ${one.group}`;
    const parts = [];
    let rows = 0;
    for (const one of names.map((name) => this.model.tensors.get(name))) {
      const last = parts.at(-1);
      if (last && form(last.matrices[0]) === form(one)) last.matrices.push(one);
      else parts.push({ first: rows, matrices: [one] });
      rows += one.rows;
    }
    return { rows, scale, parts: parts.map(({ first, matrices }) => ({ first, ...this.part(matrices) })) };
  }

  part(matrices) {
    const { columns, signed, group } = matrices[0];
    const groups = columns / 32;
    const rows = matrices.reduce((sum, one) => sum + one.rows, 0);
    const tiles = Math.ceil(rows / LANES);
    const width = signed ? 32 : 16;
    const weights = new Uint8Array(tiles * groups * LANES * width);
    const scales = new Uint32Array(tiles * groups * LANES);
    const factors = new Uint32Array(rows);
    let row = 0;
    for (const one of matrices) {
      const d = (r, g) => one.view.getInt16(one.d + 2 * (r * (columns / group) + g), true);
      const m = (r, g) => one.view.getInt16(one.m + 2 * (r * (columns / group) + g), true);
      for (let r = 0; r < one.rows; r++, row++) {
        const base = Math.floor(row / LANES) * groups * LANES + (row % LANES);
        factors[row] = one.view.getUint16(one.rm + 2 * r, true) | (one.raw[one.re + r] << 16);
        for (let g = 0; g < groups; g++) {
          const at = base + g * LANES;
          if (group === 16) scales[at] = (d(r, 2 * g) & 0xffff) | (d(r, 2 * g + 1) << 16);
          else scales[at] = (d(r, g) & 0xffff) | (m(r, g) << 16);
          const q = r * columns + g * 32;
          if (signed) weights.set(one.raw.subarray(q, q + 32), at * 32);
          else for (let i = 0; i < 16; i++) weights[at * 16 + i] = one.raw[q + 2 * i] | (one.raw[q + 2 * i + 1] << 4);
        }
      }
    }
    const buffers = [weights, scales, factors].map((data) => this.storage(data));
    return { rows, groups, group, nibbles: !signed, buffers };
  }

  load() {
    const c = this.config;
    const name = (layer, part) => `blk.${layer}.${part}.weight`;
    this.embedding = this.tiles(["token_embd.weight"], FN - FL);
    this.logitsFrom = this.model.tensors.has("output.weight") ? this.tiles(["output.weight"], FN - FL) : this.embedding;
    this.layers = [];
    for (let layer = 0; layer < c.layers; layer++) {
      const tiles = (scale, ...parts) => this.tiles(parts.map((part) => name(layer, part)), scale);
      const norm = (part) => this.norm(name(layer, part));
      this.layers.push({
        qkv: tiles(FN - FQ, "attn_q", "attn_k", "attn_v"),
        output: tiles(FA - c.fr, "attn_output"),
        gates: tiles(FN - FG, "ffn_gate", "ffn_up"),
        down: tiles(FH - c.fr, "ffn_down"),
        first: norm("attn_norm"),
        second: norm("ffn_norm"),
        bias: c.biases ? this.bias(layer) : null,
        heads: c.head_norms ? this.headGain(layer) : null,
        cache: this.storage(this.positions * c.kv_heads * (this.head + 1) * 4),
      });
    }
    this.last = this.norm("output_norm.weight");
    const eps = epsilon(this.head, c.eps, FQ);
    const [cn, kn] = normConstants(this.head);
    const all = c.heads + 2 * c.kv_heads;
    this.headRow = this.uniform(this.head, all, cn, kn, 0, eps & 0xffffffffn, eps >> 32n, FQ);
  }

  // Biases of q, k and v in one row; 0 where there is none.
  bias(layer) {
    const parts = ["attn_q", "attn_k", "attn_v"].map((part) => `blk.${layer}.${part}`);
    const rows = parts.map((name) => this.model.tensors.get(`${name}.weight`).rows);
    const made = new Int32Array(rows.reduce((sum, one) => sum + one));
    parts.forEach((name, n) => {
      const bias = this.model.tensors.get(`${name}.bias`);
      if (bias) made.set(bias.gain, rows.slice(0, n).reduce((sum, one) => sum + one, 0));
    });
    return this.storage(made);
  }

  // Norm weights of each head of q and k with their fraction bits, [head][width + 1].
  headGain(layer) {
    const c = this.config;
    const [q, k] = ["q", "k"].map((part) => this.model.tensors.get(`blk.${layer}.attn_${part}_norm.weight`));
    const made = new Int32Array((c.heads + c.kv_heads) * (this.head + 1));
    for (let h = 0; h < c.heads + c.kv_heads; h++) {
      const { gain, eg } = h < c.heads ? q : k;
      made.set([...gain, eg], h * (this.head + 1));
    }
    return this.storage(made);
  }

  norm(name) {
    const c = this.config;
    const { gain, eg } = this.model.tensors.get(name);
    const eps = epsilon(c.width, c.eps, c.fr);
    const [cn, kn] = normConstants(c.width);
    const uniform = this.uniform(c.width, 0, cn, kn, eg, eps & 0xffffffffn, eps >> 32n, FN);
    return { gain: this.storage(gain), uniform };
  }

  work() {
    const c = this.config;
    const qo = c.heads * this.head;
    const kv = c.kv_heads * this.head;
    const wide = Math.max(c.width, c.hidden, qo);
    this.ids = this.storage(CHUNK * 4);
    this.x = this.storage(CHUNK * c.width * 4);
    this.digits = this.storage(CHUNK * wide * 4);
    this.sums = this.storage(CHUNK * (wide / 32 + 1) * 4);
    this.between = this.storage(CHUNK * wide * 4);
    this.qkv = this.storage(CHUNK * (qo + 2 * kv) * 4);
    this.shifts = this.storage(CHUNK * c.heads * 4);
    this.seen = this.storage(CHUNK * qo * 4);
    this.gated = this.storage(CHUNK * 2 * c.hidden * 4);
    this.scores = this.storage(CHUNK * c.heads * this.positions * 4);
    this.logits = this.storage(CHUNK * c.vocabulary * 4);
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    this.readable = this.device.createBuffer({ size: CHUNK * c.vocabulary * 4, usage });
  }

  step(run, entry, buffers, x, y = 1, tokens = 1, group = 32) {
    const pipeline = this.pipeline(entry, tokens, group);
    const entries = BINDINGS[entry][1].map((binding, n) => ({ binding, resource: { buffer: buffers[n] } }));
    run.setPipeline(pipeline);
    run.setBindGroup(0, this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    run.dispatchWorkgroups(x, y);
  }

  linear(run, tiles, out, count, stride, add) {
    const tokens = count > 1 ? TOKENS : 1;
    for (const part of tiles.parts) {
      const uniform = this.uniform(part.rows, part.groups, tiles.scale, stride, part.first, add ? 1 : 0, count, 0);
      const entry = part.nibbles ? "nibble_rows" : "byte_rows";
      const buffers = [...part.buffers, this.digits, this.sums, out, uniform];
      this.step(run, entry, buffers, Math.ceil(part.rows / ROWS), Math.ceil(count / tokens), tokens, part.group);
    }
  }

  normed(run, norm, count) {
    this.step(run, "rms_norm", [this.x, norm.gain, this.digits, this.sums, norm.uniform, this.between], count);
  }

  // Read at most 64 tokens after those read before; give the logits of each, i32.
  async read(ids) {
    const c = this.config;
    const count = ids.length;
    this.device.queue.writeBuffer(this.ids, 0, Uint32Array.from(ids));
    const heads = this.uniform(c.heads, c.kv_heads, this.head, this.length, c2(this.head), c.neox ? 1 : 0, this.positions, 0);
    const encoder = this.device.createCommandEncoder();
    const run = encoder.beginComputePass();
    const [table] = this.embedding.parts;
    const embed = this.uniform(table.rows, table.groups, -c.fr, 0, 0, 0, 0, 0);
    const entry = table.nibbles ? "embed_nibbles" : "embed_bytes";
    this.step(run, entry, [...table.buffers, this.x, embed, this.ids], count, 1, 1, table.group);
    for (const layer of this.layers) {
      this.normed(run, layer.first, count);
      const all = c.heads + 2 * c.kv_heads;
      if (layer.bias) {
        const { rows } = layer.qkv;
        const spread = this.uniform(rows, 0, 0, rows, 0, 0, 0, 0);
        this.step(run, "spread", [layer.bias, this.qkv, spread], Math.ceil(rows / LANES), count);
      }
      this.linear(run, layer.qkv, this.qkv, count, layer.qkv.rows, layer.bias !== null);
      if (layer.heads) this.step(run, "head_norm", [this.qkv, layer.heads, this.headRow], c.heads + c.kv_heads, count);
      this.step(run, "turn", [this.qkv, this.shifts, layer.cache, this.turns, heads], all, count);
      this.step(run, "look", [this.qkv, this.shifts, layer.cache, this.exp2, this.scores, this.seen, heads], c.heads, count);
      const width = this.uniform(c.heads * this.head, 0, 0, 0, 0, 0, 0, 0);
      this.step(run, "only_quantise", [this.seen, this.digits, this.sums, width, this.between], count);
      this.linear(run, layer.output, this.x, count, c.width, true);
      this.normed(run, layer.second, count);
      this.linear(run, layer.gates, this.gated, count, layer.gates.rows, false);
      const hidden = this.uniform(c.hidden, 0, 0, 0, 0, 0, 0, 0);
      this.step(run, "swiglu", [this.gated, this.exp2, this.digits, this.sums, hidden, this.between], count);
      this.linear(run, layer.down, this.x, count, c.width, true);
    }
    this.normed(run, this.last, count);
    this.linear(run, { ...this.logitsFrom, scale: FN - FL }, this.logits, count, c.vocabulary, false);
    run.end();
    encoder.copyBufferToBuffer(this.logits, 0, this.readable, 0, count * c.vocabulary * 4);
    this.device.queue.submit([encoder.finish()]);
    await this.readable.mapAsync(GPUMapMode.READ, 0, count * c.vocabulary * 4);
    const found = new Int32Array(this.readable.getMappedRange(0, count * c.vocabulary * 4).slice(0));
    this.readable.unmap();
    this.length += count;
    return Array.from({ length: count }, (_, n) => found.subarray(n * c.vocabulary, (n + 1) * c.vocabulary));
  }
}
