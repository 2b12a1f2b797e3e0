// Appends events with Emmett's own event store, by several appenders at once, and
// prints what it has stored: the last line is JSON with the version of each
// stream, as the answers to the appends said.
//
//   node append.mjs URL '{"appenders":8,"events":4000}'
//
// Every number has a default; see below. Appends that fail on purpose: with a
// version that is not the stream's (conflict), and by an inline projection that
// throws once the events are inserted (abort), so that their positions are gaps
// for good. Other inline projections wait, so transactions commit out of order.
import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql";

const url = process.argv[2];
if (!url) {
  console.error("usage: node append.mjs URL [JSON]");
  process.exit(2);
}
const {
  appenders = 8,
  streams = 200, // shared by all appenders
  events = 4000, // about so many, in all
  batch = 3, // most events of one append
  tenants = 10,
  conflicts = 0.03, // shares of the appends
  aborts = 0.05,
  slow = 0.1, // these keep their transaction open for up to slowMs
  slowMs = 30,
  setup = false, // only make the tables
} = JSON.parse(process.argv[3] ?? "{}");

class Abort extends Error {}

// What the transaction of this append is to do before it commits is said by the
// metadata of its first event.
const hook = {
  type: "inline",
  projection: {
    name: "hook",
    canHandle: ["Added"],
    handle: async (events) => {
      const { wait = 0, abort = false } = events[0].metadata;
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
      if (abort) throw new Abort("on purpose");
    },
  },
};

const open = (projections) => getPostgreSQLEventStore(url, { projections });

const first = open([]);
await first.schema.migrate();
await first.close();

const versions = {};
const counts = { appended: 0, conflicts: 0, aborts: 0, races: 0 };

async function append(store, n) {
  const i = Math.floor(Math.random() * streams);
  const tenant = `t${i % tenants}`;
  const stream = `cart-${tenant}:${i}`;
  const size = 1 + Math.floor(Math.random() * batch);
  const abort = Math.random() < aborts;
  const conflict = !abort && Math.random() < conflicts;
  const wait = Math.random() < slow ? Math.ceil(Math.random() * slowMs) : 0;
  const list = Array.from({ length: size }, (_, k) => ({
    type: "Added",
    data: { appender: n, amount: 1, part: k, of: size },
    metadata: { tenant, wait, abort },
  }));
  const options = conflict ? { expectedStreamVersion: 1_000_000_000n } : {};
  try {
    const { nextExpectedStreamVersion } = await store.appendToStream(stream, list, options);
    const version = Number(nextExpectedStreamVersion);
    versions[stream] = Math.max(versions[stream] ?? 0, version);
    counts.appended += size;
    return size;
  } catch (error) {
    if (error instanceof Abort) counts.aborts++;
    else if (conflict) counts.conflicts++;
    else if (error?.errorCode === 412) counts.races++; // another appender was first
    else throw error;
    return 0;
  }
}

async function appender(n) {
  const store = open([hook]);
  try {
    for (let done = 0; done < events / appenders; ) done += await append(store, n);
  } finally {
    await store.close();
  }
}

if (!setup) await Promise.all(Array.from({ length: appenders }, (_, n) => appender(n)));
console.log(JSON.stringify({ ...counts, versions }));
