// Requests and answers as JSON, one a line, for the scripts beside this file.
//
// A request is {"op": name, ...}; the answer is {"ok": value} or {"error": text}, in the order of
// the requests. Binary values are base64 text. Packages come from HYPERPY_NODE_MODULES if it is
// set (the path of a node_modules folder), else from the node_modules beside this file.

"use strict";

const { createRequire } = require("node:module");
const path = require("node:path");
const readline = require("node:readline");

const folder = process.env.HYPERPY_NODE_MODULES || path.join(__dirname, "node_modules");

exports.folder = folder;
exports.library = createRequire(path.join(path.dirname(path.resolve(folder)), "scripts.cjs"));

exports.serve = async function serve(operations) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      const request = JSON.parse(line);
      answer = { ok: await operations[request.op](request) };
    } catch (error) {
      answer = { error: String(error && error.message ? error.message : error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
};
