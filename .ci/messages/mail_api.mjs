// Judges what mail services' HTTP APIs are sent: `mail_api.mjs MESSAGES SCRATCH`.
//
// - Each request's mail is given to the service's own client for Node, which sends it to a server here. What the client sends
//   must be the relay's request: method, path, key, members. Clients drop members that they do not know.
// - Members also stand the services' own types, checked by TypeScript, where clients hand on whatever they are given.
// - Resend besides: an emulator of its API takes each request, knows its repeat, and refuses another mail under its key.
//
// Amazon SES is validate.py's, by Amazon's own library.

import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createProbe } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import sendgrid from '@sendgrid/mail';
import Mailgun from 'mailgun.js';
import { ServerClient } from 'postmark';
import { Resend } from 'resend';
import ts from 'typescript';

const [messages, scratch] = process.argv.slice(2);
// As tests/messages/requests.rs has them.
const KEY = 'SG.not-a-real-key';
const DOMAIN = 'mg.example.org';
const problems = [];

function requests(service) {
  const directory = join(messages, `email-${service}`);
  const files = readdirSync(directory).sort();
  if (files.length === 0) throw new Error(`${directory} is empty`);
  return files.map((file) => [`email-${service}/${file}`, JSON.parse(readFileSync(join(directory, file), 'utf8'))]);
}

// ---------------------------------------------------------------- The services' clients

/** Takes one request at a time, answers with what every client takes for success, and keeps it. */
class Receiver {
  static async start() {
    const receiver = new Receiver();
    receiver.server = createServer((request, response) => {
      const parts = [];
      request.on('data', (part) => parts.push(part));
      request.on('end', () => {
        receiver.last = { method: request.method, target: request.url, headers: request.headers, body: Buffer.concat(parts) };
        response.writeHead(200, { 'content-type': 'application/json' });
        response.end('{"id":"x","message":"Queued.","ErrorCode":0}');
      });
    });
    await new Promise((listening) => receiver.server.listen(0, '127.0.0.1', listening));
    receiver.host = `127.0.0.1:${receiver.server.address().port}`;
    return receiver;
  }
}

/** Name and value in order of names; values of one name in their own order. */
const sorted = (pairs) => [...pairs].sort(([one], [other]) => (one < other ? -1 : one > other ? 1 : 0));
const formOf = (request) => [...new URLSearchParams(request.body)];

function members(pairs) {
  const object = {};
  for (const [name, value] of pairs) object[name] = name in object ? [object[name], value].flat() : value;
  return object;
}

// For each: how its client sends the mail of a request, which headers both must have, and the members.
const CLIENTS = {
  sendgrid: {
    headers: ['authorization', 'content-type'],
    async send(host, request) {
      sendgrid.setApiKey(KEY);
      sendgrid.client.setDefaultRequest('baseUrl', `http://${host}/`);
      await sendgrid.send(JSON.parse(request.body));
    },
  },
  postmark: {
    headers: ['x-postmark-server-token', 'content-type', 'accept'],
    async send(host, request) {
      await new ServerClient(KEY, { useHttps: false, requestHost: host }).sendEmail(JSON.parse(request.body));
    },
  },
  resend: {
    headers: ['authorization', 'content-type', 'idempotency-key'],
    async send(host, request) {
      const client = new Resend(KEY, { baseUrl: `http://${host}` });
      const { error } = await client.emails.send(JSON.parse(request.body), { idempotencyKey: request.headers['idempotency-key'] });
      if (error) throw new Error(error.message);
    },
  },
  mailgun: {
    // The client sends a form of parts, ours is URL-encoded: the API takes both.
    headers: ['authorization'],
    async send(host, request) {
      const client = new Mailgun(FormData).client({ username: 'api', key: KEY, url: `http://${host}` });
      await client.messages.create(DOMAIN, members(formOf(request)));
    },
    ours: (request) => sorted(formOf(request)),
    theirs: async (sent) => sorted(await new Response(sent.body, { headers: { 'content-type': sent.headers['content-type'] } }).formData()).map(([name, value]) => [name, value.replaceAll('\r\n', '\n')]),
  },
};

async function compare(receiver, service, where, request) {
  const { headers, send, ours, theirs } = CLIENTS[service];
  receiver.last = null;
  try {
    await send(receiver.host, request);
  } catch (error) {
    problems.push(`${where}: the service's client refuses it: ${error.message}`);
    return;
  }
  const sent = receiver.last;
  if (request.method !== sent.method || request.target !== sent.target) problems.push(`${where}: ${request.method} ${request.target}, the service's client: ${sent.method} ${sent.target}`);
  const plain = (value) => value?.replace(/; charset=utf-8$/i, '');
  for (const name of headers) {
    if (plain(request.headers[name]) !== plain(sent.headers[name])) problems.push(`${where}: ${name} ${request.headers[name]}, the service's client: ${sent.headers[name]}`);
  }
  const bodies = [ours ? ours(request) : JSON.parse(request.body), theirs ? await theirs(sent) : JSON.parse(sent.body)];
  if (!isDeepStrictEqual(...bodies)) problems.push(`${where}: ${JSON.stringify(bodies[0]).slice(0, 300)} …, the service's client: ${JSON.stringify(bodies[1]).slice(0, 300)} …`);
}

async function mustFind(what, judge) {
  const before = problems.length;
  await judge();
  if (problems.length === before) throw new Error(`${what} was not found: this check is blind`);
  problems.length = before;
}

function changed(request, change) {
  const copy = structuredClone(request);
  const body = request.body.startsWith('{') ? JSON.parse(request.body) : null;
  change(copy, body);
  if (body) copy.body = JSON.stringify(body);
  return copy;
}

const BAD_REQUESTS = {
  sendgrid: {
    'another path': (request) => { request.target = '/v3/mail'; },
    'a key without Bearer': (request) => { request.headers.authorization = KEY; },
    'an unknown member': (_, body) => { body.track = false; },
    'a misspelt setting': (_, body) => { body.tracking_settings.click_tracking.enable = 'false'; },
    'a subject that is a number': (_, body) => { body.subject = 1; },
    'an unknown member of a person': (_, body) => { body.from.address = 'x@example.org'; },
  },
  postmark: {
    'another path': (request) => { request.target = '/emails'; },
    'the key in another header': (request) => { delete request.headers['x-postmark-server-token']; },
    'no JSON': (request) => { request.headers['content-type'] = 'text/plain'; },
  },
  resend: {
    'another path': (request) => { request.target = '/email'; },
    'another key': (request) => { request.headers.authorization = 'Bearer x'; },
    'an unknown member': (_, body) => { body.reply_too = 'x@example.org'; },
  },
  mailgun: {
    'another path': (request) => { request.target = '/v3/messages'; },
    'a key without a user': (request) => { request.headers.authorization = `Basic ${btoa(KEY)}`; },
    'a form that is none': (request) => { request.body = 'x'; },
  },
};

async function clients() {
  const receiver = await Receiver.start();
  for (const service of Object.keys(CLIENTS)) {
    const all = requests(service);
    for (const [what, change] of Object.entries(BAD_REQUESTS[service])) {
      await mustFind(`${service}: ${what}`, () => compare(receiver, service, 'bad', changed(all[0][1], change)));
    }
    for (const [where, request] of all) await compare(receiver, service, where, request);
    console.log(`${service}: ${all.length} requests as its own client sends them`);
  }
  receiver.server.close();
  receiver.server.closeAllConnections();
}

// ---------------------------------------------------------------- The services' types

// Mailgun's type lets any name through beside those that it knows: the names that it knows, and headers, are enough here.
// Postmark's enumeration is compared by its values.
const TYPES = `
import type { Models } from 'postmark';
import type { CreateEmailOptions } from 'resend';
import type { MailgunMessageData } from 'mailgun.js/definitions';
type Known<T> = { [K in keyof T as string extends K ? never : K]: T[K] };
type postmark = Omit<Models.Message, 'TrackLinks'> & { TrackLinks?: \`\${Models.LinkTrackingOptions}\` };
type resend = CreateEmailOptions;
type mailgun = Known<MailgunMessageData> & { [name: \`h:\${string}\`]: string };
`;
const BAD_LITERALS = {
  postmark: [{ From: 'x', Subject: 'x', TrackOpen: false }, { From: 'x', Subject: 'x', TrackLinks: 'No' }, { From: 'x' }, { From: 'x', Subject: 'x', Headers: [{ Name: 'x', Content: 'x' }] }],
  resend: [{ from: 'x', to: 'x', subject: 'x' }, { from: 'x', to: 'x', subject: 'x', text: 'x', headers: { x: 1 } }, { from: 'x', to: 'x', text: 'x' }],
  mailgun: [{ from: 'x', to: 'x', text: 'x', 'o:track': 'no' }, { from: 'x', to: 'x', text: 'x', 'o:tracking': 'off' }, { from: 'x', to: 'x', subject: 'x' }],
};

/** The lines with faults, of a program of one literal a line after TYPES. */
function faults(name, literals) {
  const file = resolve(scratch, name);
  const lines = literals.map(([service, literal], number) => `export const m${number}: ${service} = ${JSON.stringify(literal)};`);
  writeFileSync(file, TYPES + lines.join('\n'));
  const program = ts.createProgram([file], { noEmit: true, strict: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022, lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'], module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler });
  const found = new Map();
  for (const { file: at, start, messageText } of ts.getPreEmitDiagnostics(program)) {
    const line = at ? at.getLineAndCharacterOfPosition(start).line - TYPES.split('\n').length + 1 : -1;
    if (line < 0) throw new Error(`TypeScript: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`);
    found.set(line, ts.flattenDiagnosticMessageText(messageText, ' '));
  }
  return found;
}

function types() {
  const bad = Object.entries(BAD_LITERALS).flatMap(([service, literals]) => literals.map((literal) => [service, literal]));
  const found = faults('bad.ts', bad);
  bad.forEach(([service, literal], number) => {
    if (!found.has(number)) throw new Error(`${service}'s types take ${JSON.stringify(literal)}: this check is blind`);
  });
  // Prose has no type but text: what differs in nothing else is checked once.
  const prose = new Set(['text', 'html', 'subject', 'TextBody', 'HtmlBody', 'Subject', 'Value', 'Message-ID', 'In-Reply-To', 'References', 'h:Message-ID', 'h:In-Reply-To', 'h:References']);
  const literals = new Map();
  for (const service of Object.keys(BAD_LITERALS)) {
    for (const [where, request] of requests(service)) {
      const body = service === 'mailgun' ? members(formOf(request)) : JSON.parse(request.body);
      const short = JSON.parse(JSON.stringify(body, (name, value) => (prose.has(name) && typeof value === 'string' ? 'x' : value)));
      const key = service + JSON.stringify(short);
      if (!literals.has(key)) literals.set(key, [service, short, where]);
    }
  }
  const list = [...literals.values()];
  for (const [number, fault] of faults('requests.ts', list)) problems.push(`${list[number][2]}: ${list[number][0]}'s types: ${fault}`);
  console.log(`types of mailgun, postmark, resend: ${list.length} kinds of requests`);
}

// ---------------------------------------------------------------- Resend's emulator

const EMULATOR_TOKEN = 'test_token_admin';

async function freePort() {
  const probe = createProbe();
  await new Promise((listening) => probe.listen(0, '127.0.0.1', listening));
  const { port } = probe.address();
  await new Promise((closed) => probe.close(closed));
  return port;
}

async function emulator() {
  const port = await freePort();
  const command = [resolve(scratch, 'node_modules/emulate/dist/index.js'), 'start', '--service', 'resend', '--port', String(port)];
  const child = spawn(process.execPath, command, { cwd: mkdtempSync(join(tmpdir(), 'emulate-')), stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { said += data; });
  try {
    const post = async (request, body = request.body, key = request.headers['idempotency-key']) => {
      const headers = { 'content-type': request.headers['content-type'], authorization: request.headers.authorization.replace(KEY, EMULATOR_TOKEN), 'idempotency-key': key };
      const answer = await fetch(`http://127.0.0.1:${port}${request.target}`, { method: request.method, headers, body });
      return { status: answer.status, ...(await answer.json().catch(() => ({}))) };
    };
    const all = requests('resend');
    for (let tries = 0; ; tries += 1) {
      if (await post(all[0][1], '{}', 'first').then(() => true, () => false)) break;
      if (tries > 300 || child.exitCode !== null) throw new Error(`the emulator does not answer: ${said}`);
      await new Promise((later) => setTimeout(later, 100));
    }
    const refused = await post(all[0][1], JSON.stringify({ ...JSON.parse(all[0][1].body), from: undefined }), 'bad');
    if (refused.status !== 422) throw new Error(`the emulator takes a mail without a sender (${refused.status}): this check is blind`);
    for (const [where, request] of all) {
      const [first, again] = [await post(request), await post(request)];
      if (first.status !== 200 || again.id !== first.id) problems.push(`${where}: the emulator says ${JSON.stringify([first, again])}`);
    }
    const other = await post(all[0][1], all.at(-1)[1].body);
    if (other.status !== 409) problems.push(`resend: another mail under the key of one that was taken: ${JSON.stringify(other)}`);
    console.log(`resend: ${all.length} requests taken by an emulator, each repeat known for one`);
  } finally {
    child.kill();
  }
}

types();
await clients();
await emulator();
for (const line of problems.slice(0, 40)) console.error(line);
if (problems.length !== 0) {
  console.error(`${problems.length} problems`);
  process.exit(1);
}
