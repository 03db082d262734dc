// Makes the calls that its standard input lists, and prints what the SDKs made of the answers.
// A case: {id, library, base, key, style, calls, model, max}: plain calls, then one in its style.
// It prints {id: {ok} or {error}} of the last.
import { readFileSync } from 'node:fs';

const SDKS = {
  openai: (await import('openai')).default,
  'openai-oldest': (await import('openai-oldest')).default,
  anthropic: (await import('@anthropic-ai/sdk')).default,
  'anthropic-oldest': (await import('anthropic-oldest')).default,
};
const MESSAGES = [{ role: 'user', content: 'one two three' }];

function openai(client, { style, model, max }) {
  const ask = { model, messages: MESSAGES, ...(max && { max_tokens: max }) };
  const completions = client.chat.completions;
  return {
    unary: async () => ({ output: (await completions.create(ask)).usage.completion_tokens }),
    stream: async () => {
      const seen = { texts: 0, finish: null, output: null };
      for await (const chunk of await completions.create({
        ...ask, stream: true, stream_options: { include_usage: true },
      })) {
        seen.finish = chunk.choices[0]?.finish_reason ?? seen.finish;
        seen.texts += chunk.choices[0]?.delta.content ? 1 : 0;
        seen.output = chunk.usage?.completion_tokens ?? seen.output;
      }
      return seen;
    },
    raw: async () => {
      const { data, response } = await completions.create(ask).withResponse();
      return { output: data.usage.completion_tokens, limits: response.headers.get('ratelimit') };
    },
  }[style];
}

function anthropic(client, { style, model, max }) {
  const ask = { model, messages: MESSAGES, max_tokens: max ?? 40 };
  return {
    unary: async () => ({ output: (await client.messages.create(ask)).usage.output_tokens }),
    stream: async () => {
      const seen = { texts: 0, finish: null, output: null };
      for await (const event of await client.messages.create({ ...ask, stream: true })) {
        seen.texts += event.type === 'content_block_delta' ? 1 : 0;
        seen.finish = event.delta?.stop_reason ?? seen.finish;
        seen.output = event.usage?.output_tokens ?? seen.output;
      }
      return seen;
    },
    helper: async () => {
      const final = await client.messages.stream(ask).finalMessage();
      return { output: final.usage.output_tokens, finish: final.stop_reason };
    },
    raw: async () => {
      const { data, response } = await client.messages.create(ask).withResponse();
      return { output: data.usage.output_tokens, limits: response.headers.get('ratelimit') };
    },
  }[style];
}

function told(error) {
  const headers = error.headers ?? {};
  const header = (name) => (typeof headers.get === 'function' ? headers.get(name) : headers[name]) ?? null;
  const body = error.error?.error ?? error.error ?? {};
  return {
    error: error.constructor.name,
    status: error.status ?? null,
    code: error.code ?? body.code ?? null,
    type: body.type ?? error.type ?? null,
    message: error.message,
    retry_after: header('retry-after'),
  };
}

async function run(each) {
  const Client = SDKS[each.library];
  const flavor = each.library.split('-')[0];
  const baseURL = flavor === 'openai' ? `${each.base}/v1` : each.base;
  const defaultHeaders = { 'x-case': each.id };
  const client = new Client({ apiKey: each.key, baseURL, defaultHeaders, maxRetries: 2 });
  const call = (style) => (flavor === 'openai' ? openai : anthropic)(client, { ...each, style })();
  try {
    for (let left = each.calls; left > 1; left--) await call('unary');
    return { ok: await call(each.style) };
  } catch (error) {
    return told(error);
  }
}

const cases = JSON.parse(readFileSync(0, 'utf8'));
const seen = await Promise.all(cases.map(async (each) => [each.id, await run(each)]));
process.stdout.write(JSON.stringify(Object.fromEntries(seen)));
