// arbundles as oracle for ANS-104 items and bundles. Protocol: lines.cjs.

"use strict";

const { library, serve } = require("./lines.cjs");

const { ArweaveSigner, Bundle, DataItem, EthereumSigner, HexSolanaSigner, SolanaSigner, TypedEthereumSigner } = library("arbundles");
const { bundleAndSignData, createData, deepHash } = library("arbundles");

const SIGNERS = {
  1: (key) => new ArweaveSigner(key),
  2: (key) => new SolanaSigner(key),
  3: (key) => new EthereumSigner(key),
  4: (key) => new HexSolanaSigner(key),
  7: (key) => new TypedEthereumSigner(key),
};

const bytes = (text) => Buffer.from(text, "base64");
const text = (value) => Buffer.from(value).toString("base64");

function signerOf(request) {
  return SIGNERS[request.type](request.key);
}

function create(request, signer) {
  const options = { tags: request.tags };
  if (request.target) options.target = request.target;
  if (request.anchor) options.anchor = bytes(request.anchor);
  return createData(bytes(request.data), signer, options);
}

async function describe(item) {
  return {
    raw: text(item.getRaw()),
    id: item.id,
    type: item.signatureType,
    owner: text(item.rawOwner),
    target: item.target,
    anchor: text(item.rawAnchor),
    tags: item.tags,
    data: text(item.rawData),
    digest: text(await item.getSignatureData()),
    valid: await item.isValid(),
  };
}

serve({
  async create(request) {
    const signer = signerOf(request);
    const item = create(request, signer);
    await item.sign(signer);
    return describe(item);
  },
  async read(request) {
    return describe(new DataItem(bytes(request.raw)));
  },
  async bundle(request) {
    const signer = signerOf(request);
    const items = request.items.map((one) => create(one, signer));
    const made = await bundleAndSignData(items, signer);
    return { raw: text(made.getRaw()), ids: made.getIds() };
  },
  async unbundle(request) {
    const found = new Bundle(bytes(request.raw));
    return { ids: found.getIds(), valid: await found.verify(), items: found.items.map((item) => text(item.getRaw())) };
  },
  async deepHash(request) {
    const nested = (chunk) => (Array.isArray(chunk) ? chunk.map(nested) : bytes(chunk));
    return text(await deepHash(nested(request.chunk)));
  },
});
