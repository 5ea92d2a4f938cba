// The forward pass on WebGPU, with the shaders that the node's own engine runs.
import { c2, epsilon, exp2, normConstants, rope } from "./tables.mjs";

export const CHUNK = 64;
const LANES = 64;
const ROWS = 256;
const TOKENS = 4;
const BINDINGS = {
  rms_norm: ["norm", [0, 1, 2, 3, 4, 5]],
  only_quantise: ["norm", [0, 2, 3, 4, 5]],
  swiglu: ["norm", [0, 1, 2, 3, 4, 5]],
  nibble_rows: ["linear", [0, 1, 2, 3, 4, 5, 6]],
  byte_rows: ["linear", [0, 1, 2, 3, 4, 5, 6]],
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
    if (c.biases || c.head_norms || this.head > 256) throw new Error("the shaders do not run this kind of model yet");
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

  pipeline(entry, tokens) {
    const key = `${entry} ${tokens}`;
    if (!this.pipelines.has(key)) {
      const text = this.shaders.integers + this.shaders[BINDINGS[entry][0]];
      const code = text.replace("const TOKENS = 1u;", `const TOKENS = ${tokens}u;`);
      const module = this.device.createShaderModule({ code });
      this.pipelines.set(key, this.device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: entry } }));
    }
    return this.pipelines.get(key);
  }

  // Matrices of the same input, one above the other, in tiles of 64 rows.
  tiles(names, scale) {
    const parts = names.map((name) => this.model.tensors.get(name));
    const columns = parts[0].columns;
    const groups = columns / 32;
    const nibbles = parts.every((part) => !part.signed);
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const tiles = Math.ceil(rows / LANES);
    const width = nibbles ? 16 : 32;
    const weights = new Uint8Array(tiles * groups * LANES * width);
    const scales = new Uint32Array(tiles * groups * LANES);
    const factors = new Uint32Array(rows);
    let row = 0;
    for (const part of parts) {
      for (let r = 0; r < part.rows; r++, row++) {
        const base = Math.floor(row / LANES) * groups * LANES + (row % LANES);
        factors[row] = part.view.getUint16(part.rm + 2 * r, true) | (part.raw[part.re + r] << 16);
        for (let g = 0; g < groups; g++) {
          const at = base + g * LANES;
          const d = part.view.getInt16(part.d + 2 * (r * groups + g), true);
          const m = part.view.getInt16(part.m + 2 * (r * groups + g), true);
          scales[at] = (d & 0xffff) | (m << 16);
          const q = r * columns + g * 32;
          if (nibbles) {
            for (let i = 0; i < 16; i++) weights[at * 16 + i] = part.raw[q + 2 * i] | (part.raw[q + 2 * i + 1] << 4);
          } else {
            weights.set(part.raw.subarray(q, q + 32), at * 32);
          }
        }
      }
    }
    const buffers = [weights, scales, factors].map((data) => this.storage(data));
    return { rows, groups, scale, nibbles, buffers, groupsOf: new Map() };
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
        cache: this.storage(this.positions * c.kv_heads * (this.head + 1) * 4),
      });
    }
    this.last = this.norm("output_norm.weight");
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

  step(run, entry, buffers, x, y = 1, tokens = 1) {
    const pipeline = this.pipeline(entry, tokens);
    const entries = BINDINGS[entry][1].map((binding, n) => ({ binding, resource: { buffer: buffers[n] } }));
    run.setPipeline(pipeline);
    run.setBindGroup(0, this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    run.dispatchWorkgroups(x, y);
  }

  linear(run, tiles, out, count, stride, add) {
    const tokens = count > 1 ? TOKENS : 1;
    const uniform = this.uniform(tiles.rows, tiles.groups, tiles.scale, stride, 0, add ? 1 : 0, count, 0);
    const entry = tiles.nibbles ? "nibble_rows" : "byte_rows";
    const buffers = [...tiles.buffers, this.digits, this.sums, out, uniform];
    this.step(run, entry, buffers, Math.ceil(tiles.rows / ROWS), Math.ceil(count / tokens), tokens);
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
    const table = this.embedding;
    const embed = this.uniform(table.rows, table.groups, -c.fr, 0, 0, 0, 0, 0);
    this.step(run, table.nibbles ? "embed_nibbles" : "embed_bytes", [...table.buffers, this.x, embed, this.ids], count);
    for (const layer of this.layers) {
      this.normed(run, layer.first, count);
      this.linear(run, layer.qkv, this.qkv, count, layer.qkv.rows, false);
      const all = c.heads + 2 * c.kv_heads;
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
