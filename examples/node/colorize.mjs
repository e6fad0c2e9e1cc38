// Colours a film on a Kinochrome server: node colorize.mjs FILM OUT [--jobs] [--server HOST:PORT] ...
import crypto from 'node:crypto';
import fs from 'node:fs';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const PROTO = fileURLToPath(new URL('../../proto/kinochrome_proto/kinochrome/v1/colorizer.proto', import.meta.url));
const PIECE = 256 * 1024; // bytes of film in one message
const TRIES = 20; // in a row without a byte more
const WORTH_ANOTHER_TRY = [grpc.status.UNAVAILABLE, grpc.status.DATA_LOSS, grpc.status.FAILED_PRECONDITION];

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    server: { type: 'string', default: '127.0.0.1:50551' },
    jobs: { type: 'boolean', default: false },
    ca: { type: 'string' },
    cert: { type: 'string' },
    key: { type: 'string' },
    'token-file': { type: 'string' },
  },
});
if (positionals.length !== 2) {
  console.error('usage: node colorize.mjs FILM OUT [--jobs] [--server HOST:PORT] [--ca PEM] [--cert PEM --key PEM]' +
    ' [--token-file FILE]');
  process.exit(2);
}
const [film, out] = positionals;

const { kinochrome } = grpc.loadPackageDefinition(
  loader.loadSync(PROTO, { keepCase: true, longs: Number, enums: String, oneofs: true }),
);
const read = (name) => (options[name] ? fs.readFileSync(options[name]) : null);
const credentials = options.ca || options.cert
  ? grpc.credentials.createSsl(read('ca'), read('key'), read('cert'))
  : grpc.credentials.createInsecure();
const metadata = new grpc.Metadata();
if (options['token-file']) metadata.set('authorization', `Bearer ${read('token-file').toString().trim()}`);
const client = new kinochrome.v1.ColorizerService(options.server, credentials);
const settings = { container: { '.mkv': 'mkv', '.webm': 'webm', '.mov': 'mov' }[extname(out)] ?? 'mp4' };

/** The answer to one question. */
function ask(method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

/** CRC-32C (Castagnoli). */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0x82f63b78 : byte >>> 1;
  return byte;
});
function crc32c(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Writes messages to a call as fast as it takes them, then says that there are no more. */
async function send(call, messages) {
  for await (const message of messages) {
    if (call.destroyed || call.cancelled) return;
    if (!call.write(message)) await new Promise((go) => call.once('drain', go).once('error', go).once('close', go));
  }
  call.end();
}

/** A file's bytes from an offset on, piece by piece. */
async function* pieces(path, offset = 0) {
  const file = await fs.promises.open(path);
  try {
    for (let at = offset; ; ) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(PIECE), 0, PIECE, at);
      if (!bytesRead) return;
      yield { offset: at, data: buffer.subarray(0, bytesRead) };
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

async function sha256(path) {
  const digest = crypto.createHash('sha256');
  for await (const { data } of pieces(path)) digest.update(data);
  return digest.digest();
}

/** Puts a run of coloured bytes to its place, and gives the place after it. */
function put(file, media) {
  if (media.crc32c && crc32c(media.data) !== media.crc32c) throw new Error('a run of bytes arrived damaged');
  fs.writeSync(file, media.data, 0, media.data.length, media.offset);
  return media.offset + media.data.length;
}

/** One call: the film goes up while the coloured one comes down. */
async function inOneCall(file) {
  const call = client.Colorize(metadata);
  async function* requests() {
    yield { settings };
    for await (const { data } of pieces(film)) yield { film: data };
  }
  const sending = send(call, requests());
  let finished;
  for await (const { response, media, progress, warning, finished: end } of call) {
    if (response === 'media') put(file, media);
    if (response === 'progress') process.stderr.write(`\r${progress.frames} of ${progress.frames_expected} frames`);
    if (response === 'warning') console.error(`warning: ${warning.text}`);
    if (response === 'finished') finished = end;
  }
  await sending;
  return finished;
}

/** A job: whatever breaks is carried on from where it was. */
async function asJob(file) {
  const request = { request_id: crypto.randomUUID(), settings, film_size: fs.statSync(film).size };
  const { job } = await carriedOn(() => ask('CreateJob', request));
  const job_id = job.id;
  console.error(`job ${job_id}`);

  let uploaded = -1;
  await carriedOn(async () => {
    ({ job: { uploaded } } = await ask('GetJob', { job_id }));
    const call = client.UploadFilm(metadata);
    async function* requests() {
      for await (const piece of pieces(film, uploaded)) yield { job_id, ...piece, crc32c: crc32c(piece.data) };
    }
    const sending = send(call, requests());
    for await (const safe of call) uploaded = safe.uploaded;
    await sending;
  }, () => uploaded);

  const commit = { job_id, size: request.film_size, sha256: await sha256(film) };
  await carriedOn(() => ask('CommitFilm', commit));

  let [offset, finished] = [0, undefined];
  await carriedOn(async () => {
    for await (const { response, media, finished: end } of client.DownloadFilm({ job_id, offset }, metadata)) {
      if (response === 'media') offset = Math.max(offset, put(file, media));
      if (response === 'finished') finished = end;
    }
  }, () => offset);
  await carriedOn(() => ask('DeleteJob', { job_id }));
  return finished;
}

/** Does something again while the line breaks, until it succeeds, or nothing moves any more. */
async function carriedOn(act, where = () => 0) {
  for (let tries = 0, before = where(); ; tries++) {
    try {
      return await act();
    } catch (error) {
      if (where() !== before) [tries, before] = [0, where()];
      if (!WORTH_ANOTHER_TRY.includes(error.code) || tries >= TRIES) throw error;
      await new Promise((go) => setTimeout(go, Math.min(5000, 100 * 2 ** tries)));
    }
  }
}

const file = fs.openSync(`${out}.part`, 'w+');
try {
  const finished = await (options.jobs ? asJob(file) : inOneCall(file));
  if (!finished) throw new Error('the server ended the call without a finished film');
  const arrived = fs.fstatSync(file).size === finished.size && (await sha256(`${out}.part`)).equals(finished.sha256);
  if (!arrived) throw new Error('the film arrived damaged');
  fs.renameSync(`${out}.part`, out);
  console.error(`\n${out}: ${finished.frames} frames`);
} catch (error) {
  fs.rmSync(`${out}.part`, { force: true });
  console.error(`\n${error.details || error.message}`);
  process.exitCode = 1;
} finally {
  fs.closeSync(file);
  client.close();
}
