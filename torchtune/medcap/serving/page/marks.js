// What a person marks on the picture for the next question: boxes and regions. Words name them, as {box 1} or {region 2}.

import { $, make } from "./dom.js";

const LETTERS = { box: "Box", region: "Region" };

// The slice of an image that is in sight; null where it has one only.
export function sliceOf(image) {
  if (!image?.slices || image.slices.frames === 1) return null;
  return { axis: image.view?.axis ?? "axial", number: image.slices.numbers[image.place] };
}

// Whether something that belongs to a slice, or to any, is seen on another.
export const onSlice = (slice, other) => !slice || (slice.axis === other?.axis && slice.number === other?.number);

export class Marks {
  // name: "box" or "region"; color: of the lines; tell: one mark -> where it is, in words.
  constructor(name, color, tell) {
    this.name = name;
    this.color = color;
    this.tell = tell;
    this.all = []; // {image, slice, ...}
  }

  clear() {
    this.all = [];
  }

  // Adds a mark on what is in sight of an image, and names it where the cursor is.
  add(image, mark) {
    this.all = [...this.all, { ...mark, image, slice: sliceOf(image) }];
    const field = $("words");
    const before = field.value.slice(0, field.selectionStart);
    const after = field.value.slice(field.selectionEnd);
    const name = `{${this.name} ${this.all.length}}`;
    const text = `${before && !/\s$/.test(before) ? " " : ""}${name}${after && !/^[\s.,;:?!]/.test(after) ? " " : ""}`;
    field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
  }

  // Puts another in the place of the last mark.
  replaceLast(mark) {
    this.all = this.all.with(-1, { ...this.all.at(-1), ...mark });
  }

  remove(place) {
    this.all = this.all.toSpliced(place, 1);
    $("words").value = $("words").value.replaceAll(new RegExp(`\\{${this.name} ?(\\d+)\\}`, "g"), (mark, digits) => {
      const number = Number(digits) - 1;
      if (number === place) return "";
      return number > place ? `{${this.name} ${number}}` : mark;
    });
  }

  removeOf(image) {
    for (let place = this.all.length - 1; place >= 0; place -= 1) if (this.all[place].image === image) this.remove(place);
  }

  // Those on what is in sight, as regions of picture.js.
  inSight(image, given = this.all) {
    return given
      .map((mark, place) => ({ ...mark, label: `${this.name} ${place + 1}`, color: this.color, asked: true }))
      .filter((mark) => mark.image === image && onSlice(mark.slice, sliceOf(image)));
  }

  // Why they cannot go with a question now; "" where they can: a run must be shown the slice that a mark is on.
  problem() {
    for (const [place, { image, slice }] of this.all.entries()) {
      const { axis = "axial", frames } = image.view ?? {};
      if (!slice || (slice.axis === axis && (typeof frames === "string" || frames === slice.number))) continue;
      const name = `${LETTERS[this.name]} ${place + 1}`;
      return `${name} is on ${sliceWords(slice)}, which the run is not shown: turn back to it, or take the ${this.name} away.`;
    }
    return "";
  }

  // A chip for each; one more click takes it away.
  chips(changed) {
    return this.all.map((mark, place) => {
      const chip = make("button", { type: "button", className: "small chip" });
      const where = mark.slice ? ` on ${sliceWords(mark.slice)}` : "";
      chip.textContent = `${this.name} ${place + 1}: ${this.tell(mark)}${where} ×`;
      chip.title = "Take it away";
      chip.addEventListener("click", () => {
        this.remove(place);
        changed();
      });
      return chip;
    });
  }
}

const sliceWords = ({ axis, number }) => `${axis} slice ${number + 1}`;
