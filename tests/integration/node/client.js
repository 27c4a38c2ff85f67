// A client that knows nothing of Gloss but its contract: `node client.js HOST:PORT PROTO_FOLDER PROMPT`.
// It asks for the next token and for the cost of an explanation, has it made, watches it to its end, lists it, and prints
// what it saw as JSON.
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, folder, prompt] = process.argv.slice(2);

const definition = loader.loadSync(
  ["gloss/v1/inference_service.proto", "gloss/v1/explanation_service.proto"],
  { includeDirs: [folder], keepCase: true, enums: String, longs: Number, defaults: true, oneofs: true },
);
const { gloss } = grpc.loadPackageDefinition(definition);
const credentials = grpc.credentials.createInsecure();
const inference = new gloss.v1.InferenceService(address, credentials);
const explanations = new gloss.v1.ExplanationService(address, credentials);

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 30_000);
    client[method](request, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

function watch(name) {
  return new Promise((resolve, reject) => {
    const states = [];
    const stream = explanations.WatchExplanation({ name }, { deadline: new Date(Date.now() + 60_000) });
    let last;
    stream.on("data", (reply) => {
      last = reply.explanation;
      states.push(last.state);
    });
    stream.on("error", reject);
    stream.on("end", () => resolve({ states, last }));
  });
}

async function main() {
  const next = await call(inference, "NextToken", { prompts: [{ text: prompt }], top_k: 5 });
  const spec = { prompt: { text: prompt }, lime: { surrogate: "SURROGATE_RIDGE" } };
  const cost = await call(explanations, "CreateExplanation", { spec, validate_only: true });
  const created = await call(explanations, "CreateExplanation", { spec, fresh: true });
  const { states, last } = await watch(created.name);
  const { explanations: listed } = await call(explanations, "ListExplanations", {});

  let refusal;
  try {
    await call(inference, "NextToken", { prompts: [{ text: "" }] });
  } catch (error) {
    refusal = { code: error.code, details: error.details };
  }

  console.log(JSON.stringify({ next, cost, name: created.name, states, final: last, listed, refusal }));
  inference.close();
  explanations.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
