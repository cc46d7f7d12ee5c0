// A panel that is part of the layout on a wide screen, and opens over the page on a narrow one.
"use strict";

const backdrop = document.getElementById("backdrop");

export class Drawer {
  /** `narrow`: the media query of the screens on which the panel is a drawer. */
  constructor(button, panel, narrow) {
    Object.assign(this, { button, panel });
    this.closeButton = panel.querySelector(".close-panel");
    this.background = [...panel.parentElement.children].filter((child) => child !== panel && child !== backdrop);
    this.narrow = matchMedia(narrow);
    button.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    for (const closer of [backdrop, this.closeButton]) closer.addEventListener("click", () => this.close());
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
    // The rest of the page is inert while the drawer is open.
    for (const child of this.background) child.inert = true;
    (this.panel.querySelector("[aria-current]") ?? this.closeButton).focus();
  }

  close(restoreFocus = true) {
    if (!this.isOpen) return;
    this.panel.classList.remove("open");
    this.button.setAttribute("aria-expanded", "false");
    backdrop.hidden = true;
    for (const child of this.background) child.inert = false;
    if (restoreFocus) this.button.focus();
  }
}
