// OpenAI's client for Node against `instructblip serve`, written as for the hosted service.
//
//     node client.mjs URL KEYED
//
// URL is the server's address with /v1, KEYED that of one that wants the key `sesame` and has one slot and one place in
// its queue. The package `openai` is found from the working folder.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

const OpenAI = createRequire(process.cwd() + '/')('openai');
const [URL_, KEYED] = process.argv.slice(2);
const options = { baseURL: URL_, apiKey: 'none', timeout: 120_000, maxRetries: 0 };
const client = new OpenAI(options);
const keyed = (apiKey, more = {}) => new OpenAI({ ...options, baseURL: KEYED, apiKey, ...more });

const file = (name) => readFileSync(new URL('../shapes/' + name, import.meta.url));
const dataUrl = (name) => 'data:image/png;base64,' + file(name).toString('base64');
const picture = dataUrl('samples/10.png');
const other = dataUrl('samples/11.png');
const question = (text, ...urls) => ({
  role: 'user',
  content: [{ type: 'text', text }, ...urls.map((url) => ({ type: 'image_url', image_url: { url, detail: 'high' } }))],
});
const biggest = [question('Which object is the biggest one?', picture)];
const detail = [question('Describe everything you see in the image.', other)];

const ask = (messages, more = {}, of = client, settings = {}) =>
  of.chat.completions.create({ model: 'gpt-4o', messages, ...more }, settings);
const textOf = (answer) => answer.choices[0].message.content;

async function gather(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const joined = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');

// A call must end with an error of this class.
async function refused(kind, call, status, code, param = null) {
  await assert.rejects(call, (error) => {
    const got = [error.constructor, error.status, error.code, error.param];
    assert.deepEqual(got, [kind, status, code, param], `${error}`);
    assert.match(error.requestID, /^req_/);
    return true;
  });
}

async function numbers() {
  const page = await (await fetch(URL_.replace(/\/v1$/, '/metrics'))).text();
  const lines = page.split('\n').filter((line) => line && !line.startsWith('#'));
  return Object.fromEntries(lines.map((line) => line.split(/ (?=\S+$)/)).map(([name, value]) => [name, Number(value)]));
}

// An answer whose client leaves must be made no further.
async function cancels(leave) {
  const before = (await numbers()).instructblip_answers_cancelled_total;
  await leave();
  for (let tries = 0; tries < 400; tries++, await sleep(50)) {
    const now = await numbers();
    if (now.instructblip_answers_cancelled_total > before && now.instructblip_slots_taken === 0) return;
  }
  assert.fail('the answer was not cancelled');
}

const checks = {
  async plain() {
    const answer = await ask(biggest);
    const [choice] = answer.choices;
    assert.deepEqual([choice.message.role, choice.message.content], ['assistant', 'blue cross']);
    assert.deepEqual([choice.finish_reason, choice.logprobs, answer.object], ['stop', null, 'chat.completion']);
    assert.equal(answer.model, 'instructblip-shapes');
    assert.match(answer._request_id, /^req_/);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    const { data, response } = await ask(biggest).withResponse();
    assert.deepEqual([textOf(data), response.headers.get('content-type')], ['blue cross', 'application/json']);
  },

  async streams() {
    const want = await ask(detail);
    const chunks = await gather(await ask(detail, { stream: true, stream_options: { include_usage: true } }));
    assert.equal(joined(chunks), textOf(want));
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.deepEqual(chunks.at(-1).usage, want.usage);
    assert.equal(chunks.at(-2).choices[0].finish_reason, want.choices[0].finish_reason);
    assert(chunks.length > 10 && chunks.slice(0, -1).every((chunk) => chunk.usage === null));
    assert((await gather(await ask(detail, { stream: true }))).every((chunk) => chunk.choices.length && !chunk.usage));
    const helper = client.chat.completions.stream({ model: 'gpt-4o', messages: detail });
    let told = '';
    helper.on('content', (piece) => (told += piece));
    assert.equal(await helper.finalContent(), textOf(want));
    assert.equal(told, textOf(want));
    const web = (await ask(detail, { stream: true })).toReadableStream();
    assert((await new Response(web).text()).split('\n').length > 10);
  },

  async logprobs() {
    const asked = { logprobs: true, top_logprobs: 3 };
    for (const messages of [biggest, detail]) {
      const [choice] = (await ask(messages, asked)).choices;
      for (const token of choice.logprobs.content) {
        const best = token.top_logprobs.reduce((a, b) => (b.logprob > a.logprob ? b : a));
        assert(token.logprob <= 0 && token.top_logprobs.length === 3);
        assert.deepEqual([best.token, best.bytes, best.logprob], [token.token, token.bytes, token.logprob]);
      }
      const bytes = choice.logprobs.content.flatMap((token) => token.bytes);
      assert.equal(Buffer.from(bytes).toString().trim(), choice.message.content);
      const chunks = await gather(await ask(messages, { ...asked, stream: true }));
      const streamed = chunks.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []);
      assert.deepEqual(streamed.map((token) => token.token), choice.logprobs.content.map((token) => token.token));
    }
  },

  async several() {
    const drawn = { n: 3, temperature: 1.5, seed: 7 };
    const texts = async () => (await ask(detail, drawn)).choices.map((choice) => choice.message.content);
    const first = await texts();
    assert.equal(first.length, 3);
    assert.deepEqual(await texts(), first);
    const told = ['', '', ''];
    for await (const { choices } of await ask(detail, { ...drawn, stream: true }))
      told[choices[0].index] += choices[0].delta.content ?? '';
    assert.deepEqual(told, first);
    const same = (await ask(detail, { n: 2, temperature: 0 })).choices.map((choice) => choice.message.content);
    assert.deepEqual(same, Array(2).fill(textOf(await ask(detail))));
  },

  async ends() {
    const whole = textOf(await ask(detail));
    for (const stop of ['background', [' background', 'nowhere'], ['white background: a']]) {
      const [choice] = (await ask(detail, { stop })).choices;
      assert.equal(choice.message.content, whole.split(Array.isArray(stop) ? stop[0] : stop)[0].trim());
      assert.equal(choice.finish_reason, 'stop');
      assert.equal(joined(await gather(await ask(detail, { stop, stream: true }))), choice.message.content);
    }
    for (const name of ['max_tokens', 'max_completion_tokens']) {
      const one = await ask(detail, { [name]: 1 });
      assert.deepEqual([one.choices[0].finish_reason, one.usage.completion_tokens], ['length', 1]);
    }
  },

  async models() {
    const models = await gather(client.models.list());
    assert.deepEqual(models.map((model) => model.id), ['instructblip-shapes']);
    const one = await client.models.retrieve('instructblip-shapes');
    assert.deepEqual({ ...one }, { ...models[0] });
  },

  async embeddings() {
    const embed = async (input, more = {}) =>
      (await client.embeddings.create({ model: 'gpt-4o', input, ...more })).data.map((item) => item.embedding);
    const [packed] = await embed(picture);
    const [floats] = await embed(picture, { encoding_format: 'float' });
    assert(packed.length > 1);
    // Numbers of JSON name those of 32 bits, which the packed ones are, in the shortest way.
    assert.deepEqual(Array.from(packed), floats.map(Math.fround));
    assert.deepEqual((await embed([other, picture]))[1], packed);
  },

  async conversation() {
    const messages = [...biggest];
    messages.push((await ask(messages)).choices[0].message, { role: 'user', content: 'Can you count the things?' });
    assert((await ask(messages)).choices[0].message.content);
    const [text, image] = biggest[0].content;
    const apart = [{ role: 'user', content: [image] }, { role: 'user', content: text.text }];
    assert.equal(textOf(await ask(apart)), 'blue cross');
  },

  async errors() {
    const bad = (messages, more, code, param) =>
      refused(OpenAI.BadRequestError, () => ask(messages, more), 400, code, param);
    const noPicture = 'data:image/png;base64,' + Buffer.from('no picture').toString('base64');
    const place = 'messages[0].content[1].image_url';
    await bad([question('What?', noPicture)], {}, 'invalid_image', place);
    await bad([question('What?', 'https://example.org/a.png')], {}, 'invalid_value', place);
    await bad([question('What?', picture, other)], {}, 'invalid_value', 'messages');
    await bad(biggest, { temperature: 3 }, 'invalid_value', 'temperature');
    await bad(biggest, { temperature: 3, stream: true }, 'invalid_value', 'temperature');
    const tool = { type: 'function', function: { name: 'look', parameters: { type: 'object', properties: {} } } };
    await bad(biggest, { tools: [tool] }, 'unsupported_parameter', 'tools');
    await bad(biggest, { colour: 1 }, 'unsupported_parameter', 'colour');
    await refused(OpenAI.NotFoundError, () => client.models.retrieve('gpt-4o'), 404, 'model_not_found', 'model');
    const responses = () => client.responses.create({ model: 'gpt-4o', input: 'Hi' });
    await refused(OpenAI.NotFoundError, responses, 404, 'unknown_url');
  },

  async keys() {
    const wrong = keyed('open');
    await refused(OpenAI.AuthenticationError, () => ask(biggest, {}, wrong), 401, 'invalid_api_key');
    await refused(OpenAI.AuthenticationError, () => wrong.models.list(), 401, 'invalid_api_key');
    assert.equal(textOf(await ask(biggest, {}, keyed('sesame'))), 'blue cross');
  },

  async leaving() {
    const long = { min_tokens: 450 };
    await cancels(async () => {
      let pieces = 0;
      for await (const _ of await ask(detail, { ...long, stream: true })) if (++pieces === 3) break;
    });
    await cancels(async () => {
      const stream = await ask(detail, { ...long, stream: true });
      stream.controller.abort();
    });
    await cancels(() => assert.rejects(ask(detail, long, client, { timeout: 150 }), OpenAI.APIConnectionTimeoutError));
    const gone = new AbortController();
    const asked = ask(detail, long, client, { signal: gone.signal });
    await cancels(async () => {
      setTimeout(() => gone.abort(), 150);
      await assert.rejects(asked, OpenAI.APIUserAbortError);
    });
  },

  // More questions at once than the server takes are refused without retries, and all answered with them.
  async crowds() {
    const crowd = (maxRetries, messages) =>
      Promise.allSettled(Array.from({ length: 6 }, () => ask(messages, {}, keyed('sesame', { maxRetries }))));
    const late = (await crowd(0, detail)).flatMap((result) => result.reason ?? []);
    assert(late.length > 0 && late.length < 6);
    for (const error of late) {
      assert.deepEqual([error.constructor, error.status, error.code], [OpenAI.InternalServerError, 503, 'overloaded']);
      assert(Number(error.headers.get('retry-after')) >= 1);
    }
    const patient = await crowd(30, biggest);
    assert.deepEqual(patient.map((result) => result.value && textOf(result.value)), Array(6).fill('blue cross'));
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  const since = Date.now();
  try {
    await check();
    console.log(`ok     ${name} (${((Date.now() - since) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed++;
    console.log(`FAILED ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
