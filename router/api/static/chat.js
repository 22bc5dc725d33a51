/** The chat page: a conversation in memory, sent anew with every question. */
import { Answer, whoAnswered } from "./answer.js";
import { ApiError, chat, getJson } from "./api.js";
import { byId, make } from "./dom.js";
import { ImageTray } from "./images.js";
import { Settings } from "./settings.js";
import { AnswerView, userTurn } from "./view.js";

const log = byId("log");
const prompt = byId("prompt");
const welcome = byId("welcome");
const settings = new Settings(findModel);
const tray = new ImageTray(byId("images"), say);

let model = "";
let messages = []; // of the conversation, as the API takes them
let running = null; // AbortController of the answer that is being made
let asked = null; // {calls, view} of tools whose results the user has not given yet

/** Learn what is served; asks for a key where one is needed. */
async function findModel() {
  try {
    const [served] = (await getJson("v1/models", settings.key)).data;
    model = served.id;
    byId("model").textContent = served.id;
    byId("model").title = `${served.id}, up to ${served.max_model_len} tokens`;
    byId("add-image").hidden = !served.capabilities.vision;
    offerEfforts(served.reasoning_efforts);
    say("");
  } catch (error) {
    explain(error);
  }
}

function offerEfforts(efforts) {
  const select = byId("effort");
  const chosen = select.value;
  const options = efforts.map((effort) => make("option", { value: effort, textContent: effort }));
  select.replaceChildren(make("option", { value: "", textContent: "default" }), ...options);
  select.value = efforts.includes(chosen) ? chosen : "";
  byId("effort-field").hidden = !efforts.length;
}

function say(words) {
  byId("state").textContent = words;
}

/** What went wrong, in words; a missing key opens the settings. */
function explain(error) {
  const words = error instanceof ApiError ? error.message : `${error.name}: ${error.message}`;
  if (error.status === 401) settings.open();
  say(error.status === 401 ? "an API key is needed" : words);
  return words;
}

function setRunning(controller) {
  running = controller;
  byId("send").hidden = Boolean(controller);
  byId("stop").hidden = !controller;
  log.ariaBusy = String(Boolean(controller));
}

function show(turn) {
  welcome.remove();
  log.append(turn);
  log.scrollTop = log.scrollHeight;
}

function send() {
  const text = prompt.value.trim();
  if (running || (!text && tray.isEmpty)) return;
  const fields = settings.fields;
  if (!fields) return;
  giveResults();
  const images = tray.take();
  const parts = images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  if (parts.length && text) parts.push({ type: "text", text });
  const content = parts.length ? parts : text;
  messages.push({ role: "user", content });
  show(userTurn(text, images));
  prompt.value = "";
  fitPrompt();
  answer(fields);
}

/** A model that has called tools must be told what they gave before anything else. */
function giveResults() {
  if (!asked) return;
  const results = asked.view.closeResults();
  const given = asked.calls.map(({ id }, index) => ({
    role: "tool",
    tool_call_id: id,
    content: results[index] || "no result",
  }));
  messages.push(...given);
  asked = null;
}

async function answer(fields) {
  const conversation = messages;
  const view = new AnswerView(log);
  const controller = new AbortController();
  show(view.root);
  setRunning(controller);
  say("");
  const before = await lookAtCluster();
  const made = new Answer(performance.now());
  try {
    const body = { model, messages: conversation, ...fields };
    for await (const chunk of chat(body, settings.key, controller.signal)) {
      made.take(chunk, performance.now());
      view.update(made);
    }
  } catch (error) {
    if (!controller.signal.aborted) return failed(view, made, error, fields, conversation);
    made.reason = "stopped";
  } finally {
    if (running === controller) setRunning(null);
  }
  if (conversation !== messages) return; // a new one has begun meanwhile
  view.finish(made);
  const message = made.message;
  if (message) messages.push(message);
  if (message?.tool_calls) askForResults(made.calls, view);
  else prompt.focus();
  const who = whoAnswered(before, await lookAtCluster());
  if (who) view.showShards(who);
}

function failed(view, made, error, fields, conversation) {
  if (conversation !== messages) return;
  view.update(made);
  view.fail(explain(error), () => {
    if (running || conversation !== messages || view.root !== log.lastElementChild) return;
    view.root.remove();
    answer(fields);
  });
}

function askForResults(calls, view) {
  asked = { calls, view };
  view.askForResults(() => {
    const fields = settings.fields;
    if (running || !fields) return;
    giveResults();
    answer(fields);
  });
}

/** Which shards serve and what they have computed; null where that cannot be told. */
async function lookAtCluster() {
  try {
    return await getJson("v1/cluster", settings.key);
  } catch {
    return null;
  }
}

function begin() {
  running?.abort();
  setRunning(null);
  messages = [];
  asked = null;
  tray.take();
  log.replaceChildren(welcome);
  say("");
  prompt.focus();
}

async function addImages(files) {
  if (byId("add-image").hidden) return say("this model takes no images");
  say("");
  await tray.add(files);
}

function fitPrompt() {
  prompt.rows = Math.min(Math.max(prompt.value.split("\n").length, 1), 10);
}

prompt.oninput = fitPrompt;
prompt.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
};
document.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
};
byId("composer").onsubmit = (event) => {
  event.preventDefault();
  send();
};
byId("stop").onclick = () => running?.abort();
byId("new-chat").onclick = begin;
byId("add-image").onclick = () => byId("image-file").click();
byId("image-file").onchange = async (event) => {
  await addImages(event.target.files);
  event.target.value = "";
};
prompt.onpaste = (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  addImages(files);
};
document.ondragover = (event) => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
};
document.ondrop = (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  addImages(event.dataTransfer.files);
};
findModel();
prompt.focus();
