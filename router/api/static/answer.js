/** One answer as it grows, and what is to be said about it. Knows neither page nor network. */

const number = new Intl.NumberFormat("en");

export class Answer {
  constructor(askedMs) {
    this.askedMs = askedMs;
    this.firstMs = null; // when the first part of it came
    this.lastMs = null;
    this.reasoning = "";
    this.content = "";
    this.calls = []; // {id, name, args}
    this.reason = ""; // why it ended, as the server says; "stopped": by the user
    this.usage = null;
  }

  /** Take in a chunk of the stream. */
  take(chunk, nowMs) {
    this.usage = chunk.usage ?? this.usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    const { delta } = choice;
    const reasoning = delta.reasoning_content ?? "";
    const content = delta.content ?? "";
    const calls = delta.tool_calls ?? [];
    this.reasoning += reasoning;
    this.content += content;
    for (const call of calls) this.#takeCall(call);
    if (reasoning || content || calls.length) this.firstMs ??= nowMs;
    if (choice.finish_reason) this.reason = choice.finish_reason;
    this.lastMs = nowMs;
  }

  #takeCall({ index, id, function: said }) {
    const call = (this.calls[index] ??= { id: "", name: "", args: "" });
    call.id = id ?? call.id;
    call.name += said.name ?? "";
    call.args += said.arguments ?? "";
  }

  /**
   * The turn as it is sent back with the next question. Calls that were cut off are left out;
   * null where there is nothing but thoughts.
   */
  get message() {
    const isCalling = this.reason === "tool_calls";
    if (!this.content && !isCalling) return null;
    const message = { role: "assistant", content: this.content };
    if (this.reasoning) message.reasoning_content = this.reasoning;
    if (isCalling) message.tool_calls = this.calls.map(asSent);
    return message;
  }

  /** Times and tokens, as short sentences. */
  get facts() {
    const facts = [];
    if (this.firstMs !== null) {
      facts.push(`first token after ${seconds(this.firstMs - this.askedMs)}`);
    }
    if (this.usage) facts.push(...usageFacts(this.usage, this.lastMs - this.firstMs));
    if (this.reason === "length") facts.push("cut at the longest length");
    if (this.reason === "stopped") facts.push("stopped by you");
    return facts;
  }
}

const asSent = ({ id, name, args }) => ({
  id,
  type: "function",
  function: { name, arguments: args },
});

function usageFacts(usage, spanMs) {
  const facts = [];
  const { completion_tokens: made, prompt_tokens: given } = usage;
  if (made > 1 && spanMs > 0) {
    facts.push(`${number.format(Math.round(((made - 1) * 1000) / spanMs))} tokens/s`);
  }
  const thought = usage.completion_tokens_details?.reasoning_tokens;
  facts.push(`${number.format(made)} tokens${ofThem(thought, "reasoning")}`);
  const cached = usage.prompt_tokens_details?.cached_tokens;
  facts.push(`prompt ${number.format(given)}${ofThem(cached, "cached")}`);
  return facts;
}

const ofThem = (count, what) => (count ? `, ${number.format(count)} of them ${what}` : "");

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

/** Who computed between two looks at the cluster: `{shards: [words], note}`; null: nobody knows. */
export function whoAnswered(before, after) {
  if (!after) return null;
  const gateways = after.gateways.join(", ");
  const epoch = epochWords(before, after);
  if (!after.shards.length) return { shards: [], note: `experts in ${gateways} · ${epoch}` };
  const rowsBefore = new Map((before?.shards ?? []).map((shard) => [shard.id, shard.rows ?? 0]));
  const shards = after.shards
    // One that began anew counts from zero.
    .map(({ id, rows }) => ({ id, rows: grown(rowsBefore.get(id) ?? 0, rows ?? 0) }))
    .filter(({ rows }) => rows > 0)
    .map(({ id, rows }) => `${id} · ${number.format(rows)}`);
  const what = shards.length ? "tokens × experts meanwhile" : "no shard";
  return { shards, note: `${what}, by ${after.transport} from ${gateways} · ${epoch}` };
}

function epochWords(before, after) {
  const isSame = !before || before.epoch === after.epoch;
  return isSame ? `epoch ${after.epoch}` : `epochs ${before.epoch} to ${after.epoch}`;
}

const grown = (from, to) => (to >= from ? to - from : to);
