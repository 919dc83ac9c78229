// Reacts to completions on lane default. Needs no code of ffstream's.
//
//     npm install && npm run build
//     FFSTREAM_NATS_URL=nats://127.0.0.1:4222 npm start
//
// The tests run it.
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

// What of an event this program uses; docs/event.v1.schema.json has all of it.
// Fields may be added, so unknown ones are ignored.
interface Transition {
  id: string;
  type: string;
  data: { execution_id: string; lane_id: string; from: string | null; to: string };
}

const stream = process.env.FFSTREAM_STREAM ?? "FFSTREAM";
const prefix = process.env.FFSTREAM_SUBJECT_PREFIX ?? "ff";

const nc = await connect({ servers: process.env.FFSTREAM_NATS_URL ?? "nats://127.0.0.1:4222", maxReconnectAttempts: -1 });
const manager = await jetstreamManager(nc);
// A consumer that exists is taken as it is, and goes on where it was.
await manager.consumers.add(stream, {
  durable_name: "completions-typescript",
  ack_policy: AckPolicy.Explicit,
  deliver_policy: DeliverPolicy.All,
  filter_subject: `${prefix}.exec.*.*.default.completed`,
  max_ack_pending: 1, // in order: nothing new while one is being handled
});
const consumer = await jetstream(nc).consumers.get(stream, "completions-typescript");
const messages = await consumer.consume();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => void messages.close());
}
for await (const m of messages) {
  const event = m.json<Transition>();
  // A snapshot, which a backfill took of what had completed before, is no completion.
  if (event.type === "ffstream.execution.transitioned.v1") {
    // The effect. It may come again after a crash: event.id tells.
    console.log(event.id, event.data.execution_id, event.data.from, "->", event.data.to);
  }
  m.ack();
}
await nc.drain();
