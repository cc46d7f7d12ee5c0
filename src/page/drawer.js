// A panel that is always there on a wide screen, and comes over the page on a narrow one.
"use strict";

const backdrop = document.getElementById("backdrop");
const behind = document.getElementById("room");

export class Drawer {
  /** `narrow`: the media query for the screens on which it is a drawer. */
  constructor(button, panel, narrow) {
    Object.assign(this, { button, panel });
    this.narrow = matchMedia(narrow);
    button.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    backdrop.addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.narrow.addEventListener("change", () => this.close(false));
  }

  get isOpen() {
    return this.panel.classList.contains("open");
  }

  open() {
    if (!this.narrow.matches) return;
    this.panel.classList.add("open");
    this.button.setAttribute("aria-expanded", "true");
    backdrop.hidden = false;
    // What lies behind cannot be reached until it is closed.
    behind.inert = true;
    const first = this.panel.querySelector("[aria-current], button, input") ?? this.panel;
    if (first === this.panel) first.tabIndex = -1;
    first.focus();
  }

  close(giveFocusBack = true) {
    if (!this.isOpen) return;
    this.panel.classList.remove("open");
    this.button.setAttribute("aria-expanded", "false");
    backdrop.hidden = true;
    behind.inert = false;
    if (giveFocusBack) this.button.focus();
  }
}
