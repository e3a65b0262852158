// Boxes that a person draws on the picture, or types: they go with the next question.

const $ = (id) => document.getElementById(id);

const MARK = /\{box ?(\d+)\}/g;
const LEAST = 4; // CSS pixels a drag must be long and high: less is a click

export const COLOR = "#ffd400";

let marks = []; // {image, box: [left, top, right, bottom] in shares of it, slice}

export const all = () => marks;

export function clear() {
  marks = [];
}

// What a server needs to write them into a question.
export const toSend = (given) => given.map(({ image: { width, height }, box }) => ({ box, width, height }));

// Those on what is in sight, as regions of picture.js.
export function regions(image, given = marks) {
  return given
    .map((mark, place) => ({ ...mark, label: `box ${place + 1}`, color: COLOR, asked: true }))
    .filter((mark) => mark.image === image && onSlice(mark.slice, sliceOf(image)));
}

// The slice of an image that is in sight; null where it has one only.
export function sliceOf(image) {
  if (!image?.slices || image.slices.frames === 1) return null;
  return { axis: image.view?.axis ?? "axial", number: image.slices.numbers[image.place] };
}

// Whether something that belongs to a slice, or to any, is seen on another.
export const onSlice = (slice, other) => !slice || (slice.axis === other?.axis && slice.number === other?.number);

// Why the boxes cannot go with a question now; "" where they can: a run must be shown the slice that a box is on.
export function problem() {
  for (const [place, { image, slice }] of marks.entries()) {
    const { axis = "axial", frames } = image.view ?? {};
    if (!slice || (slice.axis === axis && (typeof frames === "string" || frames === slice.number))) continue;
    return `Box ${place + 1} is on ${sliceWords(slice)}, which the run is not shown: turn back to it, or take the box away.`;
  }
  return "";
}

// A chip for each box; one more click takes it away.
export function chips(changed) {
  return marks.map((mark, place) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", className: "small chip" });
    chip.textContent = `box ${place + 1}: ${pixelWords(mark)} ×`;
    chip.title = "Take it away";
    chip.addEventListener("click", () => {
      remove(place);
      changed();
    });
    return chip;
  });
}

function remove(place) {
  marks = marks.toSpliced(place, 1);
  $("words").value = $("words").value.replaceAll(MARK, (mark, digits) => {
    const number = Number(digits) - 1;
    if (number === place) return "";
    return number > place ? `{box ${number}}` : mark;
  });
}

export function removeOf(image) {
  for (let place = marks.length - 1; place >= 0; place -= 1) if (marks[place].image === image) remove(place);
}

function pixelWords({ image, box, slice }) {
  const [left, top, right, bottom] = box.map((share, place) => Math.round(share * (place % 2 ? image.height : image.width)));
  return `${left}, ${top} to ${right}, ${bottom}${slice ? ` on ${sliceWords(slice)}` : ""}`;
}

const sliceWords = ({ axis, number }) => `${axis} slice ${number + 1}`;

function add(image, box) {
  marks = [...marks, { image, box, slice: sliceOf(image) }];
  const words = $("words");
  const before = words.value.slice(0, words.selectionStart);
  const after = words.value.slice(words.selectionEnd);
  const text = `${before && !/\s$/.test(before) ? " " : ""}{box ${marks.length}}${after && !/^[\s.,;:?!]/.test(after) ? " " : ""}`;
  words.setRangeText(text, words.selectionStart, words.selectionEnd, "end");
}

// The box that was typed in pixels: "120 40 300 200"; raises what is wrong with it.
function typed(text, { width, height }) {
  const numbers = text.split(/[\s,]+/).filter(Boolean).map(Number);
  if (numbers.length !== 4 || !numbers.every(Number.isFinite)) {
    throw new Error("A box is four numbers in pixels: left, top, right and bottom.");
  }
  const [left, top, right, bottom] = numbers;
  if (left >= right || top >= bottom) throw new Error("This box has no area: left must be below right, top below bottom.");
  if (left < 0 || top < 0 || right > width || bottom > height) {
    throw new Error(`This box is not within the image, which has ${width} × ${height} pixels.`);
  }
  return [left / width, top / height, right / width, bottom / height];
}

// shown returns the image in the viewer; changed is called after a box was added, failed with what is wrong.
export function listen(shown, changed, failed) {
  const canvas = $("picture");
  const frame = $("drag");
  let start = null; // where a drag began, in CSS pixels of the canvas

  const at = (event) => {
    const edges = canvas.getBoundingClientRect();
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    return [within(event.clientX - edges.left, edges.width), within(event.clientY - edges.top, edges.height)];
  };
  const sides = (event) => [at(event), start].reduce(([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)]);
  const stop = () => {
    start = null;
    frame.hidden = true;
  };

  canvas.addEventListener("pointerdown", (event) => {
    // A finger moves the page unless it was told to draw.
    const draws = event.pointerType !== "touch" || $("draw").getAttribute("aria-pressed") === "true";
    if (!shown() || !draws || event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    start = at(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [left, top, right, bottom] = sides(event);
    frame.hidden = false;
    Object.assign(frame.style, {
      left: `${canvas.offsetLeft + left}px`,
      top: `${canvas.offsetTop + top}px`,
      width: `${right - left}px`,
      height: `${bottom - top}px`,
    });
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const [left, top, right, bottom] = sides(event);
    stop();
    if (right - left < LEAST || bottom - top < LEAST) return;
    const { width, height } = canvas.getBoundingClientRect();
    add(shown(), [left / width, top / height, right / width, bottom / height]);
    changed();
  });
  canvas.addEventListener("pointercancel", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  $("draw").addEventListener("click", () => {
    const draws = $("draw").getAttribute("aria-pressed") !== "true";
    $("draw").setAttribute("aria-pressed", draws);
    canvas.classList.toggle("draws", draws);
  });
  $("mark").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      add(shown(), typed($("edges").value, shown()));
      $("edges").value = "";
      changed();
    } catch (error) {
      failed(error);
    }
  });
}

// The controls are there while an image is.
export function showControls(image) {
  $("mark").hidden = !image;
}
