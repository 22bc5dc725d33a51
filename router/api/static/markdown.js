/** What people expect to see of Markdown, as nodes. Words of the model only become text nodes. */
import { make } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^#{1,6}\s+(.*)$/;
const ITEM = /^\s{0,8}(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const MARKS = [["`", "code"], ["**", "strong"], ["*", "em"]]; // longer ones first

/** Nodes of a text that may still grow: a block of code without an end is one all the same. */
export function markdown(text) {
  const nodes = [];
  const lines = text.split("\n");
  let at = 0;
  while (at < lines.length) {
    const block =
      readCode(lines, at) ?? readHeading(lines, at) ?? readList(lines, at) ?? readWords(lines, at);
    if (block.node) nodes.push(block.node);
    at = block.next;
  }
  return nodes;
}

function readCode(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]) ?? [];
  if (!fence) return null;
  let end = at + 1;
  while (end < lines.length && !isEndOf(lines[end], fence)) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  const copy = make("button", { type: "button", textContent: "Copy" });
  copy.onclick = () => copyFor(copy, code);
  copy.hidden = !navigator.clipboard; // only where the page is trusted: loopback or TLS
  const pre = make("pre", { tabIndex: 0 }, make("code", {}, code));
  const node = make("div", { className: "code" }, pre, copy);
  if (language) node.dataset.language = language;
  return { node, next: end + 1 };
}

function isEndOf(line, fence) {
  const trimmed = line.trim();
  return trimmed.length >= fence.length && trimmed === fence[0].repeat(trimmed.length);
}

async function copyFor(button, code) {
  try {
    await navigator.clipboard.writeText(code);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
}

function readHeading(lines, at) {
  const [, words] = HEADING.exec(lines[at]) ?? [];
  return words === undefined ? null : { node: withInline(make("h3"), words), next: at + 1 };
}

function readList(lines, at) {
  const first = ITEM.exec(lines[at]);
  if (!first) return null;
  const node = make(first[1] ? "ol" : "ul");
  if (first[1]) node.start = Number(first[1]);
  let next = at;
  for (let item = first; item; item = next < lines.length ? ITEM.exec(lines[next]) : null) {
    if (Boolean(item[1]) !== Boolean(first[1])) break;
    node.append(withInline(make("li"), item[2]));
    next += 1;
  }
  return { node, next };
}

function readWords(lines, at) {
  let end = at;
  while (end < lines.length && lines[end].trim()) {
    if (end > at && beginsBlock(lines[end])) break;
    end += 1;
  }
  if (end === at) return { node: null, next: at + 1 };
  return { node: withInline(make("p"), lines.slice(at, end).join("\n")), next: end };
}

const beginsBlock = (line) => FENCE.test(line) || HEADING.test(line) || ITEM.test(line);

/** Code, bold and italics. A mark that closes nowhere is looked for once: time stays linear. */
function withInline(parent, text) {
  const unclosed = new Set();
  let shown = 0;
  let at = 0;
  while (at < text.length) {
    const span = readSpan(text, at, unclosed);
    if (!span) {
      at += 1;
      continue;
    }
    parent.append(text.slice(shown, at));
    const { tag, inner } = span;
    parent.append(tag === "code" ? make(tag, {}, inner) : withInline(make(tag), inner));
    shown = at = span.next;
  }
  parent.append(text.slice(shown));
  return parent;
}

function readSpan(text, at, unclosed) {
  const found = MARKS.find(([mark]) => text.startsWith(mark, at));
  if (!found || unclosed.has(found[0])) return null;
  const [mark, tag] = found;
  const from = at + mark.length;
  const end = text.indexOf(mark, from);
  if (end < 0) unclosed.add(mark);
  const inner = text.slice(from, Math.max(end, from));
  if (!inner || (tag !== "code" && inner !== inner.trim())) return null; // 2 * 3 * 4: no italics
  return { tag, inner, next: end + mark.length };
}
