// Runs Emmett's consumer with the projection of the benchmarks: one document for
// each cart.
//
//   node consume.mjs released|next migrate URL
//   node consume.mjs released|next catchup URL BATCH pongo|raw
//   node consume.mjs released|next follow  URL BATCH pongo|raw
//
// catchup prints the seconds from the consumer's start to the end of the log.
// follow says "ready" and goes on until its input ends.
const [edition, what, connectionString, batch, kind] = process.argv.slice(2);
const emmett = await import(`./${edition}/emmett.mjs`);
const types = ['CartOpened', 'ItemAdded', 'ItemRemoved', 'CartConfirmed'];

const initial = () => ({ customer: '', status: '', items: 0, amount: 0, changes: 0 });

const evolve = (cart, { type, data }) => {
  const next = { ...cart, changes: cart.changes + 1 };
  switch (type) {
    case 'CartOpened':
      return { ...next, customer: data.customer, status: 'open' };
    case 'ItemAdded':
      return { ...next, items: cart.items + data.quantity, amount: cart.amount + data.quantity * data.price };
    case 'ItemRemoved':
      return { ...next, items: cart.items - data.quantity, amount: cart.amount - data.quantity * data.price };
    case 'CartConfirmed':
      return { ...next, status: 'confirmed' };
  }
  return next;
};

// The projection in SQL: a statement for each event, without reading.
const quote = (s) => `'${String(s).replaceAll("'", "''")}'`;
const rawStatement = (event) => {
  const { type, data, metadata } = event;
  const one = evolve(initial(), event);
  const sign = type === 'ItemRemoved' ? -1 : type === 'ItemAdded' ? 1 : 0;
  const customer = type === 'CartOpened' ? quote(data.customer) : `cart.data->>'customer'`;
  const status = one.status === '' ? `cart.data->>'status'` : quote(one.status);
  return `INSERT INTO carts AS cart (_id, data) VALUES (${quote(metadata.streamName)}, ${quote(JSON.stringify(one))})
    ON CONFLICT (_id) DO UPDATE SET data = jsonb_build_object('customer', ${customer}, 'status', ${status},
      'items', (cart.data->>'items')::bigint + ${sign * (data.quantity ?? 0)},
      'amount', (cart.data->>'amount')::bigint + ${sign * (data.quantity ?? 0) * (data.price ?? 0)},
      'changes', (cart.data->>'changes')::bigint + 1)`;
};

const sqlOf = async (text) => {
  if (edition === 'released') return text; // its statements are strings
  const { SQL } = await import('./next/dumbo.mjs');
  return SQL`${SQL.plain(text)}`;
};

const projection =
  kind === 'raw'
    ? emmett.postgreSQLRawSQLProjection({
        name: 'carts',
        canHandle: types,
        evolve: (event) => sqlOf(rawStatement(event)),
        init: () => sqlOf('CREATE TABLE IF NOT EXISTS carts (_id text PRIMARY KEY, data jsonb NOT NULL)'),
      })
    : emmett.pongoSingleStreamProjection({
        collectionName: 'carts',
        canHandle: types,
        initialState: initial,
        evolve,
      });

const consumerOf = (more) => {
  const consumer = emmett.postgreSQLEventStoreConsumer({
    connectionString,
    pulling: { batchSize: Number(batch), pullingFrequencyInMs: Number(process.env.EMMETT_PULL_MS ?? 50) },
    ...more,
  });
  consumer.projector({ processorId: 'carts', projection, startFrom: 'BEGINNING' });
  return consumer;
};

if (what === 'migrate') {
  const store = emmett.getPostgreSQLEventStore(connectionString);
  await store.schema.migrate();
  await store.close();
} else if (what === 'catchup') {
  const consumer = consumerOf({ stopWhen: { noMessagesLeft: true } });
  const started = performance.now();
  await consumer.start();
  console.log(JSON.stringify({ seconds: (performance.now() - started) / 1000 }));
  await consumer.close();
} else {
  const consumer = consumerOf({});
  const ended = consumer.start();
  console.log('ready');
  process.stdin.resume();
  await Promise.race([ended, new Promise((resolve) => process.stdin.once('end', resolve))]);
  await consumer.close();
  process.exit(0);
}
