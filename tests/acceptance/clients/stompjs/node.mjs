// Arguments: step, port, login, passcode, queue, version, transport (tcp or ws).
import { readFileSync } from 'node:fs';

import { Client, Versions } from '@stomp/stompjs';
import { TCPWrapper } from '@stomp/tcp-wrapper';
import WebSocket from 'ws';

import { converse } from './conversation.mjs';

const [step, port, login, passcode, queue, version, transport] = process.argv.slice(2);
const authority = process.env.STOMP_CA;
const versions = new Versions([version]);
const client = new Client({
  connectHeaders: { login, passcode, host: '127.0.0.1' },
  stompVersions: versions,
  webSocketFactory: () => transport === 'tcp'
    ? new TCPWrapper('127.0.0.1', Number(port))
    : new WebSocket(`${authority ? 'wss' : 'ws'}://127.0.0.1:${port}/ws`, versions.protocolVersions(), {
      ca: authority && readFileSync(authority),
    }),
});
await converse(step, client, queue, (...words) => console.log(words.join(' ')));
process.exit(0); // the libraries keep timers
