// A panel that is always there on a wide screen, and comes over the page on a narrow one.
"use strict";

const backdrop = document.getElementById("backdrop");

export class Drawer {
  /** `narrow`: the media query for the screens on which it is a drawer. */
  constructor(button, panel, narrow) {
    Object.assign(this, { button, panel });
    this.shut = panel.querySelector(".shut");
    this.behind = [...panel.parentElement.children].filter((one) => one !== panel && one !== backdrop);
    this.narrow = matchMedia(narrow);
    button.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    for (const closer of [backdrop, this.shut]) closer.addEventListener("click", () => this.close());
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
    for (const one of this.behind) one.inert = true;
    (this.panel.querySelector("[aria-current]") ?? this.shut).focus();
  }

  close(giveFocusBack = true) {
    if (!this.isOpen) return;
    this.panel.classList.remove("open");
    this.button.setAttribute("aria-expanded", "false");
    backdrop.hidden = true;
    for (const one of this.behind) one.inert = false;
    if (giveFocusBack) this.button.focus();
  }
}
