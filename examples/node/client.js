// A gatestream client from the .proto file alone: opens a session, steps it, prints each answer as a line of JSON.
//
//   node client.js HOST:PORT ROWS.json [MODEL]
//
// ROWS.json holds an array of time steps, each as the model's input has it: an array of numbers, or a token id.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../protos/gatestream/v1/gatestream.proto", import.meta.url));

// Columns are little-endian, as every typed array is on the machines that Node runs on.
// Of float16 not every Node has an array.
const ARRAYS = {
  DATA_TYPE_FLOAT32: Float32Array,
  DATA_TYPE_FLOAT64: Float64Array,
  DATA_TYPE_INT64: BigInt64Array,
  DATA_TYPE_INT32: Int32Array,
  DATA_TYPE_INT16: Int16Array,
  DATA_TYPE_INT8: Int8Array,
  DATA_TYPE_UINT8: Uint8Array,
  DATA_TYPE_BOOL: Uint8Array,
};

/** The numbers that an input of whole numbers takes: from the first to the second. */
function range(tensor) {
  const limit = tensor.vocabulary.length || Number(tensor.limit);
  if (limit) return [0, limit - 1];
  if (tensor.dtype === "DATA_TYPE_BOOL") return [0, 1];
  if (tensor.dtype === "DATA_TYPE_INT64") return [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
  const bits = 8 * ARRAYS[tensor.dtype].BYTES_PER_ELEMENT;
  return tensor.dtype === "DATA_TYPE_UINT8" ? [0, 2 ** bits - 1] : [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
}

/** What this input takes no number for: a text; null: it takes it. JavaScript would make numbers of null, true and "1". */
function refusal(tensor, value) {
  if (typeof value !== "number") return "a number was expected";
  if (tensor.dtype === "DATA_TYPE_FLOAT32") {
    return Number.isFinite(Math.fround(value)) ? null : "a finite float32 number was expected";
  }
  if (tensor.dtype === "DATA_TYPE_FLOAT64") return Number.isFinite(value) ? null : "a finite number was expected";
  if (!Number.isSafeInteger(value)) return "a whole number was expected";
  const [least, most] = range(tensor);
  return value >= least && value <= most ? null : `${least} to ${most} was expected`;
}

/** Refuse what is no row of this input, with its place. */
function check(tensor, rows) {
  if (!Array.isArray(rows) || !rows.length) throw new Error("an array of one row or more was expected");
  const visit = (value, shape, place) => {
    const say = (what) => {
      const text = JSON.stringify(value);
      throw new Error(`${place}: ${text.length > 60 ? `${text.slice(0, 60)}...` : text} came; ${what}`);
    };
    if (shape.length) {
      if (!Array.isArray(value) || value.length !== shape[0]) say(`an array of ${shape[0]} was expected`);
      value.forEach((item, k) => visit(item, shape.slice(1), `${place}, column ${tensor.columns[k] ?? k}`));
    } else {
      const what = refusal(tensor, value);
      if (what) say(what);
    }
  };
  rows.forEach((row, k) => visit(row, tensor.shape, `row ${k}`));
}

/** One column of the wire from the rows of all entries. */
function encode(tensor, rows) {
  const numbers = rows.flat(Infinity);
  const array = ARRAYS[tensor.dtype].from(tensor.dtype === "DATA_TYPE_INT64" ? numbers.map(BigInt) : numbers);
  return Buffer.from(array.buffer);
}

/** The rows of one column, each a flat array of numbers. */
function decode(tensor, column, rows) {
  // Copied, because a typed array must begin at a multiple of its item's size.
  const array = new ARRAYS[tensor.dtype](new Uint8Array(column).buffer);
  const width = array.length / rows;
  return Array.from({ length: rows }, (_, row) => Array.from(array.subarray(row * width, (row + 1) * width), Number));
}

/** A session with a stream of its own. */
class Session {
  constructor(client, model) {
    this.model = model;
    this.stream = client.Stream();
    this.answers = this.stream[Symbol.asyncIterator]();
  }

  async open(request) {
    this.stream.write({ open: { handle: 0, model: this.model.name, ...request } });
    const { opened } = await this.next("opened");
    this.position = opened.position;
  }

  /** The next message, which must be of this kind. */
  async next(kind) {
    const { value, done } = await this.answers.next();
    if (done) throw new Error(`the server ended the stream; ${kind} was expected`);
    if (value.kind === "error") throw new Error(`${value.error.reason}: ${value.error.message}`);
    if (value.kind !== kind) throw new Error(`${value.kind} came; ${kind} was expected`);
    return value;
  }

  /** Take a step for each row. A long chunk is answered in parts, in order. */
  async run(rows) {
    const input = [encode(this.model.inputs[0], rows)];
    this.stream.write({ steps: { handle: [0], length: [rows.length], first: [this.position], input } });
    const steps = [];
    while (steps.length < rows.length) {
      const { results } = await this.next("results");
      const count = results.length[0] ?? 1;
      const ys = decode(this.model.outputs[0], results.output[0], count);
      const gates = results.gate.map((column) => decode({ dtype: "DATA_TYPE_FLOAT32" }, column, count));
      for (let k = 0; k < count; k++) {
        const step = { position: this.position++, y: ys[k] };
        this.model.gates.forEach((gate, place) => {
          if (gates.length) (step.gates ??= {})[gate.name] = gates[place][k];
        });
        steps.push(step);
      }
    }
    return steps;
  }

  async close() {
    this.stream.write({ close: { handle: [0] } });
    await this.next("closed");
    this.stream.end();
  }

  /** Leave without a word: the server closes the session by itself. */
  abandon() {
    this.stream.on("error", () => {});
    this.stream.cancel();
  }
}

async function main([address, file, name = ""]) {
  if (!file) throw new Error("usage: node client.js HOST:PORT ROWS.json [MODEL]");
  const text = readFileSync(file, "utf8");
  let rows;
  try {
    rows = JSON.parse(text);
  } catch (error) {
    throw new Error(`${file}: ${error.message.replace(/\s+/g, " ")}`);
  }
  const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
  const definition = protoLoader.loadSync(PROTO, options);
  const { Gatestream } = grpc.loadPackageDefinition(definition).gatestream.v1;
  const client = new Gatestream(address, grpc.credentials.createInsecure());
  try {
    const described = await new Promise((resolve, reject) =>
      client.Describe({ model: name }, (error, answer) => (error ? reject(error) : resolve(answer))),
    );
    if (described.models.length > 1) {
      throw new Error(`name one of the models: ${described.models.map(({ spec }) => spec.name).join(", ")}`);
    }
    const model = described.models[0].spec;
    // What this example does not do: several inputs, constants, float16. docs/protocol.md says how.
    if (model.inputs.length > 1) throw new Error(`${model.name} has ${model.inputs.length} inputs; this client steps one`);
    if (model.states.some(({ required }) => required)) throw new Error(`${model.name} needs constants at Open`);
    for (const { name: tensor, dtype } of [model.inputs[0], model.outputs[0]]) {
      if (!ARRAYS[dtype]) throw new Error(`${tensor} is ${dtype}; this client has no array for it`);
    }
    check(model.inputs[0], rows);
    const session = new Session(client, model);
    try {
      await session.open({ gates: model.gates.length > 0 });
      // One step, then all the others, where there are others, as one chunk.
      for (const chunk of [rows.slice(0, 1), rows.slice(1)].filter(({ length }) => length)) {
        for (const step of await session.run(chunk)) console.log(JSON.stringify(step));
      }
      await session.close();
    } finally {
      session.abandon();
    }
  } finally {
    client.close();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`Error: ${error.message}`);
  process.exitCode = 1;
});
