// Runs the browser page's own modules under Node: requests and answers are JSON lines, bytes in base64.

import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";

globalThis.crypto ??= webcrypto;
const folder = new URL("../../devices/audit/page/", import.meta.url);
const { Refused, Unchecked, sha256, textOf } = await import(new URL("bytes.mjs", folder));
const { decodeCanonical, Message } = await import(new URL("canonical.mjs", folder));
const { Ids, checkCommitments } = await import(new URL("commitments.mjs", folder));
const { restored } = await import(new URL("receipt.mjs", folder));
const { verifyReceipt } = await import(new URL("verify.mjs", folder));

const raw = (text) => textOf(Buffer.from(text, "base64"));

async function outcome(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Refused) return { refused: error.rule, text: error.message };
    if (error instanceof Unchecked) return { unchecked: error.message };
    throw error;
  }
}

const operations = {
  canonical: ({ data }) => outcome(() => (decodeCanonical(raw(data)), { digest: Buffer.from(sha256(raw(data)), "latin1").toString("hex") })),
  ids: ({ data }) =>
    outcome(() => {
      const item = restored(decodeCanonical(raw(data)));
      const ids = new Ids(() => null);
      return { content: ids.content(item), unsigned: ids.unsigned(item), signed: ids.signed(item), hashpath: ids.hashpath(item) };
    }),
  check: ({ data }) =>
    outcome(async () => {
      const item = restored(decodeCanonical(raw(data)));
      await checkCommitments(item, new Ids(() => null));
      return { genuine: true };
    }),
  verify: async ({ data }) => verifyReceipt(new Uint8Array(Buffer.from(data, "base64"))),
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  try {
    console.log(JSON.stringify({ ok: await operations[request.op](request) }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error.stack) }));
  }
}
