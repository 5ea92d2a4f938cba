// The page: ask the node, then compute the answer here, and compare state by state.
import { open, state } from "./model.mjs";
import { CHUNK, Forward } from "./forward.mjs";

const node = location.origin;
const find = (id) => document.getElementById(id);

function say(text, kind = "") {
  find("verdict").textContent = text;
  find("verdict").className = kind;
}

function progress(text, share) {
  find("doing").textContent = text;
  find("bar").value = share;
}

async function json(path, options) {
  const reply = await fetch(`${node}/~inference@1.0/${path}`, options);
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error?.message ?? `the node answered ${reply.status}`);
  return found;
}

async function weights(model) {
  const told = await json(`weights&model=${model}`);
  const data = new Uint8Array(told.bytes);
  for (let part = 0; part < told.parts; part++) {
    progress(`fetching weights, ${part + 1} of ${told.parts}`, part / told.parts);
    const reply = await fetch(`${node}/~inference@1.0/weights&model=${model}&part+integer=${part}`);
    if (!reply.ok) throw new Error(`the node gave no part ${part} of the weights (${reply.status})`);
    data.set(new Uint8Array(await reply.arrayBuffer()), part * told.each);
  }
  return [told, data];
}

export async function adapterHere() {
  const missing = "This browser has no WebGPU here, so nothing can be computed again in it.";
  if (!("gpu" in navigator)) throw new Error(`${missing} It needs a current browser, and https or localhost.`);
  const adapter = await navigator.gpu.requestAdapter();
  if (adapter === null) throw new Error(`${missing} It found no graphics adapter.`);
  return adapter;
}

function best(logits) {
  let found = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[found]) found = i;
  return found;
}

function row(...cells) {
  const line = document.createElement("tr");
  for (const cell of cells) line.insertCell().textContent = cell;
  find("states").append(line);
  return line;
}

// Compute an answer's states here; give the number of those that differ.
export async function check(answer, device, shaders) {
  const told = answer.hyperpy;
  const made = answer.choices[0].token_ids;
  const ids = [...told.prompt_token_ids, ...made.slice(0, -1)];
  const model = await open(...(await weights(told.reference)), told);
  progress("computing", 0);
  const forward = new Forward(device, shaders, model, ids.length);
  let different = 0;
  for (let at = 0; at < ids.length; at += CHUNK) {
    const rows = await forward.read(ids.slice(at, at + CHUNK));
    for (const [n, logits] of rows.entries()) {
      const read = at + n + 1;
      const number = read - told.prompt_token_ids.length;
      if (number < 0) continue;
      const own = await state(model.ident, ids.slice(0, read), logits);
      const alike = own === told.states[0][number] && (told.sampling.t16 !== 0 || best(logits) === made[number]);
      different += alike ? 0 : 1;
      row(made[number], told.states[0][number].slice(0, 16), own.slice(0, 16), alike ? "equal" : "DIFFERENT").className =
        alike ? "" : "bad";
    }
    progress("computing", Math.min(1, (at + CHUNK) / ids.length));
  }
  return different;
}

async function ask(shaders) {
  find("ask").disabled = true;
  find("states").replaceChildren();
  say("");
  try {
    const adapter = await adapterHere();
    const device = await adapter.requestDevice();
    progress("asking the node", 0);
    const request = {
      model: find("model").value,
      messages: [{ role: "user", content: find("prompt").value }],
      temperature: 0,
      max_tokens: Number(find("tokens").value),
      level: 1,
    };
    const headers = { "content-type": "application/json" };
    const answer = await json("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(request) });
    find("answer").textContent = answer.choices[0].message.content;
    const began = performance.now();
    const different = await check(answer, device, shaders);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const count = answer.choices[0].token_ids.length;
    const where = [adapter.info?.vendor, adapter.info?.architecture, adapter.info?.description].filter(Boolean).join(", ");
    find("last").textContent = answer.hyperpy.state[0];
    if (different === 0) say(`equal: all ${count} states were computed here, in ${seconds} s (${where || "WebGPU"})`, "good");
    else say(`DIFFERENT: ${different} of ${count} states are not what this browser computes`, "bad");
  } catch (error) {
    say(error.message, "bad");
  }
  progress("", 0);
  find("ask").disabled = false;
}

export async function start(shaders) {
  find("ask").addEventListener("click", () => ask(shaders));
  try {
    await adapterHere();
    const list = await json("v1/models");
    for (const one of list.data) find("model").append(new Option(one.id, one.reference));
    find("ask").disabled = list.data.length === 0;
    if (list.data.length === 0) say("this node has no models");
  } catch (error) {
    say(error.message, "bad");
  }
}

start(SHADERS);
