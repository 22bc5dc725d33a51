/** Images that wait to be sent: chosen, pasted or dropped. */
import { make } from "./dom.js";

const TYPES = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

export class ImageTray {
  #images = []; // {name, url}: the bytes as a data URL, as the API takes them

  constructor(list, onProblem) {
    this.list = list;
    this.onProblem = onProblem;
  }

  /** Add files; says which are no images. */
  async add(files) {
    for (const file of files) {
      if (!TYPES.has(file.type)) {
        this.onProblem(`${file.name} is no PNG, JPEG, WebP or GIF`);
        continue;
      }
      this.#images.push({ name: file.name || "pasted image", url: await dataUrlOf(file) });
    }
    this.#draw();
  }

  /** All of them, and none is left. */
  take() {
    const taken = this.#images;
    this.#images = [];
    this.#draw();
    return taken;
  }

  get isEmpty() {
    return !this.#images.length;
  }

  #draw() {
    this.list.hidden = this.isEmpty;
    this.list.replaceChildren(...this.#images.map((image) => this.#item(image)));
  }

  #item(image) {
    const ariaLabel = `Remove ${image.name}`;
    const remove = make("button", { type: "button", textContent: "×", ariaLabel });
    remove.onclick = () => {
      this.#images = this.#images.filter((other) => other !== image);
      this.#draw();
    };
    return make("li", {}, make("img", { src: image.url, alt: image.name }), remove);
  }
}

function dataUrlOf(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
