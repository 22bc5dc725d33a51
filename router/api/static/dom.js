/** An element with properties and children; strings become text, never markup. */
export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** Change what a scrolling element holds; who was at its end stays at its end. */
export function keepAtEnd(scroller, change) {
  const isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  change();
  if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
}
