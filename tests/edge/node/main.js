// gRPC for Node against a server of ours: `node main.js HOST:PORT [ROOTS]`. Messages pass as bytes.
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");

const same = (bytes) => bytes;

function check(name, right, found) {
  if (!right) {
    console.log(`${name}: wrong: ${found}`);
    process.exit(1);
  }
  console.log(`${name}: right`);
}

const [address, roots] = process.argv.slice(2);
const trust = roots ? grpc.credentials.createSsl(fs.readFileSync(roots)) : grpc.credentials.createInsecure();
const client = new grpc.Client(address, trust, {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
});

function call(method, message, options = {}) {
  return new Promise((resolve) => {
    client.makeUnaryRequest(method, same, same, message, new grpc.Metadata(), options, (error, answer) =>
      resolve([error, answer]),
    );
  });
}

// What comes on a stream, one after the other, and how it ended.
function open(method) {
  const stream = client.makeBidiStreamRequest(method, same, same);
  const come = [];
  const waiting = [];
  const tell = (one) => (waiting.length ? waiting.shift()(one) : come.push(one));
  stream.on("data", (answer) => tell({ answer }));
  stream.on("end", () => tell({ end: true }));
  stream.on("error", (error) => tell({ error }));
  stream.next = () => new Promise((resolve) => (come.length ? resolve(come.shift()) : waiting.push(resolve)));
  return stream;
}

async function main() {
  let error, answer;
  for (const size of [0, 1, 16384, 600_000, 20_000_000]) {
    const sent = Buffer.alloc(size, 7);
    [error, answer] = await call("/t/Echo", sent);
    check(`unary ${size}`, !error && sent.equals(answer), error);
  }
  const sent = Buffer.from("x");
  [error] = await call("/t/Nothing", sent);
  check("unknown method", error?.code === grpc.status.UNIMPLEMENTED, error);
  [error] = await call("/t/Refuse", sent);
  check("status", error?.code === grpc.status.FAILED_PRECONDITION && error.details === "für später 100 %\n", error);
  [error] = await call("/t/Wait", sent, { deadline: Date.now() + 100 });
  check("deadline", error?.code === grpc.status.DEADLINE_EXCEEDED, error);
  const stream = open("/t/Double");
  for (let i = 1; i < 1000; i++) {
    stream.write(Buffer.alloc(i, i));
    const got = await stream.next();
    if (got.answer?.length !== 2 * i) check("receive", false, JSON.stringify(got));
  }
  check("stream", true);
  stream.end();
  check("end of stream", (await stream.next()).end, "more");
  const early = open("/t/Double");
  early.write(sent);
  await early.next();
  early.cancel();
  let last = await early.next();
  if (last.end) last = await early.next();
  check("cancel", last.error?.code === grpc.status.CANCELLED, JSON.stringify(last));
  [error] = await call("/t/Echo", sent);
  check("afterwards", !error, error);
  client.close();
}

main();
