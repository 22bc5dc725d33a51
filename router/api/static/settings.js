/** The key and the wishes of the user. The key is kept in this tab's session storage only. */
import { byId } from "./dom.js";

const KEY = "galerne-api-key";
const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "get weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

export class Settings {
  #keyField = byId("api-key");
  #tools = byId("tools");

  constructor(onKey) {
    this.#keyField.value = sessionStorage.getItem(KEY) ?? "";
    this.#keyField.onchange = () => {
      const key = this.#keyField.value.trim();
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
      onKey();
    };
    byId("settings-button").onclick = () => this.open(byId("settings").hidden);
    byId("tools-example").onclick = () => {
      this.#tools.value = JSON.stringify(EXAMPLE, null, 2);
      byId("tools-problem").textContent = "";
    };
  }

  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  open(isOpen = true) {
    byId("settings").hidden = !isOpen;
    byId("settings-button").ariaExpanded = String(isOpen);
    if (isOpen) this.#keyField.focus();
  }

  /** Fields of a request; null, and the reason is shown, where the tools cannot be read. */
  get fields() {
    const fields = {};
    const maxTokens = byId("max-tokens").valueAsNumber;
    const temperature = byId("temperature").valueAsNumber;
    if (!Number.isNaN(maxTokens)) fields.max_tokens = maxTokens;
    if (!Number.isNaN(temperature)) fields.temperature = temperature;
    if (byId("effort").value) fields.reasoning_effort = byId("effort").value;
    const tools = this.#parsedTools();
    if (tools === null) return null;
    return tools.length ? { ...fields, tools } : fields;
  }

  #parsedTools() {
    const problem = byId("tools-problem");
    problem.textContent = "";
    const text = this.#tools.value.trim();
    if (!text) return [];
    try {
      const tools = JSON.parse(text);
      if (Array.isArray(tools)) return tools;
      problem.textContent = "Tools must be a list: [ … ]";
    } catch (error) {
      problem.textContent = `Tools are not JSON: ${error.message}`;
    }
    this.open();
    this.#tools.focus();
    return null;
  }
}
