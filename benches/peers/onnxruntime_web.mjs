// onnxruntime-web peer: MatMul on the WebGPU provider inside a headless Chromium.
//
//   node onnxruntime_web.mjs PACKAGE_DIR CHROMIUM [MxNxK ...]
//
// PACKAGE_DIR is an unpacked onnxruntime-web npm package. The page is served from a
// local port, and posts its figures back; stdout gets one line per figure:
// `what shape unit median runs`, stderr everything else, including the adapter.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

const [packageDir, chromium, ...given] = process.argv.slice(2);
const shapes = given.length ? given : ['512x512x512'];
const secondsPerShape = Number(process.env.PEER_SECONDS ?? 4);
const timeout = Number(process.env.PEER_TIMEOUT ?? 420) * 1000;
// Ways to an adapter, tried in this order until one works; PEER_MODE names one.
//  - gpu: a hardware adapter through Vulkan;
//  - llvmpipe: Mesa's software rasteriser through ANGLE on OpenGL ES, for which Chromium wants
//    a page that asks for the compatibility level; without a GPU it never hands out lavapipe;
//  - swiftshader: Chromium's own software rasteriser.
const modes = {
  gpu: ['--enable-features=Vulkan', '--use-vulkan=native'],
  llvmpipe: ['--use-gl=angle', '--use-angle=gl-egl', '--use-webgpu-adapter=opengles'],
  swiftshader: ['--use-webgpu-adapter=swiftshader'],
};
const flags = [
  '--headless=new', '--no-sandbox', '--enable-unsafe-webgpu', '--enable-webgpu-developer-features', '--ignore-gpu-blocklist',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run',
  '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
];

// Runs in the browser.
async function page(mode, shapes, secondsPerShape) {
  const say = (kind, value) => fetch('/say', { method: 'POST', body: JSON.stringify({ kind, value }) });
  try {
    const ort = await import('/ort/dist/ort.webgpu.min.mjs');
    ort.env.wasm.wasmPaths = '/ort/dist/';
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = 'error';
    if (!navigator.gpu) throw new Error('navigator.gpu is missing');
    if (mode === 'llvmpipe') {
      const original = navigator.gpu.requestAdapter.bind(navigator.gpu);
      navigator.gpu.requestAdapter = (options) => original({ ...options, featureLevel: 'compatibility' });
    }
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) throw new Error('no WebGPU adapter');
    if (mode !== 'swiftshader' && adapter.info.isFallbackAdapter) throw new Error('only the fallback adapter');
    const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
    await say('adapter', {
      mode, vendor, architecture, device, description, isFallbackAdapter,
      f16: adapter.features.has('shader-f16'), subgroups: adapter.features.has('subgroups'),
      binding: adapter.limits.maxStorageBufferBindingSize,
    });

    // The ONNX file format, as far as one MatMul needs it (protobuf wire format).
    const text = new TextEncoder();
    const join = (parts) => {
      const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
      let at = 0;
      for (const p of parts) { all.set(p, at); at += p.length; }
      return all;
    };
    const varint = (n) => {
      const out = [];
      while (n > 127) { out.push((n % 128) | 128); n = Math.floor(n / 128); }
      out.push(n);
      return Uint8Array.from(out);
    };
    const number = (field, n) => join([varint(field * 8), varint(n)]);
    const bytes = (field, b) => join([varint(field * 8 + 2), varint(b.length), b]);
    const string = (field, s) => bytes(field, text.encode(s));
    const message = (field, ...parts) => bytes(field, join(parts));
    const value = (field, name, dims) => message(field, string(1, name),
      message(2, message(1, number(1, 1), message(2, ...dims.map((d) => message(1, number(1, d)))))));
    const model = (m, n, k, weight) => join([
      number(1, 8),                                        // ir_version
      message(7,                                           // graph
        message(1, string(1, 'a'), string(1, 'w'), string(2, 'c'), string(4, 'MatMul')),
        string(2, 'matmul'),
        message(5, number(1, k), number(1, n), number(2, 1), string(8, 'w'), bytes(9, new Uint8Array(weight.buffer))),
        value(11, 'a', [m, k]),
        value(12, 'c', [m, n])),
      message(8, string(1, ''), number(2, 17)),            // opset_import
    ]);

    let state = 0x12345678;
    const random = (length) => {
      const out = new Float32Array(length);
      for (let i = 0; i < length; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        out[i] = state / 4294967296 - 0.5;
      }
      return out;
    };
    const median = (v) => { v.sort((x, y) => x - y); return (v[v.length >> 1] + v[(v.length - 1) >> 1]) / 2; };

    for (const shape of shapes) {
      const [m, n, k] = shape.split('x').map(Number);
      const a = random(m * k);
      const w = random(k * n);
      const session = await ort.InferenceSession.create(model(m, n, k, w),
        { executionProviders: ['webgpu'], preferredOutputLocation: 'gpu-buffer' });
      const gpu = await ort.env.webgpu.device;
      const buffer = gpu.createBuffer({ size: a.byteLength, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
      gpu.queue.writeBuffer(buffer, 0, a);
      const input = ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: [m, k] });

      // Correctness first: 64 sampled points against double precision.
      let { c } = await session.run({ a: input });
      const got = await c.getData(true);
      let worst = 0;
      for (let i = 0; i < 64; i++) {
        const row = (i * 7919) % m;
        const col = (i * 104729) % n;
        let want = 0;
        for (let j = 0; j < k; j++) want += a[row * k + j] * w[j * n + col];
        worst = Math.max(worst, Math.abs(got[row * n + col] - want));
      }
      if (!(got.length === m * n && worst < 1e-3)) throw new Error(`${shape}: wrong result, error ${worst}`);

      // Everything stays on the device: run, then wait for the queue.
      const once = async () => {
        const start = performance.now();
        const out = await session.run({ a: input });
        await gpu.queue.onSubmittedWorkDone();
        const seconds = (performance.now() - start) / 1000;
        out.c.dispose();
        return seconds;
      };
      // A software rasteriser may need half a minute a call: then three calls have to do.
      const slow = await once() > 2;
      if (!slow) await once();
      const times = [];
      const begin = performance.now();
      while (times.length < (slow ? 3 : 5) || (times.length < 30 && performance.now() - begin < 1000 * secondsPerShape)) times.push(await once());
      const seconds = median(times);
      const [unit, figure] = m === 1 ? ['GB/s', 4 * n * k / seconds / 1e9] : ['GFLOP/s', 2 * m * n * k / seconds / 1e9];
      await say('figure', { what: 'matmul', shape, unit, figure, runs: times.length, worst, ms: 1000 * seconds });
      await session.release();
      buffer.destroy();
    }
    await say('done', null);
  } catch (error) {
    await say('error', String(error));
  }
}

const types = { '.mjs': 'text/javascript', '.js': 'text/javascript', '.wasm': 'application/wasm' };
let finish = () => {};
let html = '';
let figures = 0;
const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    let body = '';
    request.on('data', (chunk) => { body += chunk; });
    request.on('end', () => {
      response.end();
      const { kind, value } = JSON.parse(body);
      if (kind === 'figure') {
        figures++;
        console.log(`${value.what} ${value.shape} ${value.unit} ${value.figure.toFixed(3)} ${value.runs}`);
        console.error(`${value.shape}: ${value.ms.toFixed(2)} ms, largest error ${value.worst.toExponential(1)}`);
      } else if (kind === 'adapter') {
        console.error(`adapter: ${JSON.stringify(value)}`);
        console.log(`device ${[value.vendor, value.architecture, value.device, value.description].filter(Boolean).join(' ') || 'unknown'}`);
      } else if (kind === 'done') {
        finish(0);
      } else {
        console.error(value);
        finish(1);
      }
    });
    return;
  }
  const name = new URL(request.url, 'http://localhost').pathname;
  if (name === '/') {
    response.setHeader('content-type', 'text/html');
    response.end(html);
    return;
  }
  const root = path.resolve(packageDir);
  const file = path.resolve(root, name.replace(/^\/ort\//, ''));
  if (!name.startsWith('/ort/') || !file.startsWith(root + path.sep) || !fs.existsSync(file)) {
    response.statusCode = 404;
    response.end();
    return;
  }
  response.setHeader('content-type', types[path.extname(file)] ?? 'application/octet-stream');
  fs.createReadStream(file).pipe(response);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

async function attempt(mode) {
  html = `<!doctype html><meta charset="utf-8"><script type="module">(${page})(${JSON.stringify(mode)}, ${JSON.stringify(shapes)}, ${secondsPerShape})</script>`;
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'peer-chromium-'));
  const finished = new Promise((resolve) => { finish = resolve; });
  const browser = spawn(chromium, [...flags, ...modes[mode], `--user-data-dir=${profile}`, `http://127.0.0.1:${server.address().port}/`],
    { stdio: ['ignore', 'ignore', process.env.PEER_VERBOSE ? 'inherit' : 'ignore'], detached: true });
  let over = false;
  browser.on('error', (error) => { console.error(String(error)); finish(1); });
  browser.on('exit', (code) => { if (!over) console.error(`chromium ended with ${code}`); finish(1); });
  const timer = setTimeout(() => { console.error('timed out'); finish(1); }, timeout);
  const code = await finished;
  over = true;
  clearTimeout(timer);
  try { process.kill(-browser.pid, 'SIGKILL'); } catch { /* already gone */ }
  await new Promise((resolve) => setTimeout(resolve, 300));
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  return code;
}

let code = 1;
for (const mode of process.env.PEER_MODE ? [process.env.PEER_MODE] : Object.keys(modes)) {
  console.error(`trying ${mode}`);
  code = await attempt(mode);
  if (code === 0 || figures > 0) break;
}
process.exit(code);
