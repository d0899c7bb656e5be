// tint.mjs PACKAGE FILE...: puts WGSL before Tint as a browser would, on a device without hardware, and writes a list
// in JSON: for each NAME.wgsl, with the constants in NAME.json, the reason why it is refused, or null.
//
// PACKAGE   the folder of the npm package `webgpu`, which is Chromium's WebGPU

import { readFileSync } from 'node:fs';

const [webgpu, ...files] = process.argv.slice(2);
const { create, globals } = await import(`${webgpu}/index.js`);
Object.assign(globalThis, globals);

// Dawn ends the process when this is collected.
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: ['subgroups', 'shader-f16'] });

// naga takes subgroup operations without this line, and refuses the line.
const forTheWeb = (text) => (text.includes('subgroup') ? `enable subgroups;\n${text}` : text);

async function refusal(file) {
  const code = forTheWeb(readFileSync(file, 'utf8'));
  const constants = JSON.parse(readFileSync(file.replace(/wgsl$/, 'json'), 'utf8'));
  // Errors of no scope are printed among the verdicts.
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  await device.popErrorScope();
  const { messages } = await module.getCompilationInfo();
  const error = messages.find((message) => message.type === 'error');
  if (error) return `${error.lineNum}:${error.linePos}: ${error.message}`;
  const compute = { module, entryPoint: 'main', constants };
  return device.createComputePipelineAsync({ layout: 'auto', compute }).then(() => null, (e) => e.message);
}

const verdicts = [];
for (const file of files) verdicts.push(await refusal(file));
console.log(JSON.stringify(verdicts));
process.exit(0);
