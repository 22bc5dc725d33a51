/** Calls to the server that this page came from. */

const TIMEOUT_MS = 5000;

/** What the server, or the way to it, said. `status` 0: there was no answer. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** GET of JSON, within a few seconds. */
export async function getJson(path, key) {
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const response = await call(path, { headers: headersFor(key), signal });
  return await response.json();
}

/** Chunks of a streamed chat completion, until its end; aborted by `signal`. */
export async function* chat(body, key, signal) {
  const headers = { ...headersFor(key), "Content-Type": "application/json" };
  const options = { include_usage: true };
  const request = { ...body, stream: true, stream_options: options };
  const response = await call("v1/chat/completions", {
    method: "POST",
    headers,
    body: JSON.stringify(request),
    signal,
  });
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 200);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
  }
  throw new ApiError("the answer broke off");
}

const headersFor = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function call(path, options) {
  let response;
  try {
    // Without credentials no browser asks for a password where a key is wanted.
    response = await fetch(path, { ...options, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const isLate = error.name === "TimeoutError";
    throw new ApiError(isLate ? "the server gave no answer" : "the server cannot be reached");
  }
  if (!response.ok) throw new ApiError(await problemOf(response), response.status);
  return response;
}

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `status ${response.status}`;
  }
}

/** Data of server-sent events. */
async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}
