// The list of open rooms, with the number of unread messages in each.
"use strict";

import { make, shownName } from "./text.js";

export class RoomList {
  /** `handlers`: `select(room)`, `close(room)`. */
  constructor(list, handlers) {
    Object.assign(this, { list, handlers });
    this.items = new Map(); // room → {item, open, badge}
  }

  add(room) {
    const badge = make("span.badge");
    const open = make("button.room", make("bdi", shownName(room.name)), badge);
    const close = make("button.icon.close", "×");
    open.title = shownName(room.name);
    for (const button of [open, close]) button.type = "button";
    close.setAttribute("aria-label", `Leave the room ${shownName(room.name)}`);
    close.title = "Leave this room";
    open.addEventListener("click", () => this.handlers.select(room));
    close.addEventListener("click", () => this.handlers.close(room));
    const item = make("li", open, close);
    this.items.set(room, { item, open, badge });
    this.list.append(item);
    this.refresh(room, false);
  }

  refresh(room, isCurrent) {
    const nodes = this.items.get(room);
    if (!nodes) return;
    const { item, open } = nodes;
    item.classList.toggle("waiting", !room.active);
    if (isCurrent) open.setAttribute("aria-current", "true");
    else open.removeAttribute("aria-current");
    this.refreshUnread(room);
  }

  refreshUnread(room) {
    const nodes = this.items.get(room);
    if (!nodes) return;
    const { item, badge } = nodes;
    const what = room.isMentioned ? " unread, you are mentioned" : " unread";
    const number = `${room.isMentioned ? "@ " : ""}${room.unread > 99 ? "99+" : room.unread}`;
    item.classList.toggle("unread", room.unread > 0);
    badge.hidden = room.unread === 0;
    if (badge.textContent !== number + what) badge.replaceChildren(number, make("span.visually-hidden", what));
  }

  remove(room) {
    this.items.get(room)?.item.remove();
    this.items.delete(room);
  }

  /** Focuses a room's button: false if the list does not have the room. */
  focus(room) {
    const nodes = this.items.get(room);
    nodes?.open.focus();
    return nodes !== undefined;
  }
}
