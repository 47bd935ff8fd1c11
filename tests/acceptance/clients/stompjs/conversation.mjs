// What @stomp/stompjs is put through, in Node and in a browser alike.

/** A queue of things that are waited for. */
class Inbox {
  #things = [];
  #waiting = [];

  put(thing) {
    const waiter = this.#waiting.shift();
    if (waiter) waiter(thing);
    else this.#things.push(thing);
  }

  take() {
    if (this.#things.length) return Promise.resolve(this.#things.shift());
    return new Promise(resolve => this.#waiting.push(resolve));
  }
}

class Talker {
  #receipts = 0;

  constructor(client, queue, say) {
    this.client = client;
    this.queue = queue;
    this.inbox = new Inbox();
    this.connections = new Inbox();
    client.onConnect = frame => this.connections.put(frame);
    client.onStompError = frame => say('error', frame.headers.message);
    client.onUnhandledMessage = frame => say('error', 'a message of no subscription', frame.body);
  }

  async connect() {
    this.client.activate();
    return this.connections.take();
  }

  /** Run something with the headers that ask for a receipt; it is done when that has come. */
  confirmed(act) {
    const receipt = `r-${++this.#receipts}`;
    return new Promise(resolve => {
      this.client.watchForReceipt(receipt, resolve);
      act({ receipt });
    });
  }

  send(body, headers = {}) {
    return this.confirmed(asked => this.client.publish({
      destination: this.queue, body, headers: { persistent: 'true', ...headers, ...asked },
    }));
  }

  subscribe() {
    const headers = { id: 's', ack: 'client-individual', 'prefetch-count': '3' };
    return this.confirmed(asked => this.client.subscribe(
      this.queue, message => this.inbox.put(message), { ...headers, ...asked },
    ));
  }

  message() {
    return this.inbox.take();
  }
}

const steps = {
  async talk(talker, say) {
    const { client } = talker;
    const connected = await talker.connect();
    say('connected', connected.headers.version);
    // It escapes on 1.2 alone, and takes a doubled backslash apart wrong.
    const note = connected.headers.version === '1.2' ? 'a:b\nd' : 'plain';
    for (const body of ['one', 'two', 'drei ß']) await talker.send(body, { note });
    say('sent');
    await talker.subscribe();
    const [one, two, three] = [await talker.message(), await talker.message(), await talker.message()];
    say('received', one.body, two.body, three.body);
    say('note', JSON.stringify(one.headers.note));
    await talker.confirmed(asked => one.ack(asked));
    await talker.confirmed(asked => two.ack(asked));
    three.nack();
    const again = await talker.message();
    say('again', again.body, again.headers.redelivered);
    await talker.confirmed(asked => again.ack(asked));
    const aborted = client.begin();
    client.publish({ destination: talker.queue, body: 'never', headers: { transaction: aborted.id } });
    aborted.abort();
    const committed = client.begin();
    client.publish({ destination: talker.queue, body: 'four', headers: { transaction: committed.id } });
    client.publish({ destination: talker.queue, body: 'five', headers: { transaction: committed.id } });
    committed.commit();
    const [four, five] = [await talker.message(), await talker.message()];
    say('committed', four.body, five.body);
    const acked = client.begin();
    four.ack({ transaction: acked.id });
    five.ack({ transaction: acked.id });
    acked.commit();
    await client.deactivate(); // a DISCONNECT with a receipt, which it waits for
    say('bye');
  },

  async beat(talker, say) {
    const { client } = talker;
    client.heartbeatOutgoing = client.heartbeatIncoming = 100;
    client.onHeartbeatLost = () => say('error', 'the server missed a beat');
    await talker.connect();
    await talker.subscribe();
    say('idle');
    const message = await talker.message();
    say('woken', message.body);
    await talker.confirmed(asked => message.ack(asked));
    await client.deactivate();
    say('bye');
  },

  async reconnect(talker, say) {
    const { client } = talker;
    client.reconnectDelay = 50;
    await talker.connect();
    await talker.subscribe();
    const first = await talker.message();
    await talker.confirmed(asked => first.ack(asked));
    say('holding', (await talker.message()).body);
    await talker.connections.take(); // by itself, as soon as there is a server again
    await talker.subscribe();
    const again = await talker.message();
    say('again', again.body, again.headers.redelivered);
    await talker.confirmed(asked => again.ack(asked));
    await talker.send('third');
    const third = await talker.message();
    await talker.confirmed(asked => third.ack(asked));
    say('received', third.body);
    await client.deactivate();
    say('bye');
  },
};

/**
 * @param step 'talk', 'beat' or 'reconnect'
 * @param client a stompjs Client that knows where to connect and as whom
 * @param queue the destination
 * @param say is told each fact, as words
 */
export async function converse(step, client, queue, say) {
  client.heartbeatOutgoing = client.heartbeatIncoming = 0;
  await steps[step](new Talker(client, queue, say), say);
}
