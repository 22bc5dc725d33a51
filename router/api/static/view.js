/** Turns of the conversation as they are shown. */
import { keepAtEnd, make } from "./dom.js";
import { markdown } from "./markdown.js";

/** What the user said, with small pictures. */
export function userTurn(text, images) {
  const pictures = images.map(({ name, url }) => make("img", { src: url, alt: name }));
  const thumbs = pictures.map((picture) => make("li", {}, picture));
  return make(
    "article",
    { className: "turn user" },
    make("h2", { textContent: "You" }),
    ...(thumbs.length ? [make("ul", { className: "thumbs" }, ...thumbs)] : []),
    make("div", { className: "words", textContent: text }),
  );
}

/** An answer: reasoning apart, words, calls of tools, facts. Drawn at most once a frame. */
export class AnswerView {
  #answer = null;
  #frame = 0;
  #shown = { reasoning: "", content: "" };
  #calls = []; // {root, name, args, result}: elements
  #thought = null;
  #isReasoningSettled = false; // the user, or the first word of the answer, has opened or closed it

  constructor(scroller) {
    this.scroller = scroller;
    this.words = make("div", { className: "words waiting" });
    const title = make("h2", { textContent: "Model" });
    this.root = make("article", { className: "turn assistant" }, title, this.words);
  }

  /** Show how far the answer has come, soon. */
  update(answer) {
    this.#answer = answer;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  /** It has ended. */
  finish(answer) {
    this.#answer = answer;
    cancelAnimationFrame(this.#frame);
    this.#draw();
    keepAtEnd(this.scroller, () => {
      this.words.classList.remove("waiting");
      const facts = answer.facts.map((fact) => make("li", {}, fact));
      this.root.append(make("ul", { className: "facts" }, ...facts));
    });
  }

  /** It has failed; `retry` asks again. */
  fail(problem, retry) {
    const again = make("button", { type: "button", textContent: "Try again", onclick: retry });
    this.words.classList.remove("waiting");
    keepAtEnd(this.scroller, () =>
      this.root.append(make("p", { className: "problem", role: "alert" }, problem, again)),
    );
  }

  /** Which shards computed; see `whoAnswered`. */
  showShards({ shards, note }) {
    const items = shards.map((words) => make("li", {}, words));
    const list = make("ul", { className: "shards", ariaLabel: "Shards that answered" }, ...items);
    list.append(make("li", { className: "dim" }, note));
    keepAtEnd(this.scroller, () => this.root.append(list));
  }

  /** Have the user say what the tools gave; `send` is called when that is done. */
  askForResults(send) {
    for (const call of this.#calls) {
      call.result = make("input", { type: "text", placeholder: "what the tool gave" });
      const label = make("label", { className: "result" }, make("span", {}, "Result"), call.result);
      call.root.append(label);
    }
    const button = make("button", { type: "button", className: "send-results" }, "Send results");
    button.onclick = send;
    this.root.append(button);
    for (const call of this.#calls) {
      call.result.onkeydown = (event) => {
        if (event.key === "Enter" && !event.isComposing) button.click();
      };
    }
    this.#calls[0].result.focus();
  }

  /** The results, one per call; they can no longer be changed. */
  closeResults() {
    this.root.querySelector(".send-results")?.remove();
    return this.#calls.map(({ result }) => {
      result.readOnly = true;
      return result.value;
    });
  }

  #draw() {
    this.#frame = 0;
    const { reasoning, content, calls } = this.#answer;
    keepAtEnd(this.scroller, () => {
      if (reasoning !== this.#shown.reasoning) this.#drawReasoning(reasoning);
      if (content !== this.#shown.content) this.#drawContent(content);
      calls.forEach((call, index) => this.#drawCall(call, index));
    });
    this.#shown = { reasoning, content };
  }

  #drawReasoning(text) {
    if (!this.#thought) {
      this.#thought = make("div", { className: "thought", tabIndex: 0 });
      const summary = make("summary", {}, "Reasoning");
      summary.onclick = () => (this.#isReasoningSettled = true);
      const parts = [summary, this.#thought];
      this.words.before(make("details", { className: "reasoning", open: true }, ...parts));
    }
    keepAtEnd(this.#thought, () => (this.#thought.textContent = text));
  }

  #drawContent(text) {
    this.words.replaceChildren(...markdown(text));
    if (this.#thought && !this.#isReasoningSettled) this.#thought.parentElement.open = false;
    this.#isReasoningSettled = true;
  }

  #drawCall({ name, args }, index) {
    const call = (this.#calls[index] ??= this.#makeCall());
    call.name.textContent = name;
    call.args.textContent = args;
  }

  #makeCall() {
    const name = make("b");
    const args = make("code");
    const summary = make("summary", {}, "Calls ", name);
    const pre = make("pre", { tabIndex: 0 }, args);
    const root = make("details", { className: "call", open: true }, summary, pre);
    this.root.append(root);
    return { root, name, args, result: null };
  }
}
